"""A simulator process under supervision: time limits, restarts by the caller, and errors that show its last words."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from envs.robotwin.real.robotwin_child.protocol import (
    VERSION,
    Channel,
    ChannelClosedError,
    ChannelTimeoutError,
    Message,
    ProtocolError,
)

# The process ends itself at the limit and says where it hung; only if it cannot even do that, it is killed later.
_GRACE_S = 5.0
_NUM_LINES_KEPT, _NUM_LINES_SHOWN = 400, 25
_PROGRAM = "import sys; sys.path.insert(0, {folder!r}); from robotwin_child.main import main; del sys.path[0]; main()"


class SimulatorProcessError(RuntimeError):
    """The simulator process failed; the message ends with the last lines of its standard error."""


class SimulatorDiedError(SimulatorProcessError):
    """The process ended by itself: an abort in C code, a crash, or somebody killed it."""


class SimulatorHungError(SimulatorProcessError):
    """The process did not answer within its time limit and was killed."""


class SimulatorRefusedError(SimulatorProcessError):
    """The request raised an exception there; the process lives on.

    Attributes:
        name: Class of the exception, e.g. ``"UnStableError"``.
        message: Its text.
    """

    def __init__(self, text: str, name: str, message: str):
        super().__init__(text)
        self.name = name
        self.message = message

    def __reduce__(self):
        return type(self), (str(self), self.name, self.message)


def child_command(python: str | os.PathLike | None = None) -> list[str]:
    """Returns the command line that runs `robotwin_child`, with this interpreter or another one."""
    folder = str(Path(__file__).resolve().parent)
    return [str(python or sys.executable), "-c", _PROGRAM.format(folder=folder)]


class SimulatorProcess:
    """One running simulator process.

    Args:
        command: Program and arguments; speaks `robotwin_child.protocol` on its standard streams.
        environment: Environment variables that are added.
        cwd: Working directory; None: this process's.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ):
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for us, who then close it; and it can be killed with its children
        )
        # None once the process has ended: the numbers of closed files are given to others.
        self._channel: Channel | None = Channel(self._process.stdout.fileno(), self._process.stdin.fileno())
        self._lines: collections.deque[str] = collections.deque(maxlen=_NUM_LINES_KEPT)
        self._reader = threading.Thread(target=self._keep_stderr, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def start(self, message: Message, time_limit_s: float) -> dict:
        """Sends the first request and returns the version report of the answer.

        Raises:
            SimulatorProcessError: As `request`; and if the process speaks another protocol version.
        """
        report = self.request(message, time_limit_s).fields
        if report.get("protocol") != VERSION:
            self.kill()
            raise SimulatorProcessError(
                f"the simulator process speaks protocol version {report.get('protocol')}, this one speaks {VERSION}"
            )
        return report

    def request(self, message: Message, time_limit_s: float) -> Message:
        """Sends a request and waits for its answer.

        Args:
            message: The request.
            time_limit_s: Seconds it may take.

        Raises:
            SimulatorHungError: It took longer; the process is killed.
            SimulatorDiedError: The process ended meanwhile.
            SimulatorRefusedError: It raised an exception there.
        """
        what = f"{message.kind!r}"
        if self._channel is None:
            raise SimulatorDiedError(self._with_stderr(f"cannot request {what}: the simulator process has ended"))
        message.fields["time_limit_s"] = time_limit_s
        started = time.monotonic()
        try:
            self._channel.send(message)
            reply = self._channel.receive(time_limit_s + _GRACE_S)
        except ChannelTimeoutError:
            raise self._hung(what, time_limit_s) from None
        except ChannelClosedError:
            if time.monotonic() - started >= time_limit_s:
                raise self._hung(what, time_limit_s) from None
            status = self._wait()
            raise SimulatorDiedError(self._with_stderr(f"the simulator process died in {what}: {status}")) from None
        except ProtocolError as error:
            self.kill()
            raise SimulatorProcessError(
                self._with_stderr(f"the simulator process broke the protocol: {error}")
            ) from error
        if reply.kind == "error":
            fields = reply.fields
            last_call = fields.get("traceback", "").strip()
            raise SimulatorRefusedError(
                self._with_stderr(f"{what} raised {fields['name']}: {fields['message']}\n{last_call}"),
                fields["name"],
                fields["message"],
            )
        return reply

    def close(self, time_limit_s: float) -> None:
        """Asks the process to end, and kills it if it does not within the limit."""
        if self.is_alive:
            with contextlib.suppress(SimulatorProcessError):
                self.request(Message("close"), time_limit_s)
        self.kill()

    def kill(self) -> None:
        """Ends the process and what it started, at once."""
        if self._channel is not None:  # once: later the number of the group may be somebody else's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # also after its own end: what it started may live on
        self._process.wait()
        self._channel = None
        self._reader.join(timeout=1.0)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def _hung(self, what: str, time_limit_s: float) -> SimulatorHungError:
        self.kill()
        return SimulatorHungError(
            self._with_stderr(f"{what} took longer than {time_limit_s:g} s; the process was killed")
        )

    def _wait(self) -> str:
        """Waits for the end of a process that closed its channel; returns how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()
        code = self._process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _with_stderr(self, text: str) -> str:
        lines = [line for line in list(self._lines) if line.strip()][-_NUM_LINES_SHOWN:]
        return text if not lines else text + "\nIts standard error ends with:\n  " + "\n  ".join(lines)

    def _keep_stderr(self) -> None:
        # Closed here and not by `kill`, which would wait for the end of a read that is under way.
        with contextlib.suppress(OSError), self._process.stderr as stderr:
            for line in stderr:
                self._lines.append(line.decode(errors="replace").rstrip())
