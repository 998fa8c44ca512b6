import pytest

from rllib_vla.evaluation.comparison import Count, difference_estimate, success_estimate
from rllib_vla.evaluation.confidence import wilson_interval


def test_three_seeds_have_students_interval_where_it_is_wider():
    estimate = success_estimate([Count(400, 1000), Count(1100, 2000), Count(700, 1000)])
    half = 4.3027 * 0.15 / 3**0.5
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.55, 0.55 - half, 0.55 + half), abs=1e-4)
    assert estimate.over_seeds


def test_seeds_that_agree_leave_the_uncertainty_of_one_evaluation():
    """All seeds play the same scenes: three times 10 of 10 is no more than 10 of 10."""
    estimate = success_estimate([Count(10, 10), Count(10, 10), Count(10, 10)])
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(10, 10))
    same = difference_estimate([Count(5, 10) for _ in range(3)], [Count(9, 10) for _ in range(3)])
    alone = difference_estimate([Count(5, 10)], [Count(9, 10)])
    assert (same.value, same.low, same.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert same.num_seeds == 3


def test_fewer_seeds_have_wilsons():
    estimate = success_estimate([Count(8, 10), Count(6, 10)])
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(7, 10))
    assert not estimate.over_seeds


def test_differences_are_paired_by_seed():
    before, after = ([Count(100 * k, 1000) for k in ks] for ks in ((1, 2, 3), (3, 4, 8)))
    estimate = difference_estimate(before, after)
    # Differences 0.2, 0.2, 0.5: standard deviation 0.173205.
    half = 4.3027 * 0.173205 / 3**0.5
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half), abs=1e-4)
    assert not estimate.excludes_zero


def test_newcombes_published_example():
    # Newcombe 1998, Statistics in Medicine 17, table II (a): 56/70 against 48/80, method 10.
    estimate = difference_estimate([Count(48, 80)], [Count(56, 70)])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_no_difference_is_shown_between_similar_rates():
    assert not difference_estimate([Count(20, 50)], [Count(24, 50)]).excludes_zero


def test_a_common_start_is_counted_once():
    start = Count(50, 100)
    assert success_estimate([start] * 3) == success_estimate([start])
    alone = difference_estimate([start], [Count(70, 100)])
    twice = difference_estimate([start], [Count(70, 100), Count(70, 100)])
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high))


def test_two_policies_compared_under_three_seeds_are_one_comparison():
    first, second = Count(50, 100), Count(52, 100)
    assert difference_estimate([first] * 3, [second] * 3) == difference_estimate([first], [second])
