"""Checks a plain YAML value against the type annotation of the config argument it is meant for."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import types
import typing
from pathlib import Path
from typing import Any


class ValueTypeError(ValueError):
    """A value does not fit its annotation; the message says what was expected."""


_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
    type(None): "null",
    type: "a class (as 'package.module.Name')",
    collections.abc.Callable: "a function (as 'package.module.name')",
}
_SEQUENCES = (list, tuple, collections.abc.Sequence)


def check_value(value: Any, annotation: Any) -> Any:
    """Returns `value` converted to what `annotation` asks for.

    Conversions are lossless only: whole floats to int (``1e6``), int to float, list to tuple, and dotted
    names (``package.module.Name``) to the class or function they name. Annotations that say nothing accept all.

    Args:
        value: Plain data from YAML or JSON.
        annotation: A resolved type hint.

    Raises:
        ValueTypeError: `value` does not fit.
    """
    accepted, result, reason = _convert(value, annotation)
    if not accepted:
        raise ValueTypeError(reason or f"expected {describe(annotation)}, got {_describe_value(value)}{_hint(value)}")
    return result


def describe(annotation: Any) -> str:
    """Returns an annotation in words, e.g. ``a whole number or null``."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        names = dict.fromkeys(describe(arg) for arg in args)
        if "a number" in names:
            names.pop("a whole number", None)
        return " or ".join(names)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin in _SEQUENCES and args and args[0] is not Ellipsis:
        return "a list of lists" if typing.get_origin(args[0]) in _SEQUENCES else f"a list of {describe(args[0])}"
    return _NAMES.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))


def import_dotted(name: str) -> Any:
    """Imports ``package.module.Name`` (or ``package.module:Name``).

    Raises:
        ValueTypeError: Nothing of that name can be imported.
    """
    module_name, separator, attribute = name.replace(":", ".").rpartition(".")
    if not separator:
        raise ValueTypeError(f"'{name}' is no dotted name of the form 'package.module.Name'")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueTypeError(f"cannot import '{module_name}': {error}") from error
    if not hasattr(module, attribute):
        raise ValueTypeError(f"module '{module_name}' has no '{attribute}'")
    return getattr(module, attribute)


def _convert(value: Any, annotation: Any) -> tuple[bool, Any, str]:
    """Returns (accepted, converted value, reason if a more precise one than the general message is known)."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (None, type(None)):
        return value is None, None, ""
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args)
    if origin is typing.Literal:
        return any(value == arg and type(value) is type(arg) for arg in args), value, ""
    if annotation is bool:
        return isinstance(value, bool), value, ""
    if annotation is int:
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        return whole, int(value) if whole else value, ""
    if annotation is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number, float(value) if number else value, ""
    if annotation is str:
        return isinstance(value, str), value, ""
    if annotation is Path:
        return isinstance(value, str), Path(value) if isinstance(value, str) else value, ""
    container = origin or annotation
    if container in (list, collections.abc.Sequence, tuple):
        return _convert_sequence(value, container, args)
    if container in (dict, collections.abc.Mapping):
        return isinstance(value, dict), value, ""
    if container is type or container is collections.abc.Callable:
        return _convert_importable(value, container)
    # TypeVars, Any, classes of RLlib's own: nothing that plain data could be checked against.
    return True, value, ""


def _convert_union(value: Any, args: tuple) -> tuple[bool, Any, str]:
    # Exact matches first, so that Union[float, int] keeps 3 an int and Union[str, type] keeps text text.
    exact = [arg for arg in args if inspect.isclass(arg) and type(value) is arg]
    reason = ""
    for arg in (*exact, *args):
        accepted, result, why = _convert(value, arg)
        if accepted:
            return True, result, ""
        reason = reason or why
    return False, value, reason


def _convert_sequence(value: Any, container: type, args: tuple) -> tuple[bool, Any, str]:
    if not isinstance(value, list | tuple):
        return False, value, ""
    items = list(value)
    element_types = [args[0]] * len(items) if container is not tuple or args[1:] == (...,) else list(args)
    if args and len(element_types) != len(items):
        return False, value, f"expected {len(element_types)} items, got {len(items)}"
    if args:
        for index, element_type in enumerate(element_types):
            accepted, items[index], reason = _convert(items[index], element_type)
            if not accepted:
                expected = f"expected {describe(element_type)}, got {_describe_value(items[index])}"
                return False, value, f"item {index + 1}: {reason or expected}"
    return True, tuple(items) if container is tuple else items, ""


def _convert_importable(value: Any, container: Any) -> tuple[bool, Any, str]:
    if isinstance(value, str):
        try:
            value = import_dotted(value)
        except ValueTypeError as error:
            return False, value, str(error)
    fits = inspect.isclass(value) if container is type else callable(value)
    return fits, value, ""


def _hint(value: Any) -> str:
    """Returns what to write instead of a value that was not accepted, where this is known."""
    if not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return ": a number is written without quotes"


def _describe_value(value: Any) -> str:
    kind = {bool: "true/false", int: "number", float: "number", str: "text", list: "list", dict: "mapping"}
    if value is None:
        return "null"
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return f"{kind.get(type(value), type(value).__name__)} {text}"
