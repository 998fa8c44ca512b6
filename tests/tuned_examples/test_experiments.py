"""Every experiment file is accepted where everything is there, and refused for what is absent, and only for that."""

import importlib.util
import json

import pytest
from typer.testing import CliRunner

import envs
from rllib_vla.cli.main import app
from rllib_vla.experiments.catalogue import find_experiments
from rllib_vla.experiments.paper import RESULTS
from rllib_vla.experiments.reader import load_experiment
from tests.conftest import LIBERO_ASSETS_VARIABLE
from tests.rllib_vla.sft.conftest import write_demo_file
from tests.robotwin_checkouts import make_checkout

EXPERIMENTS = find_experiments()
SMALL = ("libero_blocks", "bimanual")
FINDINGS = ("main_results", "data_scarcity", "prior_threshold", "exploration", "generalisation", "behaviour")
# Files whose fine-tuning needs demonstrations that somebody else recorded -> its stages.
STAGES_WITH_DEMOS = {
    "libero_generalisation": ["sft_1000", "sft_2000", "sft_4000", "sft_8000"],
    "libero_prior_threshold": ["sft"],
    "robotwin2_prior_threshold": ["sft"],
}
CHECKOUT, ASSETS, DEMOS = "a RoboTwin checkout is needed", "LIBERO's asset", "no folder ./demos/"


def family(name: str) -> str:
    return next(known for known in (*SMALL, "libero", "robotwin1", "robotwin2") if name.startswith(known))


def dry_run(name: str, *options: str):
    return CliRunner().invoke(app, ["experiment", "run", name, "--dry-run", *options])


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Folders that pass for checkouts as long as no simulator is started."""
    folder = tmp_path_factory.mktemp("robotwin")
    flavours = {"robotwin1": "robotwin1", "robotwin2": "simplevla"}
    return {suite: str(make_checkout(folder / suite, flavour)) for suite, flavour in flavours.items()}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Folders with as many demonstrations as the experiments draw, by family."""
    folder = tmp_path_factory.mktemp("demos")
    for suite in ("libero_goal", "libero_10"):
        for info in envs.list_tasks(suite):
            write_demo_file(folder / f"{info.name}_demo.hdf5", info.instruction, [9])
    for task in ("move_can_pot", "pick_dual_bottles", "place_phone_stand", "place_a2b_left"):
        (folder / "robotwin" / task).mkdir(parents=True)
        for index in range(1000):
            (folder / "robotwin" / task / f"episode{index}.hdf5").touch()
    return {"libero": str(folder), "robotwin2": str(folder / "robotwin")}


