"""What the tests of the command line share."""

from pathlib import Path

import pytest

from rllib_vla.cli.experiment_file import parse_experiments
from rllib_vla.cli.problems import InputError
from rllib_vla.cli.yaml_lines import parse_yaml


@pytest.fixture
def problems_of():
    """Returns the problems of an experiment text as "line: path: message"."""

    def problems(text: str) -> list[str]:
        with pytest.raises(InputError) as caught:
            parse_experiments(parse_yaml(text, source="f.yaml"))
        return [str(problem).removeprefix("f.yaml:") for problem in caught.value.problems]

    return problems


@pytest.fixture
def experiment_of():
    """Returns the only experiment of a text."""

    def experiment(text: str):
        (only,) = parse_experiments(parse_yaml(text, source="f.yaml"))
        return only

    return experiment


@pytest.fixture
def write(tmp_path: Path):
    """Writes a file and returns its path as text."""

    def write_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_file
