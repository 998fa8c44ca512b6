import pytest
from typer.testing import CliRunner

from rllib_vla.cli.main import app
from rllib_vla.experiments.engine import FINISHED_FILE, PLAN_FILE, write_json
from rllib_vla.experiments.plan import make_plan
from rllib_vla.experiments.reader import load_experiment

FILE = """
toy:
  title: A toy experiment
  question: Does it work?
  seeds: [0]
  stages:
    before: {kind: evaluate, policy: POLICY, suite: "tests.toy_suite:SUITE", num_scenes: 2}
  arms:
    greedy: {label: greedy}
    warm: {label: T = 1, before: {temperature: 1.0}}
  report: {before: before, baseline: greedy}
"""


@pytest.fixture
def file(tmp_path):
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "model.safetensors").write_bytes(b"weights")
    path = tmp_path / "toy.yaml"
    path.write_text(FILE.replace("POLICY", str(policy)))
    return path


@pytest.fixture
def dry_run(file, tmp_path):
    """Returns a function: options to the exit code and the text of a dry run."""

    def call(*options):
        command = ["experiment", "run", str(file), "--dry-run", "--storage-path", str(tmp_path / "runs"), *options]
        result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
        return result.exit_code, result.output

    return call


def test_a_dry_run_shows_the_stages_of_the_arms_that_are_asked_for(dry_run):
    assert "2 stages" in dry_run()[1]
    code, output = dry_run("--arms", "warm")
    assert code == 0
    assert "1 stage in" in output
    code, output = dry_run("--arms", "wram")
    assert code == 2
    assert "no arm 'wram', did you mean 'warm'?" in output


def test_a_dry_run_shows_what_other_runs_have_made(dry_run, file, tmp_path):
    plan = make_plan(load_experiment(file, {}).with_arms(["greedy"]), (0,))
    (node,) = plan.nodes.values()
    other = tmp_path / "runs" / "elsewhere"
    (other / node.folder_name).mkdir(parents=True)
    write_json(other / PLAN_FILE, plan.to_dict())
    write_json(other / node.folder_name / FINISHED_FILE, {"seconds": 1.0})
    states = [
        line.split("│")[-2].strip() for line in dry_run("--reuse", "elsewhere")[1].splitlines() if "│ eval" in line
    ]
    assert states == ["in elsewhere", "to do"]
    assert not (tmp_path / "runs" / "toy").exists()


def test_a_run_to_reuse_must_be_there(dry_run):
    code, output = dry_run("--reuse", "nothing")
    assert code == 2
    assert "--reuse" in output
    assert "nothing holds no run of an experiment" in output
