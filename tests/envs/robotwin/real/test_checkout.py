import json
import re

import pytest

import envs
from envs.robotwin.real import checkout as checkouts
from envs.robotwin.real import tasks
from envs.robotwin.real.checkout import CheckoutError, find_any_checkout, find_assets, find_checkout, make_view
from envs.robotwin.real.seeds import (
    CANDIDATES_PER_SCENE,
    SeedLists,
    SeedsError,
    add_to_seed_file,
    read_seed_file,
    tried_seeds,
)
from envs.robotwin.real.tasks import step_limits
from tests.conftest import ROOT
from tests.robotwin_checkouts import TASKS_1, TASKS_2, make_assets, make_checkout

FLAVOURS = ["main", "stable_2.0", "simplevla", "rlinf", "robotwin1"]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    monkeypatch.delenv(checkouts.ROOT_VARIABLE, raising=False)
    monkeypatch.delenv(checkouts.ASSETS_VARIABLE, raising=False)
    monkeypatch.delenv("ASSETS_PATH", raising=False)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_branches_are_told_apart(tmp_path, flavour):
    found = find_any_checkout(make_checkout(tmp_path / "root", flavour))
    assert (found.flavour, found.version) == (flavour, 1 if flavour == "robotwin1" else 2)
    assert found.config_folder.is_dir()
    assert found.task_names() == sorted(TASKS_1 if flavour == "robotwin1" else TASKS_2)


def test_a_checkout_is_found_by_argument_then_by_variable(tmp_path, monkeypatch):
    ours, other = make_checkout(tmp_path / "ours", "main"), make_checkout(tmp_path / "other", "rlinf")
    with pytest.raises(CheckoutError, match=rf"'robotwin_root' or {checkouts.ROOT_VARIABLE}"):
        find_checkout(2)
    monkeypatch.setenv(checkouts.ROOT_VARIABLE, str(other))
    assert find_checkout(2).root == other
    assert find_checkout(2, ours).root == ours
    with pytest.raises(CheckoutError, match=r"RoboTwin 2.0; this suite needs branch RoboTwin-1.0"):
        find_checkout(1)
    with pytest.raises(CheckoutError, match="is no RoboTwin checkout"):
        find_checkout(2, tmp_path)


def test_assets_may_lie_in_the_checkout_or_elsewhere(tmp_path, monkeypatch):
    checkout = find_any_checkout(make_checkout(tmp_path / "root", "stable_2.0", assets=False))
    with pytest.raises(CheckoutError, match=r"no embodiments and no objects .*TianxingChen/RoboTwin2.0"):
        find_assets(checkout)
    pack = make_assets(tmp_path / "pack" / "assets", 2)
    assert find_assets(checkout, pack) == pack
    assert find_assets(checkout, pack.parent) == pack
    monkeypatch.setenv(checkouts.ASSETS_VARIABLE, str(pack))
    assert find_assets(checkout) == pack


