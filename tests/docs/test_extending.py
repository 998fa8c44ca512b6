"""docs/extending.md as a newcomer follows it: every file of it saved in a folder outside the project, and run there."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import envs
from envs.contract import check_suite
from rllib_vla import metrics
from rllib_vla.cli.main import app
from rllib_vla.env_runners.group import GroupRequest
from rllib_vla.experiments.kinds.base import RLLIB
from tests.rllib_vla.toy import episodes_of, learner_results, make_episode, make_learner, make_runner

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
# "Save this as `name`:" and the code block after it.
SAVED = re.compile(r"this\s+as\s+`([\w.]+)`[^`]*:\n+```\w+\n(.*?)```", re.DOTALL)
MODULES = ("reach_suite", "conv_policy", "conv_rl_module", "speed_grpo")
EXPERIMENTS = ("reach.yaml", "reach_conv.py", "speed.yaml")


def save_files(folder: Path) -> set[str]:
    """Writes the files of the page and returns their names."""
    files = dict(SAVED.findall(PAGE.read_text()))
    for name, text in files.items():
        (folder / name).write_text(text)
    return set(files)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The newcomer's folder, with the policy that `python make_policy.py` makes."""
    folder = tmp_path_factory.mktemp("newcomer")
    save_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        runpy.run_path("make_policy.py", run_name="__main__")
        yield folder
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_page_has_all_files(tmp_path):
    assert save_files(tmp_path) == {
        *EXPERIMENTS,
        *(f"{name}.py" for name in MODULES),
        "make_policy.py",
    }


def test_the_suite_keeps_the_contract(folder):
    assert check_suite("reach_suite:SUITE", tolerance=0.4) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiments_are_accepted(folder, name):
    run = CliRunner().invoke(app, ["train", "file", name, "--dry-run"])
    assert run.exit_code == 0, run.output


def test_settings_of_the_algorithm_are_checked(folder):
    config = "{discount_per_stp: 0.9}"
    run = CliRunner().invoke(app, ["train", "file", "speed.yaml", "--dry-run", "--config", config])
    assert run.exit_code == 2
    assert "did you mean 'discount_per_step'" in run.stderr


def test_the_algorithm_prefers_fast_successes(folder):
    from speed_grpo import SpeedGRPOConfig

    lengths = {0: 8, 1: 24, 2: 24, 3: 8}
    episodes = [
        make_episode(3, member=member, success=member < 2, num_control_steps=steps) for member, steps in lengths.items()
    ]
    config = SpeedGRPOConfig().training(discount_per_step=0.95)
    config.build_group_connector()(rl_module=None, batch={}, episodes=episodes)
    fast, slow, *failed = (episode.get_extra_model_outputs("advantages", 0) for episode in episodes)
    assert fast > slow > failed[0] == failed[1]


def test_the_policy_samples_and_learns(folder):
    config = runpy.run_path("reach_conv.py")["config"].training(dynamic_sampling=False)
    runner, learner = make_runner(config), make_learner(config)
    scenes = envs.list_scenes("reach_suite:SUITE", "train")[:2]
    groups = runner.sample_groups([GroupRequest(i, scene, 4, seed=0) for i, scene in enumerate(scenes)])
    assert len(groups) == 2
    update = learner.update(episodes=episodes_of(groups), minibatch_size=8, num_epochs=1)
    assert learner_results(learner, update)[metrics.RATIO_MAX_DEVIATION] < 1e-4
    runner.set_state(learner.get_state(inference_only=True))
    runner.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiments_run(folder, name):
    command = [*RLLIB, "train", "file", name, "--stop", "{training_iteration: 2}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 iterations in" in done.stdout
