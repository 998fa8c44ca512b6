"""Search spaces in plain data, at any depth: ``{grid_search: [...]}``, ``{tune.loguniform: [1e-6, 1e-5]}``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from rllib_vla.cli.problems import KeyPath, did_you_mean, nearest

GRID = "grid_search"
_PREFIX = "tune."
# Sampler -> (least, most) number of arguments; None where the arguments are a list of alternatives.
_SAMPLERS: dict[str, tuple[int, int] | None] = {
    "choice": None,
    "uniform": (2, 2),
    "quniform": (3, 3),
    "loguniform": (2, 3),
    "qloguniform": (3, 4),
    "randn": (0, 2),
    "qrandn": (3, 3),
    "randint": (2, 2),
    "qrandint": (2, 3),
    "lograndint": (2, 3),
    "qlograndint": (3, 4),
}
_LOGARITHMIC = ("loguniform", "qloguniform", "lograndint", "qlograndint")
_MAX_PRODUCT = 64


@dataclasses.dataclass(frozen=True)
class Search:
    """One searched value.

    Attributes:
        path: Where it stands, relative to the tree it was found in.
        sampler: ``grid_search`` or the name of a `ray.tune` sampler.
        arguments: Alternatives of a grid or choice, otherwise the sampler's numbers.
    """

    path: KeyPath
    sampler: str
    arguments: tuple

    @property
    def alternatives(self) -> tuple:
        """Values to check before training: all of a grid or choice, otherwise both ends of the range."""
        if self.sampler in (GRID, "choice"):
            return self.arguments
        if self.sampler in ("randn", "qrandn"):
            return (float(self.arguments[0]) if self.arguments else 0.0,)
        low, high = self.arguments[:2]
        # Tune's integer ranges exclude their upper end, except for the quantised ones.
        return (low, high - 1) if self.sampler in ("randint", "lograndint") else (low, high)

    def to_tune(self) -> Any:
        """Returns the object Tune understands."""
        if self.sampler == GRID:
            return {GRID: list(self.arguments)}
        from ray import tune

        arguments = (list(self.arguments),) if self.sampler == "choice" else self.arguments
        return getattr(tune, self.sampler)(*arguments)


def find_searches(tree: Any, report: Callable[[KeyPath, str], None]) -> list[Search]:
    """Finds every searched value in nested plain data.

    Args:
        tree: Plain data (mappings, lists, scalars).
        report: Called with (path, message) for each malformed one.
    """
    return list(_find(tree, (), report))


def sampler_of(node: Any) -> str | None:
    """Returns ``grid_search`` or ``tune.<name>`` if `node` is a mapping that stands for a searched value."""
    if isinstance(node, dict) and len(node) == 1:
        (key,) = node
        if isinstance(key, str) and (key == GRID or key.startswith(_PREFIX)):
            return key
    return None


def nearly_sampler(node: Any) -> str | None:
    """Returns the sampler that the only key of a mapping was probably meant to be, None if it looks like none."""
    if not (isinstance(node, dict) and len(node) == 1) or sampler_of(node):
        return None
    (key,) = map(str, node)
    return f"{_PREFIX}{key}" if key in _SAMPLERS else nearest(key, [GRID, *(_PREFIX + name for name in _SAMPLERS)])


def replace(tree: Any, values: dict[KeyPath, Any]) -> Any:
    """Returns a copy of nested plain data with the values at some paths replaced."""

    def copy(node: Any, path: KeyPath) -> Any:
        if path in values:
            return values[path]
        if isinstance(node, dict):
            return {k: copy(v, (*path, k)) for k, v in node.items()}
        if isinstance(node, list):
            return [copy(v, (*path, i)) for i, v in enumerate(node)]
        return node

    return copy(tree, ())


def leaves(tree: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yields (path, value) of everything in nested mappings; lists and searches count as one value."""
    if isinstance(tree, dict) and tree and not sampler_of(tree):
        for key, inner in tree.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, tree


def merge(before: Any, changes: Any) -> Any:
    """Returns `before` with `changes` put in: mappings key by key, everything else (searches, too) as a whole."""
    if not (isinstance(before, dict) and isinstance(changes, dict)) or sampler_of(before) or sampler_of(changes):
        return changes
    return before | {key: merge(before[key], value) if key in before else value for key, value in changes.items()}


def points(searches: list[Search]) -> Iterator[dict[KeyPath, Any]]:
    """Yields assignments of concrete values to all searches, for checking.

    All combinations of the alternatives where these are few, otherwise each alternative on its own with the
    first ones of the others.
    """
    count = 1
    for search in searches:
        count *= len(search.alternatives)
    if count <= _MAX_PRODUCT:
        for values in itertools.product(*(search.alternatives for search in searches)):
            yield {search.path: value for search, value in zip(searches, values, strict=True)}
        return
    first = {search.path: search.alternatives[0] for search in searches}
    yield first
    for search in searches:
        for value in search.alternatives[1:]:
            yield {**first, search.path: value}


def _find(node: Any, path: KeyPath, report: Callable[[KeyPath, str], None]) -> Iterator[Search]:
    key = sampler_of(node)
    if key is not None:
        message = _mistake(key, node[key])
        if message:
            report((*path, key), message)
        else:
            arguments = node[key] if isinstance(node[key], list) else [node[key]]
            yield Search(path, key.removeprefix(_PREFIX), tuple(arguments))
        return
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        if isinstance(node, dict) and (name == GRID or (isinstance(name, str) and name.startswith(_PREFIX))):
            report((*path, name), "must be the only key of its mapping")
            continue
        yield from _find(child, (*path, name), report)


def _mistake(key: str, arguments: Any) -> str | None:
    name = key.removeprefix(_PREFIX)
    if key != GRID and name not in _SAMPLERS:
        return f"unknown sampler; {did_you_mean(key, [_PREFIX + known for known in _SAMPLERS])}"
    if key == GRID or _SAMPLERS[name] is None:
        if not isinstance(arguments, list) or not arguments:
            return "expected a list with at least one alternative"
        inner: list[str] = []
        nested = list(_find(arguments, (), lambda path, message: inner.append(message)))
        return "a search cannot stand inside another" if nested or inner else None
    arguments = arguments if isinstance(arguments, list) else [arguments]
    least, most = _SAMPLERS[name]
    if not least <= len(arguments) <= most:
        count = str(least) if least == most else f"{least} to {most}"
        return f"expected {count} numbers, got {len(arguments)}"
    if not all(isinstance(a, int | float) and not isinstance(a, bool) for a in arguments):
        return "expected numbers"
    if name in ("randn", "qrandn"):
        return None
    low, high = arguments[:2]
    if not low < high:
        return f"the lower bound {low} must be below the upper bound {high}"
    if name in _LOGARITHMIC and low <= 0:
        return f"a logarithmic range must be above 0, got {low}"
    return None
