import json

import pytest
from typer.testing import CliRunner

from envs.robotwin.real.environment import RoboTwinEnv
from rllib_vla.cli.main import app
from tests.robotwin_checkouts import make_checkout

OUTCOMES = {100_000: "success", 100_001: "setup_demo_fail", 100_002: "not_success", 100_003: "success"}


@pytest.fixture
def seeds(tmp_path, monkeypatch):
    """Returns a function (flavour, stand-ins, *arguments) -> result of the command, whose expert is scripted.

    `asked` gets the seeds that are tried.
    """
    monkeypatch.delenv("RLLIB_VLA_ROBOTWIN_ROOT", raising=False)

    def run(flavour, standins, *arguments, asked=None):
        def try_expert(self, task, seed):
            if asked is not None:
                asked.append(seed)
            return OUTCOMES[seed], ""

        monkeypatch.setattr(RoboTwinEnv, "try_expert", try_expert)
        report = {"standins": standins, "versions": {"python": "3.10.0", "numpy": "1.26.4"}}
        monkeypatch.setattr(RoboTwinEnv, "start_process", lambda self: report)
        root = tmp_path / flavour
        if not root.exists():
            make_checkout(root, flavour)
        given = ["--robotwin-root", str(root), "--out", str(tmp_path / "out"), *arguments]
        result = CliRunner().invoke(app, ["seeds", "robotwin", *given])
        result.text = " ".join((result.stdout + result.stderr).replace("│", " ").split())
        return result

    return run


def test_solved_seeds_are_written_down(seeds, tmp_path):
    result = seeds("rlinf", ["curobo", "open3d"], "lift_pot", "--num", "2")
    assert result.exit_code == 0, result.text
    assert "2 success, 1 setup_demo_fail, 1 not_success" in result.text
    entry = json.loads((tmp_path / "out" / "robotwin2_train_seeds.json").read_text())["lift_pot"]
    assert entry["success_seeds"] == [100_000, 100_003]
    assert entry["total_tried"] == 4


def test_a_list_goes_on_where_it_was_left(seeds, tmp_path):
    """Also after a try from another seed: nothing that was found is lost or tried again."""
    asked = []
    first = seeds("rlinf", [], "lift_pot", "--num", "2", "--first", "100002", "--max-tried", "1")
    assert first.exit_code == 1
    again = seeds("rlinf", [], "lift_pot", "--num", "2", asked=asked)
    assert again.exit_code == 0, again.text
    assert "Seeds tried before: 1, solved: 0" in again.text
    assert asked == [100_000, 100_001, 100_003]
    path = tmp_path / "out" / "robotwin2_train_seeds.json"
    entry = json.loads(path.read_text())["lift_pot"]
    assert (entry["success_seeds"], entry["not_success_seeds"], entry["total_tried"]) == (
        [100_000, 100_003],
        [100_002],
        4,
    )
    assert seeds("rlinf", [], "lift_pot", "--num", "2", asked=asked).exit_code == 0
    assert len(asked) == 3
    path.write_text("{")
    damaged = seeds("rlinf", [], "lift_pot", "--num", "2")
    assert damaged.exit_code == 2
    assert "cannot read the seeds" in damaged.text
    assert path.read_text() == "{"


def test_too_few_solved_seeds_are_a_failure(seeds):
    result = seeds("robotwin1", [], "shoe_place", "--num", "2", "--max-tried", "3")
    assert result.exit_code == 1
    assert "robotwin1_train_seeds.json" in result.text


@pytest.mark.parametrize(
    ("flavour", "standins", "missing"),
    [
        ("main", ["curobo"], "no usable curobo in"),
        ("stable_2.0", ["mplib", "curobo"], "no usable mplib and no curobo in"),
        ("simplevla", ["mplib", "curobo"], "no usable mplib in"),
        ("robotwin1", ["mplib"], "no usable mplib in"),
    ],
)
def test_a_missing_planner_is_named(seeds, flavour, standins, missing):
    task = "shoe_place" if flavour == "robotwin1" else "lift_pot"
    result = seeds(flavour, standins, task)
    assert result.exit_code == 2
    assert missing in result.text
    assert "robotwin_python" in result.text
    assert "numpy 1.26.4" in result.text


def test_bad_arguments_are_refused(seeds, tmp_path):
    assert "did you mean 'lift_pot'" in seeds("main", [], "lift_pt").text
    assert "must be one of train, eval" in seeds("main", [], "lift_pot", "--split", "test").text
    result = CliRunner().invoke(app, ["seeds", "robotwin", "lift_pot"])
    assert result.exit_code == 2
    assert "RoboTwin checkout is needed" in " ".join(result.stderr.replace("│", " ").split())
