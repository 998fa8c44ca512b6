"""Reading strictly, refusing with a remedy, and writing what can be read again."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from policies.openvla_oft import CheckpointError, OpenVLAOFTPolicy, load
from policies.openvla_oft.checkpoint import INDEX


@pytest.fixture
def saved(tiny_policy, tmp_path):
    tiny_policy.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def released(recorded, tmp_path):
    """A writable copy of the released-format LIBERO checkpoint."""
    return shutil.copytree(recorded.root / "libero_bf16", tmp_path / "released")


def edit_json(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def assert_same_policy(a: OpenVLAOFTPolicy, b: OpenVLAOFTPolicy) -> None:
    assert a.config == b.config
    assert a.norm_stats == b.norm_stats
    assert a.unnorm_key == b.unnorm_key
    states = a.model.state_dict(), b.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_round_trip(tiny_policy, tiny_inputs, saved):
    loaded = load(saved)
    assert_same_policy(tiny_policy, loaded)
    with torch.no_grad():
        assert torch.equal(loaded.action_logits(tiny_inputs), tiny_policy.action_logits(tiny_inputs))
    np.testing.assert_array_equal(
        loaded.processor.prompt_ids("new words"), tiny_policy.processor.prompt_ids("new words")
    )


def test_shards(tiny_policy, tmp_path):
    tiny_policy.save_pretrained(tmp_path / "sharded", max_shard_bytes=1_000_000)
    index = json.loads((tmp_path / "sharded" / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 3
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in tiny_policy.model.parameters())
    assert_same_policy(tiny_policy, load(tmp_path / "sharded"))


def test_released_checkpoint_survives_saving(recorded, tmp_path):
    for name in ("libero_bf16", "robotwin_bf16"):
        policy = recorded.policy(name, dtype=torch.bfloat16)
        policy.save(tmp_path / name)
        original = json.loads((recorded.root / name / "config.json").read_text())
        written = json.loads((tmp_path / name / "config.json").read_text())
        kept = set(original) - {"auto_map", "norm_stats"}
        assert {key: written[key] for key in kept - {"text_config"}} == {
            key: original[key] for key in kept - {"text_config"}
        }
        assert original["text_config"].items() <= written["text_config"].items()
        for file in ("dataset_statistics.json", "preprocessor_config.json"):
            assert json.loads((tmp_path / name / file).read_text()) == json.loads(
                (recorded.root / name / file).read_text()
            )
        for file in (
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "tokenizer.model",
        ):
            assert (tmp_path / name / file).read_bytes() == (recorded.root / name / file).read_bytes()
        again = load(tmp_path / name, dtype=torch.bfloat16)
        assert_same_policy(policy, again)
        assert not (tmp_path / name / "proprio_projector--50000_checkpoint.pt").exists()


def test_dtypes(saved, tmp_path):
    policy = load(saved, dtype=torch.bfloat16)
    assert {p.dtype for p in policy.model.parameters()} == {torch.bfloat16}
    policy.save_pretrained(tmp_path / "half")
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_loaded_weights_do_not_alias_the_file(saved):
    policy = load(saved)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.zero_()
    assert load(saved).model.projector.fc1.weight.abs().sum() > 0


def test_action_space_follows_the_statistics(recorded):
    libero, robotwin = recorded.policy("libero_bf16").config, recorded.policy("robotwin_bf16").config
    assert (libero.chunk_size, libero.action_dim, libero.action_normalization) == (8, 7, "q99")
    assert (robotwin.chunk_size, robotwin.action_dim, robotwin.action_normalization) == (25, 14, "bounds")
    assert (libero.use_proprio, robotwin.use_proprio) == (False, True)
    assert recorded.policy("libero_bf16", chunk_size=5).config.num_action_tokens == 35


def test_wrong_tensors_are_listed(saved):
    file = saved / "model.safetensors"
    state = load_file(file)
    state.pop("projector.fc1.bias")
    state["value_head.weight"] = torch.zeros(3)
    state["projector.fc3.bias"] = torch.zeros(5)
    save_file(state, file)
    with pytest.raises(CheckpointError) as refusal:
        load(saved)
    message = str(refusal.value)
    assert "1 missing: projector.fc1.bias" in message
    assert "1 unexpected: value_head.weight" in message
    assert "1 mis-shaped: projector.fc3.bias [5] instead of [128]" in message


def test_truncated_weights_are_refused(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load(saved)


def test_truncated_config_is_refused(saved):
    (saved / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load(saved)


def test_missing_shard_is_named(released):
    (released / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        load(released, unnorm_key="libero_10")


def test_regression_head_is_refused(released):
    (released / "action_head--150000_checkpoint.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="discrete action tokens"):
        load(released, unnorm_key="libero_10")


def test_regression_head_among_the_weights_is_refused(saved):
    state = load_file(saved / "model.safetensors")
    state["action_head.model.fc1.weight"] = torch.zeros(3)
    save_file(state, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="discrete action tokens"):
        load(saved)


@pytest.mark.parametrize("unnorm_key", ["libero_10", None])
def test_missing_statistics_are_refused_with_the_remedy(released, unnorm_key):
    (released / "dataset_statistics.json").unlink()
    with pytest.raises(CheckpointError, match=r"pre-training statistics.*Copy dataset_statistics.json"):
        load(released, unnorm_key=unnorm_key)


def test_no_statistics_at_all(released):
    (released / "dataset_statistics.json").unlink()
    edit_json(released / "config.json", lambda config: config.pop("norm_stats"))
    with pytest.raises(CheckpointError, match="no action statistics"):
        load(released)


def test_wrong_unnorm_key_names_the_nearest(recorded):
    with pytest.raises(CheckpointError, match="did you mean 'libero_goal_no_noops'"):
        recorded.policy("libero_bf16", unnorm_key="libero_gaol")


def test_open_unnorm_key_is_asked_for_when_needed(recorded):
    policy = recorded.policy("libero_bf16", unnorm_key=None)
    with pytest.raises(ValueError, match="pass unnorm_key"):
        policy.decode(np.full((1, 56), 31872))


def test_proprio_without_weights_is_refused(released):
    with pytest.raises(CheckpointError, match="use_proprio=False"):
        load(released, unnorm_key="libero_10", use_proprio=True)


def test_pickled_code_is_never_run(recorded, tmp_path):
    directory = shutil.copytree(recorded.root / "robotwin_bf16", tmp_path / "evil")
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (marker.write_text, ("",))

    torch.save({"module.fc1.weight": Evil()}, directory / "proprio_projector--50000_checkpoint.pt")
    (directory / "modeling_prismatic.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(CheckpointError, match="plain tensors"):
        load(directory, unnorm_key="lift_pot_1k")
    assert not marker.exists()


def test_hub_downloads_data_files_only(saved, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def snapshot_download(repo_id, allow_patterns):
        asked.update(repo_id=repo_id, allow_patterns=allow_patterns)
        return str(saved)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    load("someone/openvla-oft-libero")
    assert asked["repo_id"] == "someone/openvla-oft-libero"
    files = ("modeling.py", "pytorch_model.bin", "model.safetensors", "config.json", "tokenizer.model")
    fetched = [name for name in files if any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])]
    assert fetched == ["model.safetensors", "config.json", "tokenizer.model"]


def test_unknown_path_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint directory"):
        load(tmp_path / "nowhere")


def test_saving_replaces_a_checkpoint_but_nothing_else(tiny_policy, saved):
    before = sorted(saved.parent.iterdir())
    tiny_policy.save_pretrained(saved)
    assert sorted(saved.parent.iterdir()) == before
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        tiny_policy.save_pretrained(saved)
    assert (saved / "notes.txt").read_text() == "mine"


def test_failed_save_leaves_the_old_checkpoint(tiny_policy, saved, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("policies.openvla_oft.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny_policy.save_pretrained(saved)
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]
    assert_same_policy(tiny_policy, load(saved))
