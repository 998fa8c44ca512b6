import pytest

from rllib_vla.cli.problems import InputError
from rllib_vla.cli.yaml_lines import load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-6", 5e-6),
        ("1E3", 1000.0),
        ("-2e+1", -20.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("12", 12),
        ("true", True),
        ("yes", "yes"),
        ("1.2.3", "1.2.3"),
        ("e-6", "e-6"),
        ("null", None),
    ],
)
def test_scalars(text, value):
    parsed = parse_yaml(f"a: {text}", "f").data["a"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_every_key_has_its_line():
    document = parse_yaml("a:\n  b: 1\n  c:\n    - {d: 2}\n    -\n      e: 3\n", "f")
    assert document.lines[("a", "b")] == 2
    assert document.lines[("a", "c", 0, "d")] == 4
    assert document.lines[("a", "c", 1, "e")] == 6
    assert document.line(("a", "b", "missing")) == 2


def test_duplicate_key_is_a_problem():
    (problem,) = parse_yaml("a:\n  b: 1\n  b: 2\n", "f").problems
    assert str(problem) == "f:3: a.b: given twice (first in line 2)"


def test_merge_keeps_own_values_and_lines():
    document = parse_yaml("base: &x\n  lr: 1\n  n: 2\na:\n  lr: 3\n  <<: *x\n", "f")
    assert document.data["a"] == {"lr": 3, "n": 2}
    assert document.lines[("a", "lr")] == 5
    assert document.problems == []


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "a: &x [*x]", "a: 1\n---\nb: 2\n"])
def test_broken_documents_are_refused(text):
    with pytest.raises(InputError):
        parse_yaml(text, "f")


def test_syntax_error_names_the_line():
    with pytest.raises(InputError, match=r"^f:3: not valid YAML"):
        parse_yaml("a: 1\nb: 2\nc: d: e\n", "f")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_yaml(tmp_path / "none.yaml")
