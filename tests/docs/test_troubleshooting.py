"""Error messages on the pages are the ones that the code prints."""

import ast
import re
from pathlib import Path

import pytest

from rllib_vla.cli.experiment_file import parse_experiments
from rllib_vla.cli.problems import InputError
from rllib_vla.cli.yaml_lines import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()
CLI = (ROOT / "docs" / "cli.md").read_text()


def words(text: str) -> list[str]:
    text = re.sub(r"\S*[./]\w\S*", " ", text)  # files and settings
    return re.findall(r"[a-z_]{2,}", text.lower())


def quoted_messages() -> list[str]:
    """Returns what the first column of the tables quotes."""
    rows = [line.split(" | ")[0] for line in TROUBLESHOOTING.splitlines() if line.startswith("| `")]
    found = [quote for row in rows for quotes in re.findall(r"`` (.+?) ``|`([^`]+)`", row) for quote in quotes if quote]
    return [re.sub(r"^\w+(Error)?: ", "", message) for message in found]


def literals(source: str) -> list[str]:
    """Returns the texts of a Python file, without what is filled in."""
    texts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            texts.append(" … ".join(parts))
    return texts


@pytest.fixture(scope="module")
def texts() -> list[set[str]]:
    """The words of every text in the code."""
    files = [path for package in ("rllib_vla", "envs", "policies") for path in (ROOT / package).rglob("*.py")]
    found = [text for file in files for text in literals(file.read_text())]
    found += [line for path in (ROOT / "scripts").glob("*.sh") for line in path.read_text().splitlines()]
    return [set(words(text)) for text in found]


def test_there_are_messages():
    assert len(quoted_messages()) > 80


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_is_in_the_code(texts, message):
    """Names and numbers are filled in at run time, so that most of the words in one text have to do."""
    own = words(message)
    assert max(sum(word in text for word in own) for text in texts) >= 0.7 * len(own)


def test_the_example_of_a_file_full_of_mistakes():
    file = re.search(r"For this file\n\n```yaml\n(.*?)```", CLI, re.DOTALL).group(1)
    printed = re.search(r"```text\n(Error: .*?)```", CLI, re.DOTALL).group(1)
    with pytest.raises(InputError) as caught:
        parse_experiments(parse_yaml(file, source="lift.yaml"))
    count = len(caught.value.problems)
    message = f"Error: {count} problems, nothing was started {caught.value}"
    shortened = re.sub(r"\(valid: lift_red_cube, [^)]*\)", "(valid: lift_red_cube, …)", message)
    assert " ".join(shortened.split()) == " ".join(printed.split())