def test_the_variable_that_rlinf_uses_names_its_assets(tmp_path, monkeypatch):
    pack = make_assets(tmp_path / "pack" / "assets", 2)
    monkeypatch.setenv("ASSETS_PATH", str(pack.parent))
    assert find_assets(find_any_checkout(make_checkout(tmp_path / "rlinf", "rlinf", assets=False))) == pack
    with pytest.raises(CheckoutError, match="no embodiments"):
        find_assets(find_any_checkout(make_checkout(tmp_path / "main", "main", assets=False)))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_view_joins_checkout_and_assets_and_writes_into_neither(tmp_path, monkeypatch, flavour):
    monkeypatch.setattr(checkouts.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    root = make_checkout(tmp_path / "root", flavour, assets=False)
    checkout = find_any_checkout(root)
    if checkout.version == 2:  # SimpleVLA-RL's overlay has one file of the assets
        (root / "assets" / "objects").mkdir(parents=True)
        (root / "assets" / "files").mkdir()
    pack = make_assets(tmp_path / "pack", checkout.version)
    before = sorted(path for folder in (root, pack) for path in folder.rglob("*"))
    view = make_view(checkout, pack)
    assert view == make_view(checkout, pack)
    assert sorted(path for folder in (root, pack) for path in folder.rglob("*")) == before
    assert (view / "envs").resolve() == root / "envs"
    assert not (view / "data").exists()  # where RoboTwin writes
    if checkout.version == 1:
        assert (view / "aloha_maniskill_sim").resolve() == pack / "aloha_maniskill_sim"
    else:
        assert (view / "assets" / "objects").resolve() == pack / "objects"
        assert (view / "assets" / "files").resolve() == root / "assets" / "files"


def test_scenes_come_from_the_seed_lists(tmp_path):
    config = {"robotwin_root": str(make_checkout(tmp_path / "root", "simplevla"))}
    train = envs.list_scenes("robotwin2", "train", ["lift_pot", "handover_mic"], config)
    assert [len([s for s in train if s.task == task]) for task in ("lift_pot", "handover_mic")] == [1000, 1000]
    assert len(envs.list_scenes("robotwin2", "eval", ["lift_pot"], config)) == 128
    assert len(envs.list_scenes("robotwin2", "train", ["lift_pot"], config | {"num_train_seeds": 990})) == 990
    seeds = SeedLists(find_any_checkout(config["robotwin_root"]))
    assert seeds.candidates("lift_pot", "train", 3) == [100_006]
    assert seeds.candidates("lift_pot", "eval", 127) == [100_100_254]
    # All tasks that have a list; the one without is left out, and refused by name.
    every = envs.list_scenes("robotwin2", "train", None, config)
    assert {scene.task for scene in every} == set(TASKS_2) - {"turn_switch"}
    with pytest.raises(ValueError, match=r"no seeds for task 'turn_switch'.*rllib seeds robotwin turn_switch"):
        envs.list_scenes("robotwin2", "train", ["turn_switch"], config)


def test_seeds_that_nobody_tried_are_used_only_when_asked_for(tmp_path):
    root = make_checkout(tmp_path / "root", "main", seeds=False)
    config = {"robotwin_root": str(root)}
    with pytest.raises(ValueError, match="unverified_seeds: true"):
        envs.list_scenes("robotwin2", "train", ["lift_pot"], config)
    scenes = envs.list_scenes("robotwin2", "train", ["lift_pot"], config | {"unverified_seeds": True})
    assert len(scenes) == 1000
    seeds = SeedLists(find_any_checkout(root), unverified=True)
    tried = [seed for split in ("train", "eval") for i in range(128) for seed in seeds.candidates("lift_pot", split, i)]
    assert len(set(tried)) == len(tried) == 2 * 128 * CANDIDATES_PER_SCENE


def test_seeds_are_added_to_what_a_file_has(tmp_path):
    path = tmp_path / "robotwin2_train_seeds.json"
    add_to_seed_file(path, "lift_pot", {5: "success", 6: "setup_demo_fail"})
    add_to_seed_file(path, "lift_pot", {4: "success"})
    add_to_seed_file(path, "lift_pot", {4: "success"})
    assert tried_seeds(path, "lift_pot") == {5: "success", 4: "success", 6: "setup_demo_fail"}
    assert tried_seeds(path, "handover_mic") == tried_seeds(tmp_path / "none.json", "lift_pot") == {}
    entry = json.loads(path.read_text())["lift_pot"]
    assert (entry["success_seeds"], entry["total_tried"]) == ([5, 4], 3)


def test_seeds_are_added_to_lists_of_solved_ones_alone(tmp_path):
    path = tmp_path / "train_seeds.json"
    path.write_text(json.dumps({"lift_pot": {"success_seeds": [8, 5], "total_tried": 40, "by": "RLinf"}}))
    add_to_seed_file(path, "lift_pot", {6: "not_success", 9: "success"})
    entry = json.loads(path.read_text())["lift_pot"]
    assert (entry["success_seeds"], entry["total_tried"], entry["by"]) == ([8, 5, 9], 42, "RLinf")
    path.write_text("[17]")
    with pytest.raises(SeedsError, match="cannot read the seeds in"):
        add_to_seed_file(path, "lift_pot", {6: "success"})
    assert path.read_text() == "[17]"


def test_seed_files_are_written_as_they_are_read(tmp_path):
    path = tmp_path / "lists" / "robotwin2_train_seeds.json"
    add_to_seed_file(path, "lift_pot", {5: "success", 6: "setup_demo_fail", 7: "play_once_fail", 8: "success"})
    add_to_seed_file(path, "handover_mic", {1: "not_success"})
    assert read_seed_file(path) == {"lift_pot": (5, 8), "handover_mic": ()}
    assert json.loads(path.read_text())["lift_pot"] == {
        "task_name": "lift_pot",
        "total_tried": 4,
        "success_seeds": [5, 8],
        "setup_demo_fail_seeds": [6],
        "play_once_fail_seeds": [7],
        "not_success_seeds": [],
    }
    checkout = find_any_checkout(make_checkout(tmp_path / "root", "main", seeds=False))
    assert SeedLists(checkout, path.parent).num_scenes("lift_pot", "train") == 2
    with pytest.raises(SeedsError, match=r"no robotwin2_train_seeds.json and robotwin2_eval_seeds.json"):
        SeedLists(checkout, tmp_path)
    one = tmp_path / "lift_pot_2_seeds.json"
    one.write_text(path.read_text())
    assert [SeedLists(checkout, one).num_scenes("lift_pot", split) for split in ("train", "eval")] == [2, 0]
    one = one.rename(tmp_path / "my_eval_seeds.json")
    assert [SeedLists(checkout, one).num_scenes("lift_pot", split) for split in ("train", "eval")] == [0, 2]
    path.write_text('{"lift_pot": [1, 2]}')
    with pytest.raises(SeedsError, match="cannot read the seeds"):
        SeedLists(checkout, path.parent).num_scenes("lift_pot", "train")


def test_the_documented_step_limits_are_the_ones_used():
    (row,) = (line for line in (ROOT / "docs/robotwin.md").read_text().splitlines() if line.startswith("| step limit"))
    groups = re.findall(r"((?:\w+_\w+(?:, | and )?)+) (\d+)", row.partition("; 1.0")[0])
    told = {task: int(limit) for names, limit in groups for task in re.split(r", | and ", names)}
    assert told == {task: limit for task, limit in tasks._SIMPLEVLA_LIMITS_2.items() if limit != 200}


def test_step_limits(tmp_path):
    main = find_any_checkout(make_checkout(tmp_path / "main", "main"))
    assert step_limits(main, "simplevla")["lift_pot"] == 200
    assert step_limits(main, "simplevla")["put_bottles_dustbin"] == 800
    assert step_limits(main, "simplevla")["turn_switch"] == 800  # not in the paper
    assert step_limits(main, "robotwin")["put_bottles_dustbin"] == 1700  # of the checkout's file
    first = find_any_checkout(make_checkout(tmp_path / "first", "robotwin1"))
    assert step_limits(first, "simplevla") == {
        "block_hammer_beat": 300, "block_handover": 800, "blocks_stack_easy": 800, "shoe_place": 800,
    }  # fmt: skip
    assert step_limits(first, "robotwin")["shoe_place"] == 450
