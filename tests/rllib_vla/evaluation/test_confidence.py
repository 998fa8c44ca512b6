import pytest

from rllib_vla.evaluation.confidence import wilson_interval


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Published values of the 95 % Wilson score interval without continuity correction.
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17, table I
        (15, 148, 0.0624, 0.1605),  # same table
    ],
)
def test_published_values(k, n, low, high):
    assert wilson_interval(k, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match="No interval"):
        wilson_interval(k, n)
