from pathlib import Path

import pytest

from rllib_vla import model_path
from rllib_vla.model_path import resolve_model_path


def test_local_folders_become_absolute(tmp_path, monkeypatch):
    (tmp_path / "models" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model_path("models/a") == str((tmp_path / "models" / "a").resolve())
    assert resolve_model_path(tmp_path / "models" / "a") == str((tmp_path / "models" / "a").resolve())


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_model_path("~/model") == str((tmp_path / "model").resolve())


def test_the_project_folder_is_searched_after_the_working_directory(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "models" / "a").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.setattr(model_path, "PROJECT_ROOT", project)
    monkeypatch.chdir(elsewhere)
    assert resolve_model_path("models/a") == str(project / "models" / "a")
    (elsewhere / "models" / "a").mkdir(parents=True)
    assert resolve_model_path("models/a") == str(elsewhere / "models" / "a")


def test_hub_ids_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model_path("openvla/openvla-7b") == "openvla/openvla-7b"


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "~/model", "a/b/c", "model", "checkpoints/cold_start"])
def test_missing_folders(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"model_path.*make demos sft"):
        resolve_model_path(path)


def test_project_root_holds_the_package():
    assert (Path(model_path.PROJECT_ROOT) / "rllib_vla" / "model_path.py").is_file()
