from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, Optional, Union

import pytest

from rllib_vla.cli.value_types import ValueTypeError, check_value


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (1e6, int, 1_000_000),
        (3, float, 3.0),
        (3, Union[float, int], 3),
        (None, Optional[int], None),
        ([1, 2], list[float], [1.0, 2.0]),
        ([0.9, 0.99], tuple[float, float], (0.9, 0.99)),
        ("a", Literal["a", "b"], "a"),
        ({"x": 1}, dict[str, Any], {"x": 1}),
        ("auto", int | str, "auto"),
        ("collections.OrderedDict", type[dict], OrderedDict),
        ("anything", Any, "anything"),
    ],
)
def test_accepted(value, annotation, result):
    converted = check_value(value, annotation)
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("5", int, "expected a whole number, got text '5'"),
        (1.5, int, "whole number"),
        (True, int, "whole number"),
        (1, bool, "true or false"),
        ("yes", bool, "true or false"),
        (None, int, "got null"),
        ("c", Literal["a", "b"], "one of 'a', 'b'"),
        ([1, "x"], list[int], "item 2: expected a whole number"),
        ([1], tuple[int, int], "expected 2 items, got 1"),
        (3, dict | None, "a mapping or null"),
        ("no.such.module", Callable, "cannot import"),
        ("collections.Nothing", type, "has no 'Nothing'"),
        ("word", type, "no dotted name"),
    ],
)
def test_refused(value, annotation, message):
    with pytest.raises(ValueTypeError, match=message):
        check_value(value, annotation)
