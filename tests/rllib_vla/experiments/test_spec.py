import pytest

from rllib_vla.cli.problems import InputError
from rllib_vla.experiments.plan import make_plan


def test_arms_alone_have_the_stages_that_they_have_together(spec):
    together, alone = make_plan(spec, (0,)), make_plan(spec.with_arms(["cold"]), (0,))
    assert alone.runs == {("cold", 0): together.runs["cold", 0]}


def test_a_baseline_that_is_left_out_is_none(spec):
    assert spec.with_arms(["cold"]).report.baseline is None
    assert spec.with_arms(["cold", "paper"]).report == spec.report


def test_unknown_arms_are_refused_by_name(spec):
    with pytest.raises(InputError) as error:
        spec.with_arms(["papr", "cold", "other"])
    messages = [problem.message for problem in error.value.problems]
    assert messages == ["no arm 'papr', did you mean 'paper'?", "no arm 'other', valid: cold, paper"]
