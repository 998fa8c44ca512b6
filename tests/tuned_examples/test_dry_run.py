"""Every file that `rllib train file` takes is accepted as it is, and says what it is for."""

import json
import re

import pytest
from typer.testing import CliRunner

from rllib_vla.cli.example import find_examples
from rllib_vla.cli.experiment_file import parse_experiments
from rllib_vla.cli.experiment_source import load_source
from rllib_vla.cli.main import app
from tests.robotwin_checkouts import make_checkout

EXAMPLES = find_examples()


ROBOTWIN = {stem: path for stem, path in EXAMPLES.items() if stem.startswith("robotwin")}


@pytest.fixture(scope="session")
def robotwin_roots(tmp_path_factory):
    """Folders that pass for a checkout as long as no simulator is started, by suite."""
    folder = tmp_path_factory.mktemp("robotwin")
    flavours = {"robotwin1": "robotwin1", "robotwin2": "simplevla"}
    return {suite: str(make_checkout(folder / suite, flavour)) for suite, flavour in flavours.items()}


@pytest.mark.parametrize("path", EXAMPLES.values(), ids=EXAMPLES)
def test_dry_run(path, request, monkeypatch, robotwin_roots):
    if path.stem in ROBOTWIN:
        monkeypatch.setenv("RLLIB_VLA_ROBOTWIN_ROOT", robotwin_roots[path.stem.partition("_")[0]])
    if path.stem.startswith("libero_") and not path.stem.startswith("libero_blocks"):
        monkeypatch.setenv("RLLIB_VLA_LIBERO_ASSETS", request.getfixturevalue("assets_path"))
    arguments = ["train", "file", str(path), "--dry-run"]
    if "model_path: runs/" in path.read_text():  # made by another command: a stand-in
        is_two_armed = path.stem.startswith("bimanual")
        stand_in = request.getfixturevalue("two_armed_toy_policy_dir" if is_two_armed else "toy_policy_dir")
        arguments += ["--config", json.dumps({"rl_module": {"model_config": {"model_path": stand_in}}})]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert "no problem found" in run.output


@pytest.mark.parametrize("path", EXAMPLES.values(), ids=EXAMPLES)
def test_first_lines_say_what_it_is_and_what_it_needs(path):
    lines = path.read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert head, "expected a comment in front of the experiment"
    text = "\n".join(head)
    assert "Hardware:" in text
    assert re.search(r"\bTime\b|minutes", text), "how long does it take?"
    # Sweeps are compared with one another, they reproduce no number.
    says_result = re.search(r"\b[Rr]esult\b|Measured|The paper:", text)
    assert says_result or path.parent.name == "sweeps", "what comes out?"


def test_experiments_are_named_after_their_files():
    names = {path.stem: path.read_text() for path in EXAMPLES.values() if path.suffix == ".yaml"}
    for stem, text in names.items():
        assert f"\n{stem}:\n" in text, stem


def test_the_papers_robotwin_tasks_are_all_there():
    tasks_2 = [
        "lift_pot", "beat_block_hammer", "pick_dual_bottles", "place_phone_stand", "move_can_pot", "place_a2b_left",
        "place_empty_cup", "handover_mic", "handover_block", "stack_bowls_two", "blocks_ranking_rgb",
        "put_bottles_dustbin",
    ]  # fmt: skip
    tasks_1 = ["block_hammer_beat", "block_handover", "blocks_stack_easy", "shoe_place"]
    expected = [f"robotwin2_{task}_grpo" for task in tasks_2] + [f"robotwin1_{task}_grpo" for task in tasks_1]
    assert sorted(ROBOTWIN) == sorted([*expected, "robotwin1_grpo", "robotwin2_grpo"])


