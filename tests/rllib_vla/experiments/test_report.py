import dataclasses
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from rllib_vla.cli.main import app
from rllib_vla.cli.yaml_lines import parse_yaml
from rllib_vla.evaluation.object_motion import ObjectMotion
from rllib_vla.evaluation.report import EvaluationReport
from rllib_vla.evaluation.videos import read_video, write_video
from rllib_vla.experiments.reader import parse_experiment
from rllib_vla.experiments.report import write_experiment_report
from tests.rllib_vla.reporting.made_up_runs import write_trial

CARRIED = ObjectMotion(0.2, 0.0, 0.0, 0.0, 0.05, True)
PUSHED = ObjectMotion(0.0, 0.0, 0.2, 0.0, 0.0, False)


def report_of(run) -> str:
    _, markdown = write_experiment_report(run.directory, run.directory / "out")
    for link in re.findall(r"\]\(([^)]*)\)", markdown.read_text()):
        assert (run.directory / "out" / link).is_file(), link
    return markdown.read_text()


def test_one_seed_has_wilson_and_newcombe_intervals(spec, made_up):
    run = made_up(spec, (0,))
    run.evaluate("paper", 0, "before", {"go_left": 24, "go_right": 24}, of=40)
    run.evaluate("paper", 0, "after", {"go_left": 36, "go_right": 28}, of=40)
    run.evaluate("cold", 0, "after", {"go_left": 24, "go_right": 26}, of=40)
    text = report_of(run)
    # 48 of 80 and 64 of 80: Wilson.
    assert "| the paper's | 60.0 (49.0 to 70.0) | 80.0 (70.0 to 87.3) | +20.0 (" in text
    assert "the paper's: reinforcement learning changes success by +20.0 percentage points" in text
    assert "T = 1, compared with the paper's: final success differs by -17.5 percentage points" in text
    assert "cover the choice of scenes only" in text
    assert "T = 1: reinforcement learning changes success by +2.5" in text
    assert "no difference is shown: the interval contains 0" in text
    assert "| go_left | 90.0 (" in text
    assert "Figure 4" in text


def test_three_seeds_have_students_intervals_of_paired_differences(spec, made_up):
    run = made_up(spec, (0, 1, 2))
    run.evaluate("paper", 0, "before", {"go_left": 20}, of=40)
    for seed, (paper, cold) in enumerate([(20, 20), (34, 34), (40, 39)]):
        run.evaluate("paper", seed, "after", {"go_left": paper}, of=40)
        run.evaluate("cold", seed, "after", {"go_left": cold}, of=40)
    text = report_of(run)
    # 0.50, 0.85, 1.00 after a start of 0.50 that all seeds share: 20 of 40 episodes.
    assert "50.0 (35.2 to 64.8) | 78.3 (14.6 to 100.0) | +28.3 (-35.4 to +92.1)" in text
    # Differences 0, 0, -0.025: Newcombe's interval of 78.3 and 77.5 % reaches further than Student's.
    assert "final success differs by -0.8 percentage points (95 % interval -18.8 to +17.2, 3 seeds)" in text


def test_an_unfinished_run(spec, made_up):
    run = made_up(spec, (0, 1))
    run.evaluate("paper", 0, "before", {"go_left": 1}, of=2)
    text = report_of(run)
    assert "unfinished: 1 of 9 stages are done" in text
    assert "Nothing can be said yet" in text
    assert text.count("| to do |") == 8


def test_an_evaluation_alone_compares_nothing(text, made_up):
    text = text.replace("report: {before: before, after: after, baseline: paper, paper: exploration}", "report: {}")
    run = made_up(parse_experiment(parse_yaml(text, source="toy.yaml"), "toy.yaml"), (0,))
    run.evaluate("paper", 0, "before", {"go_left": 24, "go_right": 24}, of=40)
    page = report_of(run)
    assert "| arm | before | after |\n" in page
    assert "| the paper's | 60.0 (49.0 to 70.0) |  |\n" in page
    assert "Findings" not in page


def test_a_training_that_is_under_way_is_drawn(spec, made_up):
    run = made_up(spec, (0,))
    node = run.plan.nodes[run.plan.runs["cold", 0]["rl"]]
    write_trial(run.directory / node.folder_name / "train", 0, {}, [0.2, 0.5], done=False)
    text = report_of(run)
    assert "![training](report_files/training.png)" in text


def test_seen_and_unseen_tasks(text, made_up):
    text = text.replace("baseline: paper, paper: exploration", "unseen_tasks: [go_right], paper: generalisation")
    run = made_up(parse_experiment(parse_yaml(text, source="toy.yaml"), "toy.yaml"), (0,))
    run.evaluate("paper", 0, "before", {"go_left": 10, "go_right": 20}, of=40)
    run.evaluate("paper", 0, "after", {"go_left": 30, "go_right": 10}, of=40)
    page = report_of(run)
    assert "| the paper's | before | 25.0 (14.2 to 40.2) | 50.0 (35.2 to 64.8) |  |" in page
    assert "| the paper's | after | 75.0 (59.8 to 85.8) | 25.0 (14.2 to 40.2) | -25.0 (-43.3 to -3.8) |" in page


