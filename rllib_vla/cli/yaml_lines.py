"""YAML with line numbers: every key remembers where it stands, and YAML's known traps are closed.

Differences from ``yaml.safe_load``: ``5e-6`` is a number (plain YAML 1.1 reads it as text), a key given twice
is a problem (plain PyYAML silently keeps the last one), and ``yes/no/on/off`` stay text as in YAML 1.2.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from rllib_vla.cli.problems import InputError, KeyPath, Problem, readable_path

_MERGE = "tag:yaml.org,2002:merge"
_FLOAT = "tag:yaml.org,2002:float"
_BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's idea of floats and booleans."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_FLOAT, _BOOL)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))$"
        r"|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


@dataclasses.dataclass
class Document:
    """A parsed YAML file.

    Attributes:
        data: Plain Python data.
        source: How the file is called in messages.
        lines: Key path -> line number (1-based) of that key or list item.
        problems: Mistakes found while reading (duplicate keys).
        origins: Key path -> command-line option that gave the value (instead of a line).
        sources: Key path -> file that its line is in, where that is not `source` (``extends``).
    """

    data: Any
    source: str
    lines: dict[KeyPath, int] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    origins: dict[KeyPath, str] = dataclasses.field(default_factory=dict)
    sources: dict[KeyPath, str] = dataclasses.field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """Returns the line of `path`, or of its nearest ancestor that stands in the file."""
        known = self._nearest_known(path)
        return None if known is None else self.lines[known]

    def source_of(self, path: KeyPath) -> str:
        """Returns the file in which `line(path)` is."""
        return self.sources.get(self._nearest_known(path), self.source)

    def option_of(self, path: KeyPath) -> str | None:
        """Returns the command-line option that gave the value at `path`, None if the file did."""
        return next((self.origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.origins), None)

    def place(self, path: KeyPath) -> str:
        """Returns where the value at `path` was given: a command-line option, or ``file:line``."""
        line = self.line(path)
        return self.option_of(path) or (self.source_of(path) + (f":{line}" if line is not None else ""))

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Makes a `Problem` located at `path`."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return Problem(message, path=path[end - 1 :], source=self.origins[path[:end]])
        return Problem(message, path=path, line=self.line(path), source=self.source_of(path))

    def _nearest_known(self, path: KeyPath) -> KeyPath | None:
        return next((path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines), None)


def load_yaml(path: str | Path) -> Document:
    """Reads one YAML document from a file.

    Raises:
        InputError: The file cannot be read, is no YAML, or holds several documents.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"cannot read {readable_path(path)}: {reason}") from error
    return parse_yaml(text, source=readable_path(path))


def parse_yaml(text: str, source: str) -> Document:
    """Parses YAML (or JSON, its subset) from a string; see `load_yaml`."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        document = Document(data=None, source=source)
        if node is not None:
            document.data = _construct(loader, node, (), document)
        return document
    except RecursionError as error:
        message = "an anchor contains itself"
        raise InputError([Problem(message, source=source)]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        context = getattr(error, "context", None)
        line = mark.line + 1 if mark else None
        message = f"not valid YAML: {message}" + (f" ({context})" if context else "")
        raise InputError([Problem(message, line=line, source=source)]) from error
    finally:
        loader.dispose()


def _construct(loader: _Loader, node: yaml.Node, path: KeyPath, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node, path, document)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            item_path = (*path, index)
            document.lines[item_path] = item.start_mark.line + 1
            items.append(_construct(loader, item, item_path, document))
        return items
    return loader.construct_object(node, deep=True)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode, path: KeyPath, document: Document) -> dict:
    own: dict[Any, Any] = {}
    merged: dict[Any, Any] = {}
    # Merges come first, so that the line of a key that is given here wins over the line of the merged one.
    for key_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
        line = key_node.start_mark.line + 1
        if key_node.tag == _MERGE:
            parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for part in parts:
                if not isinstance(part, yaml.MappingNode):
                    problem = Problem("'<<' merges mappings only", path=path, line=line, source=document.source)
                    document.problems.append(problem)
                    continue
                for key, value in _construct_mapping(loader, part, path, document).items():
                    merged.setdefault(key, value)
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            message = "a key must be a plain word or number"
            document.problems.append(Problem(message, path=path, line=line, source=document.source))
            continue
        key = loader.construct_object(key_node)
        key_path = (*path, key if isinstance(key, str | int) else str(key))
        if key in own:
            first = document.lines[key_path]
            message = f"given twice (first in line {first})"
            document.problems.append(Problem(message, path=key_path, line=line, source=document.source))
            continue
        document.lines[key_path] = line
        own[key] = _construct(loader, value_node, key_path, document)
    return {**merged, **own}
