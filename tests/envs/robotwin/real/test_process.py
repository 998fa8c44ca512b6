"""A supervised process that behaves, prints, raises, exits, aborts, hangs."""

import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs.robotwin.real import process
from envs.robotwin.real.process import (
    SimulatorDiedError,
    SimulatorHungError,
    SimulatorProcess,
    SimulatorProcessError,
    SimulatorRefusedError,
)
from envs.robotwin.real.robotwin_child.protocol import VERSION, Message
from tests.processes import is_running, wait_until

FAKE = [sys.executable, str(Path(__file__).with_name("fake_child.py"))]
PATIENCE_S = 300.0  # for a machine with other things to do


@pytest.fixture
def child():
    child = SimulatorProcess(FAKE)
    yield child
    child.kill()


def test_requests_are_answered_in_order_and_close_ends_it(child):
    assert child.start(Message("start"), PATIENCE_S)["protocol"] == VERSION
    for seed in range(3):
        reply = child.request(Message("echo", {"seed": seed}, {"x": np.full(3, seed)}), PATIENCE_S)
        assert reply.fields["seed"] == seed
        assert reply.arrays["x"].tolist() == [seed] * 3
    child.close(PATIENCE_S)
    assert not child.is_alive


def test_prints_go_nowhere(child):
    assert child.request(Message("print"), PATIENCE_S).fields == {"read": ""}
    assert child.request(Message("echo"), PATIENCE_S).kind == "echo"


def test_an_exception_is_reported_and_the_process_lives_on(child):
    with pytest.raises(SimulatorRefusedError, match="ValueError: that does not work") as caught:
        child.request(Message("complain_and_raise"), PATIENCE_S)
    assert caught.value.name == "ValueError"
    assert "in complain_and_raise" in str(caught.value)  # the traceback
    assert "a complaint" in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))  # crosses Ray's process border
    assert (copy.name, str(copy)) == ("ValueError", str(caught.value))
    assert child.request(Message("echo"), PATIENCE_S).kind == "echo"


def test_exit_is_an_exception_like_any_other(child):
    with pytest.raises(SimulatorRefusedError, match=r"SystemExit: exit\(3\)"):
        child.request(Message("exit"), PATIENCE_S)
    assert child.request(Message("echo"), PATIENCE_S).kind == "echo"


@pytest.mark.parametrize(("how", "status"), [("abort", "signal SIGABRT"), ("leave", "exit status 7")])
def test_death_is_noticed_at_once(child, how, status):
    with pytest.raises(SimulatorDiedError, match=status) as caught:
        child.request(Message(how), PATIENCE_S)
    if how == "abort":
        assert "last words" in str(caught.value)
    assert not child.is_alive
    with pytest.raises(SimulatorProcessError):
        child.request(Message("echo"), PATIENCE_S)


def test_what_a_dead_process_started_goes_with_it_and_holds_nobody_up(tmp_path):
    """Its own child keeps the standard error open, on which nobody may wait then."""
    code = (
        "import pathlib, subprocess, os, sys\n"
        f"child = subprocess.Popen(['sleep', '{PATIENCE_S}'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "os._exit(3)"
    )
    child = SimulatorProcess([sys.executable, "-c", code])
    started = time.monotonic()
    with pytest.raises(SimulatorDiedError, match="exit status 3"):
        child.request(Message("start"), PATIENCE_S)
    assert time.monotonic() - started < PATIENCE_S / 2
    grandchild = int((tmp_path / "pid").read_text())
    time_left_s = started + PATIENCE_S / 2 - time.monotonic()
    assert wait_until(lambda: not is_running(grandchild), time_left_s)  # the kernel ends it when it finds the time


def test_a_hanging_process_says_where_and_is_ended(child):
    child.start(Message("start"), PATIENCE_S)
    started = time.monotonic()
    with pytest.raises(SimulatorHungError, match=r"'hang' took longer than 0.3 s") as caught:
        child.request(Message("hang"), 0.3)
    assert "where_it_hangs" in str(caught.value)
    assert time.monotonic() - started < 60
    assert not child.is_alive


def test_a_process_that_cannot_even_end_itself_is_killed(child, monkeypatch):
    monkeypatch.setattr(process, "_GRACE_S", 0.2)
    child.start(Message("start"), PATIENCE_S)
    with pytest.raises(SimulatorHungError):
        child.request(Message("ignore"), 0.3)
    assert not child.is_alive


def test_another_protocol_version_is_refused(child):
    with pytest.raises(SimulatorProcessError, match=f"version 99, this one speaks {VERSION}"):
        child.start(Message("start", {"protocol": 99}), PATIENCE_S)
    assert not child.is_alive


def test_garbage_on_the_channel_is_refused(child):
    with pytest.raises(SimulatorProcessError, match="broke the protocol"):
        child.request(Message("garbage"), PATIENCE_S)
    assert not child.is_alive


def test_a_program_that_does_not_start_shows_why():
    child = SimulatorProcess([sys.executable, "-c", "import a_module_that_does_not_exist"])
    with pytest.raises(SimulatorDiedError, match="No module named 'a_module_that_does_not_exist'"):
        child.start(Message("start"), PATIENCE_S)
