import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from rllib_vla.cli.problems import InputError
from rllib_vla.evaluation.report import EpisodeResult, EvaluationReport
from rllib_vla.experiments.engine import (
    FINISHED_FILE,
    InterruptedRunError,
    StageFailedError,
    is_finished,
    run_command,
    run_plan,
)
from rllib_vla.experiments.kinds.grpo import GRPOKind
from rllib_vla.experiments.plan import make_plan


class FakeCommands:
    """Stands in for the processes: an evaluation writes its result, a training leaves a folder."""

    def __init__(self, *, stop_at: int | None = None, code: int = 130):
        self.commands, self._stop_at, self._code = [], stop_at, code

    def __call__(self, command: list[str]) -> int:
        if len(self.commands) == self._stop_at:
            return self._code
        self.commands.append(command)
        if "evaluate" in command:
            folder = command[command.index("--out") + 1]
            episodes = [EpisodeResult("go_left", 0, 0, True, 8)]
            EvaluationReport("toy", "eval", "greedy", 0, "policy", episodes).save(folder)
        return 0

    @property
    def kinds(self) -> list[str]:
        return ["evaluate" if "evaluate" in command else "train" for command in self.commands]


@pytest.fixture(autouse=True)
def _no_checkpoints(monkeypatch):
    monkeypatch.setattr(GRPOKind, "missing_output", lambda self, folder: None)


def run(plan, directory, call, reuse=()):
    said = []
    run_plan(plan, directory, say=said.append, call=call, reuse=reuse)
    return said


def test_a_killed_run_goes_on_and_repeats_nothing(spec, tmp_path):
    plan, directory = make_plan(spec, (0,)), tmp_path / "run"
    first = FakeCommands(stop_at=3)
    with pytest.raises(InterruptedRunError, match="stopped during 'rl'"):
        run(plan, directory, first)
    assert first.kinds == ["evaluate", "train", "evaluate"]
    second = FakeCommands()
    said = run(plan, directory, second)
    assert second.kinds == ["train", "evaluate"]
    assert [line.endswith("finished before") for line in said] == [True, True, True, False, False]
    third = FakeCommands()
    run(plan, directory, third)
    assert third.commands == []


def test_a_failed_stage_is_not_finished_and_stops_the_run(spec, tmp_path):
    plan = make_plan(spec, (0,))
    with pytest.raises(StageFailedError, match=r"stage 'rl' in .* failed: exit code 1"):
        run(plan, tmp_path / "run", FakeCommands(stop_at=1, code=1))
    finished = [is_finished(tmp_path / "run" / node.folder_name) for node in plan.nodes.values()]
    assert finished == [True, False, False, False, False]


def test_a_command_that_leaves_nothing_behind_has_failed(spec, tmp_path):
    plan = make_plan(spec, (0,))
    with pytest.raises(StageFailedError, match=r"evaluation\.json was not written"):
        run(plan, tmp_path / "run", lambda command: 0)


def test_inputs_of_a_stage_are_what_earlier_ones_made(spec, tmp_path):
    plan = make_plan(spec, (0,))
    calls = FakeCommands()
    run(plan, tmp_path / "run", calls)
    rl = plan.nodes[plan.runs["paper", 0]["rl"]]
    command = calls.commands[2]
    assert command[command.index("evaluate") + 1] == str(tmp_path / "run" / rl.folder_name / "train")
    record = json.loads((tmp_path / "run" / rl.folder_name / FINISHED_FILE).read_text())
    assert record["software"]["python"]


def test_the_file_of_a_training_holds_policy_and_seed(spec, tmp_path):
    import yaml

    plan = make_plan(spec, (7,))
    run(plan, tmp_path / "run", FakeCommands())
    rl = plan.nodes[plan.runs["cold", 7]["rl"]]
    written = yaml.safe_load((tmp_path / "run" / rl.folder_name / "grpo.yaml").read_text())["train"]
    assert written["config"]["debugging"]["seed"] == 7
    assert written["config"]["rl_module"]["model_config"]["model_path"] == str(tmp_path / "policy" / "weights")
    assert written["config"]["training"] == {"minibatch_size": 8, "temperature": 1.0}
    assert written["storage_path"] == str(tmp_path / "run" / rl.folder_name)


