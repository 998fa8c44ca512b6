"""Where the time of a call goes: exclusive times of the functions below it."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


class Stopwatch:
    """Adds up the seconds of named parts; what a part spends in an inner part counts for the inner one only.

    Attributes:
        seconds: Name of the part -> seconds since the last `clear`.
    """

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def clear(self) -> None:
        """Starts anew; not within a part."""
        self.seconds.clear()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times a block as part `name`."""
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] += elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed

    def watch(self, owner: Any, attribute: str, part: str | Callable[[Any], str]) -> Any:
        """Returns a context in which calls of a function or method are timed.

        Args:
            owner: Class or module that has it.
            attribute: Its name.
            part: Name of the part, or a function of the first argument (`self`) that gives it.
        """
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def timed(*args, **kwargs):
            with self.part(part if isinstance(part, str) else part(args[0])):
                return original(*args, **kwargs)

        return mock.patch.object(owner, attribute, timed)
