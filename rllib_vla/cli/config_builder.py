"""Plain ``config`` mappings -> checked `AlgorithmConfig` objects."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.search.variant_generator import generate_variants, parse_spec_vars

from rllib_vla.cli import search_space
from rllib_vla.cli.config_schema import RENAMED, Argument, ConfigSchema
from rllib_vla.cli.problems import KeyPath, did_you_mean, nearest
from rllib_vla.cli.value_types import ValueTypeError, check_value

Report = Callable[[KeyPath, str], None]

_SUPPRESS_HINT = re.compile(r"\s*To suppress all validation errors, set.*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One setting with the value a user gave it.

    Attributes:
        argument: What is set.
        value: The value, possibly a search space or with some inside.
        path: Where it was written.
    """

    argument: Argument
    value: Any
    path: KeyPath


class ConfigBuilder:
    """Collects settings for one algorithm, reports what is wrong with them and builds config objects.

    Args:
        algo_class: The RLlib `Algorithm`.
        report: Called with (path, message) for every mistake.
        base: Config to start from; None: the algorithm's defaults.
    """

    def __init__(self, algo_class: type, report: Report, base: AlgorithmConfig | None = None):
        self.algo_class = algo_class
        self._base = algo_class.get_default_config() if base is None else base.copy(copy_frozen=False)
        self._schema = ConfigSchema(self._base)
        self._user_report = report
        self._assignments: dict[str, Assignment] = {}
        self._num_problems = 0

    def add(self, mapping: dict, path: KeyPath) -> None:
        """Adds settings written as fluent sections, flat keys, or both.

        Args:
            mapping: The content of a ``config`` key.
            path: Where `mapping` stands in its document.
        """
        for assignment in self._read(mapping, path):
            self._add(assignment)

    def override(self, mapping: dict, path: KeyPath) -> list[KeyPath]:
        """Adds settings that win over what was given before (command-line options).

        Mappings such as ``env_config`` are merged with what was given, like those of a file that extends another.

        Returns:
            Where parts of mappings had been given that `mapping` gives now.
        """
        changed: list[KeyPath] = []
        for assignment in self._read(mapping, path):
            attribute = assignment.argument.attribute
            earlier = self._assignments.get(attribute)
            before = getattr(self._base, attribute, None) if earlier is None else earlier.value
            value = search_space.merge(before, assignment.value)
            if earlier is not None and value is not assignment.value:
                # Most of it comes from where it was given first.
                changed += [path for path, _ in search_space.leaves(assignment.value, earlier.path)]
                assignment = dataclasses.replace(assignment, path=earlier.path)
            self._assignments[attribute] = dataclasses.replace(assignment, value=value)
        return changed

    def resolve(self, key: str) -> Argument | None:
        """Returns the setting that a flat key means, None if there is none."""
        return self._schema.resolve(key)

    @property
    def flat_keys(self) -> list[str]:
        """All settings by the names that they have directly under ``config``."""
        return list(self._schema.flat)

    def value(self, key: str) -> Any:
        """Returns the value of a flat key: the given one, or the default."""
        attribute = self._schema.resolve(key).attribute
        assignment = self._assignments.get(attribute)
        return getattr(self._base, attribute) if assignment is None else assignment.value

    def path(self, key: str) -> KeyPath:
        """Returns where a flat key was given."""
        assignment = self._assignments.get(self._schema.resolve(key).attribute)
        return () if assignment is None else assignment.path

    def build(self) -> AlgorithmConfig:
        """Returns the config to hand to Tune: search spaces are Tune objects inside.

        Every combination of searched values (where these are few) has to pass the config's own `validate()`.
        Mistakes are reported; the settings they concern are left out.
        """
        config = self._apply(list(self._assignments.values()))
        self._validate_points()
        return config

    def first_point(self) -> AlgorithmConfig:
        """Returns a config without search spaces: the first alternative of each."""
        return self._apply_concrete(self._at(next(search_space.points(self._searches()))))

    def settings(self) -> list[tuple[Argument, Any, KeyPath | None]]:
        """Returns every setting with its value (the given one, or the default) and where it was given."""
        found = []
        seen = set()
        for argument in self._schema.flat.values():
            if argument.attribute in seen:
                continue
            seen.add(argument.attribute)
            assignment = self._assignments.get(argument.attribute)
            if assignment is not None:
                found.append((argument, assignment.value, assignment.path))
            elif argument.section is not None and hasattr(self._base, argument.attribute):
                found.append((argument, getattr(self._base, argument.attribute), None))
        return found

    def _report(self, path: KeyPath, message: str) -> None:
        self._num_problems += 1
        self._user_report(path, message)

    def _add(self, assignment: Assignment) -> None:
        attribute = assignment.argument.attribute
        earlier = self._assignments.get(attribute)
        if earlier is not None:
            name = ".".join(map(str, earlier.path[-2:]))
            self._report(assignment.path, f"sets the same thing as '{name}'; write it in one way only")
            return
        self._assignments[attribute] = assignment

    def _read(self, mapping: Any, path: KeyPath) -> list[Assignment]:
        if not isinstance(mapping, dict):
            self._report(path, "expected a mapping of settings")
            return []
        result = []
        for key, value in mapping.items():
            key_path = (*path, key)
            if key in self._schema.sections and not self._schema.resolve(str(key)):
                result += self._read_section(key, value, key_path)
            elif key in self._schema.sections and isinstance(value, dict):
                # "framework" and the like name both a section and a key in it.
                result += self._read_section(key, value, key_path)
            else:
                result += self._read_key(None, key, value, key_path)
        return result

    def _read_section(self, section: str, value: Any, path: KeyPath) -> list[Assignment]:
        if value is None:
            return []
        if not isinstance(value, dict):
            self._report(path, "is a section: expected a mapping of its settings")
            return []
        if search_space.sampler_of(value):
            self._report(path, "a section cannot be searched as a whole; search its settings one by one")
            return []
        return [a for key, item in value.items() for a in self._read_key(section, key, item, (*path, key))]

    def _read_key(self, section: str | None, key: Any, value: Any, path: KeyPath) -> list[Assignment]:
        argument = self._schema.resolve(key, section) if isinstance(key, str) else None
        if argument is None:
            self._report(path, self._unknown(section, key))
            return []
        checked = self._checked(Assignment(argument, value, path))
        return [] if checked is None else [checked]

    def _unknown(self, section: str | None, key: Any) -> str:
        where = f" in section '{section}'" if section else ""
        if key in RENAMED:
            return f"has a new name: '{RENAMED[key]}'"
        if section and (elsewhere := self._schema.resolve(str(key))) and elsewhere.section:
            return f"unknown key{where}; it belongs to section '{elsewhere.section}'"
        if key in self._schema.deprecated:
            return "was removed from RLlib" + (f"; {did_you_mean(key, self._schema.candidates(section))}")
        if section and not nearest(key, self._schema.candidates(section)):
            match = nearest(key, self._schema.flat)
            if match and (other := self._schema.flat[match].section):
                return f"unknown key{where}; did you mean '{match}' (section '{other}')?"
        return f"unknown key{where}; {did_you_mean(key, self._schema.candidates(section))}"

    def _checked(self, assignment: Assignment) -> Assignment | None:
        """Returns the assignment with its value converted to the annotated type, None after a report."""
        value, argument, path = assignment.value, assignment.argument, assignment.path
        before = self._num_problems
        searches = search_space.find_searches(value, lambda at, message: self._report((*path, *at), message))
        if self._num_problems > before:
            return None
        if argument.name == "evaluation_config" and isinstance(value, dict):
            return dataclasses.replace(assignment, value=self._overrides(value, path))
        for point in search_space.points(searches):
            try:
                converted = check_value(search_space.replace(value, point), argument.annotation)
            except ValueTypeError as error:
                meant = search_space.nearly_sampler(value)
                self._report(path, f"{error}; did you mean '{meant}'?" if meant else str(error))
                return None
            # RLlib drops such values when a trial starts, as if they had not been given.
            if isinstance(converted, int | float) and not isinstance(converted, bool) and converted == -1:
                message = "-1 is RLlib's internal mark for 'not given' and would be ignored"
                self._report(path, f"{message}; write null or another value")
                return None
        return assignment if searches else dataclasses.replace(assignment, value=converted)

    def _overrides(self, value: dict, path: KeyPath) -> dict[str, Any]:
        """Returns ``evaluation_config`` as the attribute overrides that RLlib applies without any check."""
        return {a.argument.attribute: a.value for a in self._read(value, path)}

    def _validate_points(self) -> None:
        others_reported = self._num_problems > 0
        seen: set[str] = set()
        for point in search_space.points(self._searches()):
            assignments = self._at(point)
            shortened: set[str] = set()
            # `validate()` stops at its first error: leave out what it concerns and ask again.
            while (message := self._validation_error(assignments)) is not None:
                culprit, path = self._blame(message, assignments)
                inner = path[len(culprit.path) :] if culprit else ()
                # An error that names no setting, or a mapping as a whole from which something was left out, may be
                # just a consequence of that.
                in_shortened = culprit is not None and culprit.argument.name in shortened and not inner
                is_consequence = others_reported if culprit is None else in_shortened
                if message not in seen and not is_consequence:
                    self._user_report(path, message + _describe_point(point))
                seen.add(message)
                others_reported = True
                if culprit is None:
                    break
                place = assignments.index(culprit)
                if inner and isinstance(culprit.value, dict):
                    shortened.add(culprit.argument.name)
                    assignments[place] = dataclasses.replace(culprit, value=_without(culprit.value, inner))
                else:
                    del assignments[place]
        self._num_problems += len(seen)

    def _validation_error(self, assignments: list[Assignment]) -> str | None:
        num_problems = self._num_problems
        config = self._apply_concrete(assignments)
        if self._num_problems > num_problems:
            return None  # A setter refused a value and this was reported.
        try:
            _quietly(copy.deepcopy(config).validate)
        except Exception as error:
            return _SUPPRESS_HINT.sub("", str(error)).strip() or type(error).__name__
        return None

    @staticmethod
    def _blame(message: str, assignments: list[Assignment]) -> tuple[Assignment | None, KeyPath]:
        """Returns the setting that an error message speaks of: the first one it names, or quotes a value of."""
        words = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", message)
        for word in words:
            for assignment in assignments:
                if word in (assignment.argument.name, assignment.argument.attribute):
                    quoted = (p for p in _key_paths(assignment.value) if f"'{p[-1]}'" in message)
                    return assignment, (*assignment.path, *next(quoted, ()))
        quoted = []
        for assignment in assignments:
            for path, value in _leaves(assignment.value):
                if path and path[-1] in words:
                    return assignment, (*assignment.path, *path)
                match = re.search(rf"(?<![\w/]){re.escape(value)}(?![\w/])", message) if _is_name(value) else None
                if match:
                    quoted.append((-len(path), match.start(), assignment, path))
        if quoted:
            # The suite is quoted along with the task that it lacks: the innermost value is the culprit.
            _, _, assignment, path = min(quoted, key=lambda item: item[:2])
            return assignment, (*assignment.path, *path)
        return None, ()

    def _searches(self) -> list[search_space.Search]:
        tree = {attribute: assignment.value for attribute, assignment in self._assignments.items()}
        return search_space.find_searches(tree, lambda path, message: None)

    def _at(self, point: dict[KeyPath, Any]) -> list[Assignment]:
        """Returns all assignments with concrete values in place of search spaces."""
        result = []
        for attribute, assignment in self._assignments.items():
            inner = {path[1:]: value for path, value in point.items() if path[0] == attribute}
            if inner:
                value = check_value(search_space.replace(assignment.value, inner), assignment.argument.annotation)
                assignment = dataclasses.replace(assignment, value=value)
            result.append(assignment)
        return result

    def _apply_concrete(self, assignments: list[Assignment]) -> AlgorithmConfig:
        """Returns a config without search spaces, those that a base config brought along included."""
        config = self._apply(assignments)
        searched = {key: value for key, value in config.to_dict().items() if any(parse_spec_vars({key: value})[1:])}
        if searched:
            _, resolved = next(generate_variants(searched))
            config.update_from_dict(resolved)
        return config

    def _apply(self, assignments: list[Assignment]) -> AlgorithmConfig:
        config = self._base.copy(copy_frozen=False)
        sections: dict[str | None, list[Assignment]] = {}
        for assignment in assignments:
            sections.setdefault(assignment.argument.section, []).append(assignment)
        for section, members in sections.items():
            arguments = {}
            for member in members:
                value = _to_tune(copy.deepcopy(member.value))
                # A setter could not make sense of a search space in place of its value.
                if section is None or search_space.sampler_of(member.value):
                    setattr(config, member.argument.attribute, value)
                else:
                    arguments[member.argument.name] = value
            if arguments:
                self._call_section(config, section, arguments, members)
        return config

    def _call_section(
        self, config: AlgorithmConfig, section: str, arguments: dict[str, Any], members: list[Assignment]
    ) -> None:
        try:
            _quietly(lambda: getattr(config, section)(**arguments))
        except Exception as error:
            paths = [member.path for member in members if re.search(rf"\b{member.argument.name}\b", str(error))]
            self._report(paths[0] if paths else members[0].path, f"refused by '{section}': {error}")


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        yield path, value
        return
    for key, child in children:
        yield from _leaves(child, (*path, key))


def _key_paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yields the paths of all keys in nested mappings, outer ones first."""
    if isinstance(value, dict):
        yield from ((*path, key) for key in value)
        for key, child in value.items():
            yield from _key_paths(child, (*path, key))


def _without(value: Any, path: KeyPath) -> Any:
    """Returns a copy of nested mappings without the key at `path`, or the key that holds the list it leads into."""
    key, *rest = path
    if rest and isinstance(value[key], dict):
        return value | {key: _without(value[key], tuple(rest))}
    return {name: child for name, child in value.items() if name != key}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) > 2


def _to_tune(value: Any) -> Any:
    searches = search_space.find_searches(value, lambda path, message: None)
    return search_space.replace(value, {search.path: search.to_tune() for search in searches})


def _describe_point(point: dict[KeyPath, Any]) -> str:
    if not point:
        return ""
    values = ", ".join(f"{path[-1]}={value}" for path, value in point.items())
    return f" (at {values})"


def _quietly(function: Callable[[], Any]) -> Any:
    """Calls `function` without RLlib's remarks about API stacks and installed packages."""
    logging.disable(logging.WARNING)
    try:
        return function()
    finally:
        logging.disable(logging.NOTSET)
