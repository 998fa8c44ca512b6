import dataclasses

import numpy as np
import pytest

from rllib_vla.evaluation.report import EpisodeResult, EvaluationReport, num_independent_episodes


@pytest.fixture
def report():
    episodes = [EpisodeResult("lift", i, 0, i < 8, 30 if i < 8 else 64) for i in range(10)]
    episodes += [EpisodeResult("push", i, 0, False, 64) for i in range(10)]
    return EvaluationReport("blocks", "eval", "greedy", 0, "checkpoint", episodes)


def test_summaries(report):
    lift = report.per_task["lift"]
    assert (lift.num_successes, lift.num_episodes, lift.success_rate) == (8, 10, 0.8)
    assert (lift.low, lift.high) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert lift.mean_steps == pytest.approx(36.8)
    assert lift.mean_steps_success == 30
    assert report.overall.success_rate == 0.4


def test_task_without_success_has_an_interval_and_no_successful_length(report):
    push = report.per_task["push"]
    assert push.mean_steps_success is None
    assert (push.low, push.high) == pytest.approx((0.0, 0.2775), abs=5e-5)


def test_markdown_has_a_row_per_task_and_one_for_all(report):
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == ["lift", "push", "**all**"]
    assert "| 80.0 % | 49.0 to 94.3 % | 10 | 36.8 | 30.0 |" in rows[0]
    assert rows[1].endswith("| 64.0 | - |")


def test_saved_report_reads_back_the_same(report, tmp_path):
    assert EvaluationReport.load(report.save(tmp_path / "evaluation")) == report
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir()) == ["evaluation.json", "evaluation.md"]


def test_greedy_repeats_of_a_scene_count_once_in_the_interval():
    episodes = [EpisodeResult("lift", i, repeat, i < 8, 30) for i in range(10) for repeat in range(3)]
    summary = EvaluationReport("blocks", "eval", "greedy", 0, "checkpoint", episodes).overall
    assert (summary.num_episodes, summary.num_independent) == (30, 10)
    assert (summary.low, summary.high) == pytest.approx((0.4902, 0.9433), abs=5e-5)


def sampled(rates, repeats, *, seed=0):
    """Repeats of scenes with the given success probabilities."""
    rng = np.random.default_rng(seed)
    return [
        EpisodeResult("lift", scene, repeat, bool(rng.random() < rate), 30)
        for scene, rate in enumerate(rates)
        for repeat in range(repeats)
    ]


def test_repeats_count_by_how_much_they_tell():
    assert num_independent_episodes(sampled([0.5] * 400, 5)) == pytest.approx(2000, rel=0.1)  # scenes are alike
    # Rates of 0.1 and 0.9: of a single episode's variance, 0.25, 0.16 lies between scenes, so that the mean of
    # 400 scenes has variance (0.16 + 0.09 / 5) / 400, as 562 independent episodes do.
    assert num_independent_episodes(sampled([0.1, 0.9] * 200, 5)) == pytest.approx(562, rel=0.05)
    assert num_independent_episodes(sampled([1.0] * 50, 4)) == 50
    assert num_independent_episodes(sampled([0.3] * 50, 1)) == 50


def test_tasks_of_different_difficulty_do_not_make_repeats_agree():
    easy, hard = sampled([0.9] * 200, 5), sampled([0.2] * 200, 5, seed=1)
    both = easy + [dataclasses.replace(e, task="push") for e in hard]
    assert num_independent_episodes(both) == pytest.approx(2000, rel=0.1)
