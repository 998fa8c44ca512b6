import json

import pytest

from rllib_vla.logging.result_view import (
    TimeToGo,
    format_duration,
    format_iteration,
    format_progress,
    read_results,
)

RESULT = {
    "training_iteration": 3,
    "time_total_s": 90.0,
    "time_this_iter_s": 30.0,
    "env_runners/success_rate": 0.5,
    "env_runners/share_mixed_groups": 0.75,
    "sampling/num_groups_trained": 16,
    "sampling/env_steps_per_second": 312.4,
    "time_split/sample_s": 20.0,
    "time_split/update_s": 9.0,
    "time_split/sync_s": 0.001,
}


def test_line_of_an_iteration():
    line = format_iteration(RESULT, seconds_to_go=3661)
    expected = "iter    3  success 0.50  mixed 75%  groups 16  312 steps/s  30.0s (sample 20.0 update 9.0)"
    assert line == expected + "  elapsed 1m30s  left 1h01m"


def test_narrow_terminals_get_a_shorter_line():
    def line(width):
        return format_iteration({**RESULT, "evaluation/success_rate": 0.6}, 60, width=width)

    full = line(200)
    assert line(len(full)) == full
    assert line(105).endswith("groups 16  312 steps/s  30.0s  elapsed 1m30s  left 1m00s")
    assert line(80) == "iter    3  success 0.50  eval 0.60  mixed 75%  30.0s  elapsed 1m30s  left 1m00s"
    assert line(70) == "iter    3  success 0.50  eval 0.60  mixed 75%  30.0s  left 1m00s"


def test_iteration_that_sampled_nothing_has_no_speed():
    line = format_iteration({**RESULT, "sampling/env_steps_per_second": 0.0}, None)
    assert "groups 16 carried over  30.0s" in line


def test_new_evaluation_is_shown_with_the_best():
    line = format_iteration({**RESULT, "evaluation/success_rate": 0.6}, None, best=0.8)
    assert "eval 0.60 (best 0.80)" in line


def test_iteration_without_update_and_nan_say_so():
    line = format_iteration(
        {**RESULT, "sampling/num_groups_trained": 0, "env_runners/success_rate": float("nan")}, None
    )
    assert "no update" in line
    assert "success" not in line


def test_plain_algorithms_show_returns():
    assert "return 21.50" in format_iteration({"env_runners/episode_return_mean": 21.5}, None)


def test_progress_within_an_iteration():
    fields = {"phase": "sample", "iteration": 4, "groups_collected": 5, "groups_target": 16, "success_rate": 0.25}
    assert format_progress(fields, 12.4) == "iter    4  sampling  groups 5/16  success so far 0.25  12s"


def test_time_to_go_takes_the_first_criterion():
    to_go = TimeToGo({"training_iteration": 10, "time_total_s": 1000})
    for iteration in (1, 2, 3):
        seconds = to_go.update(
            {"training_iteration": iteration, "time_total_s": 30.0 * iteration, "time_this_iter_s": 30}
        )
    assert seconds == pytest.approx(7 * 30)
    assert TimeToGo({"time_total_s": 100}).update({"time_total_s": 30.0}) == pytest.approx(70)
    assert TimeToGo({"evaluation/success_rate": 1}).update({"time_total_s": 30.0}) is None


def test_time_to_go_after_the_first_iteration_and_after_a_resume():
    first = {"training_iteration": 5, "time_total_s": 100.0, "time_this_iter_s": 20.0}
    assert TimeToGo({"training_iteration": 7}).update(first) == pytest.approx(40)


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7s"), (59.6, "1m00s"), (725, "12m05s"), (12000, "3h20m")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_results_survive_a_kill_and_repeated_iterations(tmp_path):
    lines = [
        {"training_iteration": 1, "a": {"b": 1}},
        {"training_iteration": 2},
        {"training_iteration": 2, "a": {"b": 2}},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"training_iter'
    (tmp_path / "result.json").write_text(text)
    assert read_results(tmp_path) == [{"training_iteration": 1, "a/b": 1}, {"training_iteration": 2, "a/b": 2}]


def test_results_of_weights_that_were_given_up_are_gone(tmp_path):
    """Killed after iteration 4, resumed from the checkpoint of iteration 2, ended at 3."""
    lines = [{"training_iteration": i, "x": x} for i, x in ((1, 0), (2, 0), (3, 0), (4, 0), (3, 1))]
    (tmp_path / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(r["training_iteration"], r["x"]) for r in read_results(tmp_path)] == [(1, 0), (2, 0), (3, 1)]
