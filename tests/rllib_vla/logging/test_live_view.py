import io
from collections import deque

import pytest
from rich.console import Console

from rllib_vla.logging.live_view import TrialRow, live_table, trend


def result(iteration: int, success: float, evaluation: float | None = None) -> dict:
    flat = {
        "training_iteration": iteration,
        "env_runners/success_rate": success,
        "env_runners/share_mixed_groups": 0.5,
        "sampling/env_steps_per_second": 664.2,
    }
    return flat if evaluation is None else flat | {"evaluation/success_rate": evaluation}


def shown(rows: list[list[str]], *, num_trials: int = 1) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(live_table(rows, num_ended=2, num_trials=num_trials))
    return console.export_text()


def test_row_shows_trend_best_speed_and_time_to_go():
    row = TrialRow("00003", 20)
    row.update(result(1, 0.0, 0.6), 500.0, 0.6)
    row.update(result(2, 1.0, 0.4), 125.0, 0.6)
    row.update(result(3, 0.5), 125.0, 0.6)
    fields = {"iteration": 4, "phase": "sample", "groups_collected": 7, "groups_target": 16}
    (_, line) = shown([row.cells(fields, 12.0)]).splitlines()
    expected = ["3/20", "0.50", "▁█▅", "0.40 (best 0.60)", "50%", "664", "2m05s", "sampling  groups 7/16  12s"]
    position = 0
    for part in expected:
        position = line.index(part, position)
    assert "00003" not in line
    several = shown([row.cells(fields, 12.0)], num_trials=5)
    assert "00003" in several
    assert "2 of 5 trials over" in several


def test_row_before_the_first_result():
    cells = TrialRow("00000", None).cells({"iteration": 1, "phase": "evaluate"}, 3.0)
    assert cells == ["00000", "0", "-", "-", "-", "-", "-", "evaluating  3s"]


@pytest.mark.parametrize(("scores", "blocks"), [([0.0, 1.0], "▁█"), ([-1.0, 0.0, 1.0], "▁▅█"), ([0.0, 500.0], "▁█")])
def test_trend(scores, blocks):
    assert trend(deque(scores)) == blocks
