"""The commands of stages: what a fresh start, and what a start after a kill, runs."""

import pytest
import yaml

from rllib_vla.experiments.kinds import KINDS
from rllib_vla.experiments.kinds.base import StageRun
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.training_state import save_training_state


@pytest.fixture
def run(tmp_path):
    """Returns a function: settings, inputs to a `StageRun` in a folder."""

    def make(settings, **inputs):
        return StageRun(settings, inputs, seed=5, folder=tmp_path)

    return make


def option(command, name):
    return command[command.index(name) + 1]


def test_demonstrations_that_are_there_are_not_recorded_again(run, tmp_path):
    settings = {"suite": "libero_blocks", "tasks": ["lift_red_cube", "lift_blue_cube"], "num_demos": 3}
    settings |= {"action_noise": 0.05, "wander_steps": 6, "image_size": 96, "seed": 0}
    command = KINDS["demos"].prepare(run(settings))
    assert command[command.index("--tasks") + 1 :][:2] == ["lift_red_cube", "lift_blue_cube"]
    assert option(command, "--num-demos") == "3"
    assert KINDS["demos"].missing_output(tmp_path) is not None
    (tmp_path / "lift_red_cube_demo.hdf5").touch()
    command = KINDS["demos"].prepare(run(settings))
    assert command[command.index("--tasks") + 1 :][:2] == ["lift_blue_cube", "--num-demos"]
    assert "--config" not in command
    command = KINDS["demos"].prepare(run(settings | {"env_config": {"renderer": "numpy"}}))
    assert option(command, "--config") == '{"renderer": "numpy"}'


def test_fine_tuning_gets_seed_and_inputs_and_goes_on(run, tmp_path):
    settings = {"tasks": ["lift_red_cube"], "num_steps": 10}
    command = KINDS["sft"].prepare(run(settings, demos="/demos", policy="/policy"))
    assert "--resume" not in command
    config = SFTConfig.from_dict(yaml.safe_load((tmp_path / "sft.yaml").read_text()))
    assert (config.seed, config.demos_dir, config.model_path, config.num_steps) == (5, "/demos", "/policy", 10)
    save_training_state(tmp_path / "train" / "training_state.pt", step=3, config={"num_steps": 10})
    assert KINDS["sft"].prepare(run(settings, demos="/demos"))[-1] == "--resume"


def test_training_that_was_killed_before_its_first_snapshot_starts_anew(run, tmp_path):
    (tmp_path / "train" / "GRPO_x").mkdir(parents=True)
    command = KINDS["grpo"].prepare(run({"run": "GRPO", "stop": {}}, policy="/policy"))
    assert "--resume" not in command
    assert not (tmp_path / "train").exists()
    spec = yaml.safe_load((tmp_path / "grpo.yaml").read_text())["train"]
    assert spec["config"] == {
        "rl_module": {"model_config": {"model_path": "/policy"}},
        "debugging": {"seed": 5},
    }


def test_training_hands_on_its_newest_complete_checkpoint(tmp_path):
    assert KINDS["grpo"].missing_output(tmp_path) == "no usable checkpoint: none was written"
    for number in (0, 1):
        (tmp_path / "train" / "GRPO_x" / f"checkpoint_00000{number}").mkdir(parents=True)
    assert "is no RLlib checkpoint" in KINDS["grpo"].missing_output(tmp_path)
    whole = tmp_path / "train" / "GRPO_x" / "checkpoint_000000"
    for name in ("rllib_checkpoint.json", "algorithm_state.json"):
        (whole / name).touch()
    assert KINDS["grpo"].missing_output(tmp_path) is None
    assert KINDS["grpo"].output_path(tmp_path) == whole


def test_flat_settings_are_filled_in_where_they_stand(run, tmp_path):
    settings = {"run": "GRPO", "config": {"seed": 1, "model_config": {"lora": {"rank": 4}}}}
    KINDS["grpo"].prepare(run(settings, policy="/policy"))
    spec = yaml.safe_load((tmp_path / "grpo.yaml").read_text())["train"]
    assert spec["config"] == {"seed": 5, "model_config": {"lora": {"rank": 4}, "model_path": "/policy"}}


def test_options_of_an_evaluation(run, tmp_path):
    settings = {"suite": "s", "split": "eval", "repeats": 2, "seed": 0, "tasks": ["a", "b"], "videos": "all"}
    settings |= {"object_motion": True, "env_config": {"tolerance": 0.4}, "temperature": None}
    settings |= {"dtype": "bfloat16", "unnorm_key": "libero_10"}
    command = KINDS["evaluate"].prepare(run(settings, policy="/policy"))
    assert command[command.index("evaluate") + 1] == "/policy"
    assert option(command, "--out") == str(tmp_path)
    assert option(command, "--tasks") == "a,b"
    assert option(command, "--config") == '{"tolerance": 0.4}'
    assert option(command, "--dtype") == "bfloat16"
    assert option(command, "--unnorm-key") == "libero_10"
    assert "--object-motion" in command
    assert "--temperature" not in command
