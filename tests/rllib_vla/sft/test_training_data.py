import pytest

from rllib_vla.sft.training_data import open_reader, select, task_names
from tests.rllib_vla.sft.conftest import config_for

TOY = "tests.toy_suite:SUITE"


def test_subset_seed_draws_other_demonstrations_with_the_same_weights_and_order(demos_dir):
    reader = open_reader(config_for(demos_dir))
    chosen = [
        select(config_for(demos_dir, **seeds), reader, ["push"]) for seeds in ({}, {"subset_seed": 3}, {"seed": 3})
    ]
    assert chosen[0] != chosen[1] == chosen[2]


def test_tasks_are_those_named_of_the_suite_or_all_there_are(demos_dir):
    reader = open_reader(config_for(demos_dir))
    assert task_names(config_for(demos_dir), reader) == ["lift", "push"]
    assert task_names(config_for(demos_dir, tasks=None), reader) == ["lift", "push"]
    assert task_names(config_for(demos_dir, tasks=None, suite=TOY), reader) == ["go_left", "go_right"]


@pytest.mark.parametrize(("key", "value"), [("demos", ["demo_0"]), ("instructions", "push it")])
def test_a_misspelt_task_is_refused(demos_dir, key, value):
    open_reader(config_for(demos_dir, tasks=["lift"], **{key: {"push": value}}))  # there, though not trained on
    with pytest.raises(ValueError, match=f"unknown task in '{key}' 'psh'; did you mean 'push'"):
        open_reader(config_for(demos_dir, **{key: {"psh": value}}))