def test_behaviour_shift_with_videos_side_by_side(spec, made_up):
    run = made_up(spec, (0,))
    # Of the successful ones are pushed: 4 of 20 before, 15 of 30 after.
    before = run.evaluate("paper", 0, "before", {"go_left": 20}, of=40, motions=[CARRIED] * 4 + [PUSHED])
    after = run.evaluate("paper", 0, "after", {"go_left": 30}, of=40, motions=[CARRIED, PUSHED])
    for folder, outcome, length, value in ((before, "failure", 3, 0), (after, "success", 5, 200)):
        frames = [np.full((32, 32, 3), value, np.uint8)] * length
        write_video(folder / "videos" / f"go_left_eval_25_0_{outcome}.mp4", frames)
    page = report_of(run)
    assert "| the paper's | before | 20 | 16 | 0 | 4 | 0 | 0 | 20.0 (8.1 to 41.6) | 80 |" in page
    assert "| the paper's | after | 30 | 15 | 0 | 15 | 0 | 0 | 50.0 (33.2 to 66.8) | 50 |" in page
    assert "the share of pushed objects changes by +30.0 percentage points" in page
    assert "go left eval 25 0: failure → success (pushed)" in page
    (video,) = (run.directory / "out" / "report_files").glob("*.mp4")
    frames, fps = read_video(video)
    assert fps == 20
    assert (len(frames), frames[0].shape) == (5, (32, 64, 3))
    assert frames[-1][:, :28].mean() < 20 < 180 < frames[-1][:, 36:].mean()


def test_scenes_where_success_came_in_another_way_stand_first(spec, made_up):
    run = made_up(spec, (0,))
    for stage, motions in (("before", [CARRIED]), ("after", [CARRIED] * 7 + [PUSHED])):
        folder = run.evaluate("paper", 0, stage, {"go_left": 8}, of=9, motions=motions)
        for i in range(9):
            outcome = "success" if i < 8 else "failure"
            write_video(folder / "videos" / f"go_left_eval_{i:02d}_0_{outcome}.mp4", [np.zeros((32, 32, 3), np.uint8)])
    page = report_of(run)
    first = page.index("go left eval 07 0: success (carried) → success (pushed)")
    assert first < page.index("go left eval 00 0: success (carried) → success (carried)")


def test_videos_side_by_side_where_no_motion_was_recorded(spec, made_up):
    run = made_up(spec, (0,))
    for stage, outcome in (("before", "failure"), ("after", "success")):
        folder = run.evaluate("paper", 0, stage, {"go_left": 1}, of=2)
        write_video(folder / "videos" / f"go_left_eval_00_0_{outcome}.mp4", [np.zeros((32, 32, 3), np.uint8)] * 2)
    page = report_of(run)
    assert "How objects are moved" not in page
    assert "go left eval 00 0: failure → success" in page


def test_videos_follow_the_newest_evaluations(spec, made_up):
    run = made_up(spec, (0,))
    for value in (0, 200):
        for stage in ("before", "after"):
            folder = run.evaluate("paper", 0, stage, {"go_left": 1}, of=2)
            write_video(
                folder / "videos" / "go_left_eval_00_0_failure.mp4", [np.full((32, 32, 3), value, np.uint8)] * 2
            )
        report_of(run)
        (video,) = (run.directory / "out" / "report_files").glob("*.mp4")
        assert np.mean(read_video(video)[0]) == pytest.approx(value, abs=10)


def test_seeds_without_a_success_are_left_out_of_the_shift(spec, made_up):
    """Seed 0 has no success before, seed 1 none after: only seed 2 can be compared."""
    run = made_up(spec, (0, 1, 2))
    won = {"before": (0, 20, 20), "after": (20, 0, 20)}
    for stage, of_seeds in won.items():
        for seed, successes in enumerate(of_seeds):
            if stage == "after" or seed == 2:
                motions = [CARRIED] if stage == "before" else [PUSHED]
                run.evaluate("paper", seed, stage, {"go_left": successes}, of=40, motions=motions)
    page = report_of(run)
    assert "the share of pushed objects changes by +100.0 percentage points" in page


def test_lost_episodes_are_told(spec, made_up):
    run = made_up(spec, (0,))
    folder = run.evaluate("paper", 0, "before", {"go_left": 1}, of=2)
    dataclasses.replace(EvaluationReport.load(folder), num_simulator_failures=3).save(folder)
    assert "3 episodes were lost to failed simulators and do not count." in report_of(run)


def test_a_training_that_just_began_hides_no_other(spec, made_up):
    run = made_up(spec, (0, 1))
    folders = [run.directory / run.plan.nodes[run.plan.runs["cold", seed]["rl"]].folder_name for seed in (0, 1)]
    write_trial(folders[0] / "train", 0, {}, [0.2, 0.5], done=False)
    begun = folders[1] / "train" / "trial"
    begun.mkdir(parents=True)
    (begun / "result.json").touch()
    assert "![training](report_files/training.png)" in report_of(run)


def test_commands(made_up, spec, tmp_path):
    run = made_up(spec, (0,))
    run.evaluate("paper", 0, "before", {"go_left": 1}, of=2)
    done = CliRunner().invoke(app, ["experiment", "report", "toy", "--storage-path", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert (run.directory / "report.html").is_file()
    missing = CliRunner().invoke(app, ["experiment", "report", "none", "--storage-path", str(tmp_path)])
    assert missing.exit_code == 2
    assert "rllib experiment run NAME" in missing.output
    listed = CliRunner().invoke(app, ["experiment", "list"])
    assert "libero_blocks_exploration" in listed.output
    unknown = CliRunner().invoke(app, ["experiment", "run", "libero_blocks_explor", "--dry-run"])
    assert unknown.exit_code == 2
    assert "did you mean 'libero_blocks_exploration'?" in unknown.output


@pytest.mark.parametrize("seeds", ["a", "-1", "0,,1"])
def test_seeds_must_be_numbers(seeds):
    run = CliRunner().invoke(app, ["experiment", "run", "libero_blocks_exploration", f"--seeds={seeds}", "--dry-run"])
    assert run.exit_code == 2
    assert "--seeds" in run.output