@pytest.mark.parametrize("stem", ["robotwin2_grpo", "robotwin2_lift_pot_grpo", "robotwin1_shoe_place_grpo"])
def test_without_a_checkout_only_that_is_missed(stem, monkeypatch):
    monkeypatch.delenv("RLLIB_VLA_ROBOTWIN_ROOT", raising=False)
    output = " ".join(CliRunner().invoke(app, ["train", "file", str(ROBOTWIN[stem]), "--dry-run"]).output.split())
    assert "1 problem, nothing was started" in output
    assert "a RoboTwin checkout is needed" in output


def test_without_a_checkout_other_mistakes_are_found_as_well(monkeypatch, tmp_path):
    monkeypatch.delenv("RLLIB_VLA_ROBOTWIN_ROOT", raising=False)
    wrong = tmp_path / "wrong.yaml"
    base = ROBOTWIN["robotwin2_grpo"]
    wrong.write_text(f"wrong:\n  extends: {base}\n  config:\n    training: {{temperature: -1, clip_parm_low: 0.2}}\n")
    output = " ".join(CliRunner().invoke(app, ["train", "file", str(wrong), "--dry-run"]).output.split())
    assert "3 problems" in output
    for expected in ("a RoboTwin checkout is needed", "training.temperature: ", "'clip_param_low'"):
        assert expected in output


EXCEPTIONS = {
    "robotwin2_place_a2b_left_grpo": {"temperature": 1.0, "clip_param_high": 0.2},
    "robotwin2_pick_dual_bottles_grpo": {"micro_batch_size": 4},
    "robotwin2_put_bottles_dustbin_grpo": {"num_scenes": 990},
    "robotwin1_shoe_place_grpo": {"num_scenes": 640, "num_groups_per_train_batch": 16, "minibatch_size": 64},
    "robotwin2_lift_pot_grpo": {},
}


@pytest.mark.parametrize(("stem", "exceptions"), EXCEPTIONS.items(), ids=EXCEPTIONS)
def test_settings_are_the_references(stem, exceptions, monkeypatch, robotwin_roots):
    monkeypatch.setenv("RLLIB_VLA_ROBOTWIN_ROOT", robotwin_roots[stem.partition("_")[0]])
    document, base_config = load_source(str(ROBOTWIN[stem]))
    config = parse_experiments(document, {}, base_config)[0].example_config
    expected = {
        "temperature": 1.6,
        "clip_param_low": 0.2,
        "clip_param_high": 0.28,
        "num_groups_per_train_batch": 64,
        "minibatch_size": 128,
        "lr": 5e-6,
        "num_scenes": 1000,
    } | exceptions
    num_scenes = expected.pop("num_scenes")
    assert {name: getattr(config, name) for name in expected} == expected
    assert len(config.get_training_scenes()) == num_scenes
    assert stem == f"{config.env}_{config.env_config['tasks'][0]}_grpo"


@pytest.mark.parametrize("suite", ["spatial", "object", "goal", "10", "90"])
@pytest.mark.parametrize("cold_start", ["trajall", "traj1"])
@pytest.mark.parametrize("variant", ["full_8gpu", "lora_1gpu"])
def test_files_train_what_their_names_say(suite, cold_start, variant):
    document, _ = load_source(str(EXAMPLES[f"libero_{suite}_{cold_start}_{variant}"]))
    ((_, spec),) = document.data.items()
    model = spec["config"]["rl_module"]["model_config"]
    assert spec["env"] == f"libero_{suite}"
    assert model["model_path"].endswith(f"libero{suite if suite.isdigit() else '-' + suite}-{cold_start}")
    assert ("lora" in model) == variant.startswith("lora")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("temperature_clip")])
def test_sweeps_over_the_clip_range_make_several_steps_per_iteration(name):
    """In the first step after sampling the ratio is 1: with one step per iteration no clip range would matter."""
    document, _ = load_source(str(EXAMPLES[name]))
    (experiment,) = parse_experiments(document)
    config = experiment.example_config
    assert config.num_groups_per_train_batch * config.group_size >= 4 * config.minibatch_size
