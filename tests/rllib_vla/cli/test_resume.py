"""Which trials an interrupted experiment continues."""

import json

import pytest
import yaml
from ray.tune import ResumeConfig

from rllib_vla.cli.resume import resume_config

RESUME, SKIP = ResumeConfig.ResumeType.RESUME, ResumeConfig.ResumeType.SKIP
STARTED_WITH = {"training_iteration": 6, "evaluation/success_rate": 0.97}


def write_trial(experiment_dir, name, *, iteration, done, success=0.5):
    trial = experiment_dir / name
    (trial / "checkpoint_000000").mkdir(parents=True)
    result = {"training_iteration": iteration, "done": done, "evaluation": {"success_rate": success}}
    (trial / "result.json").write_text(json.dumps(result) + "\n")


@pytest.mark.parametrize(
    ("stop", "finished"),
    [
        (STARTED_WITH, SKIP),
        ({**STARTED_WITH, "training_iteration": 4}, SKIP),
        ({**STARTED_WITH, "training_iteration": 10}, RESUME),
    ],
)
def test_finished_trials_go_on_only_when_new_criteria_leave_them_something_to_do(tmp_path, stop, finished):
    """Not because another trial of the sweep was interrupted."""
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"sweep": {"run": "GRPO", "stop": STARTED_WITH}}))
    write_trial(tmp_path, "ended", iteration=6, done=True)
    write_trial(tmp_path, "solved", iteration=3, done=True, success=0.98)
    write_trial(tmp_path, "interrupted", iteration=3, done=False)
    config = resume_config(tmp_path, stop)
    assert (config.finished, config.unfinished, config.errored) == (finished, RESUME, RESUME)


def test_what_a_scheduler_ended_stays_ended(tmp_path):
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"sweep": {"stop": STARTED_WITH}}))
    write_trial(tmp_path, "fell_behind", iteration=4, done=True)
    write_trial(tmp_path, "interrupted", iteration=3, done=False)
    assert resume_config(tmp_path, STARTED_WITH).finished == SKIP
