"""What is wrong with a user's input, and the error that carries all of it at once."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

KeyPath = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake in an experiment file or on the command line.

    Attributes:
        message: What is wrong and, where known, what to write instead.
        path: Keys from the top of the document down to the faulty value.
        line: Line in the file (1-based), None for values that come from elsewhere.
        source: File name or command-line option the value was read from.
    """

    message: str
    path: KeyPath = ()
    line: int | None = None
    source: str = ""

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line is not None else self.source
        key = format_path(self.path)
        return ": ".join(part for part in (where, key, self.message) if part)


class InputError(Exception):
    """The user's input cannot be used. Shown as a panel without traceback, exit code 2.

    Attributes:
        problems: Everything that was found, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem] | str):
        if isinstance(problems, str):
            problems = [Problem(problems)]
        self.problems = sorted(problems, key=lambda p: (p.source, p.line or 0))
        super().__init__("\n".join(map(str, self.problems)))


def format_path(path: KeyPath) -> str:
    """Writes `("a", "b", 2)` as ``a.b[2]``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def nearest(name: object, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Returns the candidate that looks most like `name` or is its beginning or end; None if none is similar.

    Case does not matter, and private names (with a leading underscore) are not proposed.
    """
    name = str(name)
    candidates = sorted(candidate for candidate in candidates if not candidate.startswith("_"))
    continued = [c for c in candidates if len(name) > 3 and c.startswith(f"{name}_")]
    if len(continued) == 1:
        return continued[0]
    by_lower = {candidate.lower(): candidate for candidate in reversed(candidates)}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    if found:
        return by_lower[found[0]]
    ends = (f"_{name}", f"/{name}")
    longer = [c for c in candidates if len(name) > 3 and c.endswith(ends)]
    shorter = [c for c in candidates if len(c) > 2 and name.startswith(c)]
    return next(iter(longer + shorter), None)


def did_you_mean(name: object, candidates: Iterable[str]) -> str:
    """Returns a clause for an error message: the nearest valid name, or the (short) list of all of them."""
    candidates = sorted(candidates)
    match = nearest(name, candidates)
    if match is not None:
        return f"did you mean '{match}'?"
    if len(candidates) <= 15:
        return f"valid: {', '.join(candidates)}"
    return "no valid name is similar"


def readable_path(path: Path) -> str:
    """Returns `path` relative to the working directory where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return os.path.normpath(path)
