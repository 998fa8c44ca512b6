"""What `rllib evaluate` and `rllib export` load."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rllib_vla.cli.evaluation_target import fetch, find_target
from rllib_vla.cli.main import app
from rllib_vla.cli.problems import InputError
from tests.rllib_vla.toy import SUITE


@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_exported_policy_is_loaded_in_the_wanted_type(toy_policy_dir, dtype, expected):
    target = find_target(Path(toy_policy_dir), None)
    assert (target.is_policy, target.algo_class) == (True, None)
    policy = target.load_policy(device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in policy.model.parameters()} == {expected}


def test_statistics_are_chosen_by_name(toy_policy_dir):
    target = find_target(Path(toy_policy_dir), None)
    assert target.load_policy(unnorm_key="toy").unnorm_key == "toy"
    with pytest.raises(ValueError, match=r"no statistics for unnorm_key 'libero_10'.*Available: toy"):
        target.load_policy(unnorm_key="libero_10")


def test_hub_ids_are_fetched_and_local_paths_are_not(toy_policy_dir, tmp_path, monkeypatch):
    asked = []

    def snapshot(repo_id, **options):
        asked.append(repo_id)
        if repo_id != "someone/policy":
            raise OSError("404")
        return toy_policy_dir

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert fetch("someone/policy") == Path(toy_policy_dir)
    for local in ("runs/mistyped", "checkpoints/mistyped", "nothing", "a/b/c", str(tmp_path / "x")):
        assert fetch(local) == Path(local)
    assert asked == ["someone/policy"]
    with pytest.raises(InputError, match=r"no such checkpoint: .*someone/else, and the hub does not give it: 404"):
        fetch("someone/else")


def test_a_policy_for_another_number_of_arms_is_refused(two_armed_toy_policy_dir):
    run = CliRunner().invoke(app, ["evaluate", two_armed_toy_policy_dir, "--suite", SUITE])
    assert run.exit_code == 2
    message = f"chunks are 25 actions of 14 dimensions, but {SUITE} takes at most 8 of 7: it was made for another suite"
    assert message in run.stderr


def test_chunks_that_are_too_long_are_refused_with_the_remedy(toy_policy_dir):
    def stderr(suite, **config):
        run = CliRunner().invoke(app, ["evaluate", toy_policy_dir, "--suite", suite, "--config", json.dumps(config)])
        assert run.exit_code == 2
        return run.stderr

    told = stderr("libero_blocks", chunk_size=4)
    assert "chunks are 8 actions of 7 dimensions, but libero_blocks takes at most 4 of 7: set `chunk_size: 8`" in told
    assert "--config '{chunk_size: 8}'" in told


@pytest.mark.parametrize("fault_scene", [None, 0])
def test_failing_simulators_end_an_evaluation_without_a_traceback(toy_policy_dir, fault_scene):
    """Whether the pool gives up or all episodes are lost."""
    config = {"fault": "raise", "fault_scene": fault_scene}
    arguments = ["--suite", SUITE, "--num-scenes", "1" if fault_scene == 0 else "4", "--repeats", "3"]
    run = CliRunner().invoke(app, ["evaluate", toy_policy_dir, *arguments, "--config", json.dumps(config)])
    assert run.exit_code == 1
    assert isinstance(run.exception, SystemExit)
    assert "Error: " in run.stderr
    assert "RuntimeError: the toy simulator broke" in run.stderr