def test_finished_stages_of_other_runs_are_taken_over(spec, tmp_path):
    for arm in ("paper", "cold"):  # as on two machines
        run(make_plan(spec.with_arms([arm]), (0,)), tmp_path / arm, FakeCommands())
    plan, calls = make_plan(spec, (0, 1)), FakeCommands()
    others = [tmp_path / "paper", tmp_path / "cold"]
    said = run(plan, tmp_path / "both", calls, others)
    taken = [line for line in said if "taken from" in line]
    assert len(taken) == 5
    assert calls.kinds == ["train", "evaluate", "train", "evaluate"]
    after = tmp_path / "both" / plan.nodes[plan.runs["cold", 0]["after"]].folder_name
    shutil.rmtree(tmp_path / "cold")
    assert EvaluationReport.load(after).overall.success_rate == 1.0
    assert not list((tmp_path / "both").glob(".*.part"))


def test_what_is_unfinished_elsewhere_is_not_taken_and_what_is_unfinished_here_gives_way(spec, tmp_path):
    plan = make_plan(spec.with_arms(["paper"]), (0,))
    with pytest.raises(InterruptedRunError):
        run(plan, tmp_path / "other", FakeCommands(stop_at=1))
    with pytest.raises(InterruptedRunError):
        run(plan, tmp_path / "run", FakeCommands(stop_at=0))
    before = tmp_path / "run" / plan.nodes[plan.runs["paper", 0]["before"]].folder_name
    (before / "half").touch()
    calls = FakeCommands()
    run(plan, tmp_path / "run", calls, [tmp_path / "other"])
    assert calls.kinds == ["train", "evaluate"]
    assert is_finished(before)
    assert not (before / "half").exists()


def test_stages_are_copied_where_there_are_no_hard_links(spec, tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", no_links)
    plan = make_plan(spec.with_arms(["paper"]), (0,))
    run(plan, tmp_path / "other", FakeCommands())
    calls = FakeCommands()
    run(plan, tmp_path / "run", calls, [tmp_path / "other"])
    assert calls.kinds == []
    assert all(is_finished(tmp_path / "run" / n.folder_name) for n in plan.nodes.values())


def test_two_runs_at_a_time_are_refused(spec, tmp_path):
    plan = make_plan(spec, (0,))

    def another(command):
        with pytest.raises(InputError, match="being run by another process"):
            run(plan, tmp_path / "run", FakeCommands())
        return 130

    with pytest.raises(InterruptedRunError):
        run(plan, tmp_path / "run", another)


def test_sigterm_reaches_the_command(tmp_path):
    """The process that runs the stages is told to stop: its command gets the signal and may wind up."""
    ready = tmp_path / "ready"
    child = [
        "import signal, sys, time",
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))",
        f"open({str(ready)!r}, 'w').close()",
        "time.sleep(60)",
    ]

    def stop_when_ready():
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_ready, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    assert run_command([sys.executable, "-c", "\n".join(child)]) == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_exit_codes_are_handed_on():
    assert run_command([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_a_stage_that_survives_its_run_keeps_a_second_run_out(spec, tmp_path):
    stage = textwrap.dedent("""
        import sys, time
        print("up", flush=True)
        time.sleep(60)
    """)
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from rllib_vla.experiments.engine import _locked, run_command
        with _locked(Path({str(tmp_path)!r})) as lock:
            run_command([sys.executable, "-c", {stage!r}], keep_open=lock)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "up\n"
        process.kill()
        process.wait()
        with pytest.raises(InputError, match="a stage of a run that was killed"):
            run(make_plan(spec, (0,)), tmp_path, FakeCommands())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