@pytest.fixture
def everything(request, monkeypatch):
    """Returns a function: name of an experiment to the options of a run that finds all it needs."""

    def prepare(name: str) -> list[str]:
        if name.startswith("bimanual") and importlib.util.find_spec("sapien") is None:
            pytest.skip("needs SAPIEN (docs/robotwin.md)")
        if family(name) == "libero":
            monkeypatch.setenv(LIBERO_ASSETS_VARIABLE, request.getfixturevalue("assets_path"))
        if name.startswith("robotwin"):
            monkeypatch.setenv("RLLIB_VLA_ROBOTWIN_ROOT", request.getfixturevalue("roots")[family(name)])
        if name not in STAGES_WITH_DEMOS:
            return []
        folder = request.getfixturevalue("demos")[family(name)]
        return ["--config", json.dumps({stage: {"demos": folder} for stage in STAGES_WITH_DEMOS[name]})]

    return prepare


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_accepted(name, everything):
    result = dry_run(name, *everything(name))
    assert result.exit_code == 0, result.output
    assert "no problem found" in result.output


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if family(name) not in SMALL])
def test_only_what_is_absent_is_missed(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no demonstrations here
    monkeypatch.setattr(envs, "_SPACES", {})  # what other tests found is not there for this one
    monkeypatch.delenv("RLLIB_VLA_ROBOTWIN_ROOT", raising=False)
    monkeypatch.setenv(LIBERO_ASSETS_VARIABLE, str(tmp_path))
    result = dry_run(name)
    assert result.exit_code == 2, result.output
    output = " ".join(result.output.split())
    reasons = [ASSETS if family(name) == "libero" else CHECKOUT, *([DEMOS] if name in STAGES_WITH_DEMOS else [])]
    assert f"{len(reasons)} problem{'s' * (len(reasons) > 1)}, nothing was started" in output
    assert [output.count(reason) for reason in reasons] == [1] * len(reasons)


@pytest.mark.parametrize(("name", "path"), EXPERIMENTS.items(), ids=EXPERIMENTS)
def test_a_file_says_what_it_asks_and_needs(name, path):
    lines = path.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert any("Hardware:" in line for line in head)
    assert head[-1].startswith(f"#   rllib experiment run {name}")
    assert f"{name}:" in lines
    if not name.endswith("_evaluation"):
        assert " paper: " in path.read_text()


def test_what_the_paper_asks_is_there_for_each_family():
    names: dict[str, set[str]] = {}
    for name in EXPERIMENTS:
        names.setdefault(family(name), set()).add(name.removeprefix(f"{family(name)}_"))
    assert names["libero_blocks"] == names["libero"] == {*FINDINGS, "evaluation"}
    # Each task of bimanual has a scene of its own: no task is left out that could be unseen.
    assert names["bimanual"] == set(FINDINGS) - {"generalisation"}
    # The paper has data scarcity, exploration and generalisation on LIBERO.
    assert names["robotwin2"] == {"main_results", "prior_threshold", "behaviour"}
    assert names["robotwin1"] == {"main_results"}


def test_evaluation_only_files_train_nothing(everything):
    for name in ("libero_evaluation", "libero_blocks_evaluation"):
        everything(name)
        spec = load_experiment(EXPERIMENTS[name])
        assert {stage.kind.name for arm in spec.arms for stage in arm.stages.values()} == {"evaluate"}


def test_unseen_tasks_are_seen_by_no_stage(everything):
    for name in ("libero_generalisation", "libero_blocks_generalisation"):
        options = everything(name)
        spec = load_experiment(EXPERIMENTS[name], json.loads(options[1]) if options else None)
        unseen = set(spec.report.unseen_tasks)
        for arm in spec.arms:
            for stage in arm.stages.values():
                if stage.kind.name == "sft":
                    assert not unseen & set(stage.settings["tasks"])
                elif stage.kind.name == "grpo":
                    assert set(stage.settings["config"]["environment"]["env_config"]["unseen_tasks"]) == unseen


def test_policies_of_the_robotwin_tasks_are_those_that_their_trainings_name(everything):
    for name in ("robotwin1_main_results", "robotwin2_main_results", "robotwin2_behaviour"):
        everything(name)
        for arm in load_experiment(EXPERIMENTS[name]).arms:
            before, rl, after = (arm.stages[stage] for stage in ("before", "rl", "after"))
            assert before.inputs == rl.inputs
            assert before.settings["tasks"] == after.settings["tasks"] == [arm.name]
            assert rl.settings["config"]["environment"]["env_config"]["tasks"] == [arm.name]
            model = rl.settings["config"]["rl_module"]["model_config"]
            assert before.settings.get("unnorm_key") == model.get("unnorm_key")
            file = EXPERIMENTS[name].parents[1] / "grpo" / f"{family(name)}_{arm.name}_grpo.yaml"
            assert f"model_path: {rl.inputs['policy']}\n" in file.read_text()
    table = {row.label for row in RESULTS["robotwin2"].rows} - {"average"}
    everything("robotwin2_main_results")
    assert {arm.name for arm in load_experiment(EXPERIMENTS["robotwin2_main_results"]).arms} == table
