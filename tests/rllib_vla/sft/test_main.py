import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policies.openvla_oft import OpenVLAOFTPolicy
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.main import main, run_sft


def config_for(demos_dir, **changes):
    values = {"num_steps": 4, "batch_size": 2, "log_every_steps": 2, "unnorm_key": "blocks", "device": "cpu"}
    values |= {"demos_dir": str(demos_dir), "output_dir": str(demos_dir / "run"), "tasks": ["lift", "push"]}
    return SFTConfig.from_dict(values | {"demos_per_task": 2} | changes)


def test_checkpoint_loads_as_a_policy_that_knows_instructions_and_statistics(demos_dir):
    path = run_sft(config_for(demos_dir))
    policy = OpenVLAOFTPolicy.from_pretrained(path)
    assert policy.unnorm_key == "blocks"
    assert policy.norm_stats["blocks"]["num_trajectories"] == 15  # of all demonstrations, not only the drawn ones
    inputs = policy.processor([torch.zeros(96, 96, 3, dtype=torch.uint8).numpy()], ["push the cube"])
    assert policy.action_logits(inputs).shape == (1, 56, 256)


def test_same_seed_same_checkpoint(demos_dir):
    first = OpenVLAOFTPolicy.from_pretrained(run_sft(config_for(demos_dir))).model.state_dict()
    shutil.rmtree(demos_dir / "run")
    again = OpenVLAOFTPolicy.from_pretrained(run_sft(config_for(demos_dir))).model.state_dict()
    shutil.rmtree(demos_dir / "run")
    other = OpenVLAOFTPolicy.from_pretrained(run_sft(config_for(demos_dir, seed=1))).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_scalars_reach_tensorboard_and_the_callback(demos_dir):
    seen = []
    run_sft(config_for(demos_dir), on_log=seen.append)
    events = EventAccumulator(str(demos_dir / "run" / "tensorboard")).Reload()
    losses = events.Scalars("sft/loss")
    assert [point.step for point in losses] == [2, 4] == [scalars["step"] for scalars in seen]
    assert losses[0].value == pytest.approx(seen[0]["loss"], rel=1e-5)
    assert {"sft/loss", "sft/token_accuracy", "sft/lr", "sft/gradient_norm"} <= set(events.Tags()["scalars"])


def test_training_starts_from_a_checkpoint(demos_dir):
    first = run_sft(config_for(demos_dir))
    config = config_for(demos_dir, init_from=str(first), output_dir=str(demos_dir / "second"), num_steps=1, lr=1e-9)
    second = OpenVLAOFTPolicy.from_pretrained(run_sft(config)).model.state_dict()
    for name, value in OpenVLAOFTPolicy.from_pretrained(first).model.state_dict().items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)


def test_unfinished_run_is_not_overwritten(demos_dir):
    def interrupt(scalars):
        raise KeyboardInterrupt

    config = config_for(demos_dir, log_every_steps=2, checkpoint_every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        run_sft(config, on_log=interrupt)
    with pytest.raises(FileExistsError, match="stopped at step 1: continue it with --resume"):
        run_sft(config)
    resumed = OpenVLAOFTPolicy.from_pretrained(run_sft(config, resume=True)).model.state_dict()
    shutil.rmtree(demos_dir / "run")
    unbroken = OpenVLAOFTPolicy.from_pretrained(run_sft(config)).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


def test_command_line_reports_mistakes_in_one_line(demos_dir, capsys):
    path = demos_dir / "sft.yaml"
    path.write_text(f"demos_dir: {demos_dir}\noutput_dir: {demos_dir}/run\ntasks: [lift]\nlearning_rat: 1\n")
    assert main([str(path)]) == 2
    assert "unknown key 'learning_rat'" in capsys.readouterr().err
    assert main([str(demos_dir / "missing.yaml")]) == 2
    assert "missing.yaml" in capsys.readouterr().err
