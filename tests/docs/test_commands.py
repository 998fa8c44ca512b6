"""Commands and files on the pages that need nothing but the repository are accepted as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rllib_vla.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Returns the words of every command in the page's shell blocks."""
    found, pending = [], ""
    for _, block in (match for match in BLOCK.findall(page.read_text()) if match[0] == "bash"):
        for line in block.splitlines():
            pending += line.removesuffix("\\") + " "
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # within quotes
                continue
            if not line.endswith("\\"):
                found += [words] if words else []
                pending = ""
    return found


TRAININGS = {
    f"{page.name}-{index}": words[1:]
    for page in PAGES
    for index, words in enumerate(commands(page))
    # Other files and checkpoints are the reader's own.
    if words[:3] == ["rllib", "train", "file"] and (ROOT / words[3]).is_file() and "runs/" not in " ".join(words)
}


def test_commands_are_found():
    assert {name.partition("-")[0] for name in TRAININGS} >= {"quickstart.md", "tuned_examples.md"}


@pytest.mark.parametrize("arguments", TRAININGS.values(), ids=TRAININGS)
def test_documented_trainings_are_accepted(arguments, monkeypatch, toy_policy_dir, two_armed_toy_policy_dir):
    monkeypatch.chdir(ROOT)
    options = ["--dry-run"]
    if "model_path: runs/" in Path(arguments[2]).read_text():  # made on the same page; one of the same shape stands in
        stand_in = two_armed_toy_policy_dir if "bimanual" in arguments[2] else toy_policy_dir
        options += ["--config", json.dumps({"rl_module": {"model_config": {"model_path": stand_in}}})]
    run = CliRunner().invoke(app, [word for word in arguments if word != "--resume"] + options)
    assert run.exit_code == 0, run.output


def test_file_of_the_quickstart_is_accepted(tmp_path):
    (text,) = [text for kind, text in BLOCK.findall((ROOT / "docs/quickstart.md").read_text()) if kind == "yaml"]
    path = tmp_path / "cooler.yaml"
    path.write_text(text.replace("extends: tuned_examples", f"extends: {ROOT}/tuned_examples"))
    run = CliRunner().invoke(app, ["train", "file", str(path), "--dry-run"])
    assert run.exit_code == 0, run.output
