"""`rllib sft`: files, mistakes by line, dry runs."""

import h5py
import pytest
import yaml
from typer.testing import CliRunner

from envs.base import UnavailableError
from rllib_vla.cli.main import app
from rllib_vla.cli.problems import InputError
from rllib_vla.cli.sft_file import load_sft_config
from rllib_vla.sft.distributed import WorkerError
from rllib_vla.sft.training_state import STATE_FILE, save_training_state
from tests.rllib_vla.sft.conftest import write_demo_file

runner = CliRunner()
BASE = """\
# A base.
demos_dir: demos
output_dir: runs/base
tasks: [lift]
lr: 1e-3
augmentation: {enabled: true, hue: 0.1}
"""
CHILD = """\
extends: base.yaml
output_dir: runs/child
demos_per_task: 1
augmentation: {hue: 0.0}
"""


def problems_of(path, overrides=None):
    with pytest.raises(InputError) as caught:
        load_sft_config(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_a_file_starts_from_another_one(write):
    write("base.yaml", BASE)
    config = load_sft_config(write("child.yaml", CHILD))
    assert (config.demos_dir, config.output_dir, config.demos_per_task, config.lr) == ("demos", "runs/child", 1, 1e-3)
    assert (config.augmentation.enabled, config.augmentation.hue) == (True, 0.0)
    config = load_sft_config(write("child.yaml", CHILD), {"lr": 2e-3, "augmentation": {"hue": 0.2}})
    assert (config.lr, config.augmentation.enabled, config.augmentation.hue) == (2e-3, True, 0.2)


def test_every_mistake_is_named_with_its_file_and_line(write):
    base = write("base.yaml", BASE.replace("lr: 1e-3", "learning_rat: 1e-3"))
    child = write("child.yaml", CHILD + "demos_pr_task: 3\nprecision: float16\n")
    found = problems_of(child)
    assert found == [
        f"{base}:5: learning_rat: unknown key 'learning_rat'; valid keys: {found[0].split('valid keys: ')[1]}",
        f"{child}:5: demos_pr_task: unknown key 'demos_pr_task'; did you mean 'demos_per_task'?",
    ]
    write("base.yaml", BASE)
    child = write("child.yaml", CHILD + "precision: float16\n")
    assert problems_of(child) == [
        f"{child}:5: precision: 'precision' must be one of float32, bfloat16, not 'float16'; did you mean 'bfloat16'?"
    ]
    (problem,) = problems_of(write("child.yaml", CHILD), {"augmentation": {"hu": 1}})
    assert problem.startswith("--config: ")
    assert "did you mean 'augmentation.hue'" in problem


def test_only_one_level_is_extended_and_only_mappings(write):
    write("base.yaml", "extends: other.yaml\n" + BASE)
    assert "base.yaml extends another file itself (line 1)" in problems_of(write("child.yaml", CHILD))[0]
    assert "no such file" in problems_of(write("other.yaml", CHILD.replace("base", "gone")))[0]
    assert "must hold a mapping of settings, not list" in problems_of(write("list.yaml", "- 1\n"))[0]
    assert "given twice" in problems_of(write("twice.yaml", BASE + "lr: 2\n"))[0]


def test_command_refuses_mistakes_before_anything_starts(write):
    result = runner.invoke(app, ["sft", write("f.yaml", BASE + "stepps: 1\n")])
    assert result.exit_code == 2
    assert "unknown key 'stepps'" in result.stderr
    result = runner.invoke(app, ["sft", "missing.yaml"])
    assert result.exit_code == 2
    assert "missing.yaml" in result.stderr
    result = runner.invoke(app, ["sft", write("f.yaml", BASE.replace("demos_dir: demos", "demos_dir: nowhere/at_all"))])
    assert result.exit_code == 2
    assert "No folder of demonstrations nowhere/at_all" in result.stderr


def test_dry_run_says_what_is_there_and_what_is_missing(write, tmp_path):
    write_demo_file(tmp_path / "lift_demo.hdf5", "lift the cube", [10, 12])
    text = BASE.replace("demos_dir: demos", f"demos_dir: {tmp_path}").replace("runs/base", str(tmp_path / "out"))
    path = write("f.yaml", text)
    result = runner.invoke(app, ["sft", path, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "demonstrations: 2 of 1 tasks, 22 control steps" in result.stdout
    assert "no problem found" in result.stdout
    assert not (tmp_path / "out").exists()
    changes = "{tasks: [lift, push], model_path: ./gone, suite: 'tests.toy_suite:SUITE', evaluation: {tasks: [go_lft]}}"
    result = runner.invoke(app, ["sft", path, "--dry-run", "-c", changes])
    assert result.exit_code == 1
    assert "missing: No demonstrations of task 'push'" in result.stdout
    assert "missing: `model_path`: no checkpoint directory at ./gone" in result.stdout
    assert "did you mean 'go_left'" in result.stdout
    assert "3 missing, nothing was started" in result.stdout


def file_for(write, tmp_path, **keys):
    """An SFT file of one step whose demonstrations, two of "lift", are there; returns its path."""
    write_demo_file(tmp_path / "lift_demo.hdf5", "lift the cube", [10, 12], size=96)
    settings = {"demos_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "tasks": ["lift"], "num_steps": 1}
    return write("f.yaml", yaml.safe_dump(settings | {"batch_size": 1, "device": "cpu"} | keys))


def test_dry_run_reads_what_the_run_reads(write, tmp_path):
    path = file_for(write, tmp_path, demos={"lift": ["demo_0"]})
    with h5py.File(tmp_path / "lift_demo.hdf5", "r+") as file:
        file["data/demo_1/actions"][5, 2] = float("nan")
    result = runner.invoke(app, ["sft", path, "--dry-run"])  # its statistics are those of all demonstrations
    assert result.exit_code == 1
    assert "data/demo_1/actions is not finite at step 5" in result.stdout
    result = runner.invoke(app, ["sft", path, "--dry-run", "-c", "{statistics_from_all_demos: false}"])
    assert result.exit_code == 0
    assert "1 of 1 tasks, 10 control steps" in result.stdout


def test_dry_run_of_resuming(write, tmp_path):
    path = file_for(write, tmp_path, num_steps=5)
    result = runner.invoke(app, ["sft", path, "--resume", "--dry-run"])
    assert result.exit_code == 1
    assert "missing: Nothing to resume: no training state at" in result.stdout
    save_training_state(tmp_path / "out" / STATE_FILE, step=3, config=load_sft_config(path).to_dict(), best=None)
    result = runner.invoke(app, ["sft", path, "--resume", "--dry-run"])
    assert result.exit_code == 0, result.stdout
    assert "training state: step 3 of 5" in result.stdout
    result = runner.invoke(app, ["sft", path, "--resume", "--dry-run", "-c", "{lr: 5e-5}"])
    assert "missing: " in result.stdout
    assert "written under other settings (lr: 0.0005 -> 5e-05)" in result.stdout
    result = runner.invoke(app, ["sft", path, "--dry-run"])
    assert "holds a run that stopped at step 3 of 5: continue it with --resume" in result.stdout


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (UnavailableError("install this"), 2),
        (WorkerError("demo_3 is cut short", is_input=True), 2),
        (WorkerError("connection closed by peer", is_input=False), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_run_that_ends_early_says_why(write, tmp_path, monkeypatch, error, exit_code):
    def run_sft(config, resume):
        raise error

    monkeypatch.setattr("rllib_vla.sft.main.run_sft", run_sft)
    result = runner.invoke(app, ["sft", file_for(write, tmp_path)])
    assert result.exit_code == exit_code
    assert (str(error) or "continue with --resume") in result.stderr


def test_training_by_command_and_resuming_a_finished_run(write, tmp_path):
    path = file_for(write, tmp_path)
    result = runner.invoke(app, ["sft", path])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "checkpoint" / "model.safetensors").is_file()
    result = runner.invoke(app, ["sft", path, "--resume", "-c", "{lr: 5e-5}"])
    assert result.exit_code == 2
    assert "written under other settings (lr: 0.0005 -> 5e-05)" in result.stderr
