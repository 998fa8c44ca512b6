import pytest
import torch

from rllib_vla.sft.training_state import STATE_FILE, Progress, load_training_state, read_progress, save_training_state
from tests.rllib_vla.sft.conftest import config_for


@pytest.fixture
def saved(tmp_path):
    """Returns a function: writes a state at step 3 of a configuration, and returns its path."""

    def save(config, **state):
        path = tmp_path / STATE_FILE
        save_training_state(path, step=3, config=config.to_dict(), best=None, weight=torch.ones(2), **state)
        return path

    return save


def test_progress_is_that_of_the_run_that_wrote_it(tmp_path, saved):
    assert read_progress(tmp_path / "none.pt") is None
    assert read_progress(saved(config_for(tmp_path, num_steps=7))) == Progress(step=3, num_steps=7)


def test_state_of_other_data_is_refused(tmp_path, saved):
    config = config_for(tmp_path)
    path = saved(config, data_digest="a")
    assert load_training_state(path, config, data_digest="a")["step"] == 3
    with pytest.raises(ValueError, match=r"other demonstrations than those in .*'demos_dir'"):
        load_training_state(path, config, data_digest="b")
    assert load_training_state(path, config, mmap=True)["step"] == 3  # a dry run does not compare them


def test_state_without_a_digest_still_loads(tmp_path, saved):
    config = config_for(tmp_path)
    assert load_training_state(saved(config), config, data_digest="a")["weight"].tolist() == [1, 1]


def test_one_checkpoint_written_in_two_ways_is_the_same(tmp_path, saved, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    path = saved(config_for(tmp_path, model_path="base"))
    assert load_training_state(path, config_for(tmp_path, model_path=str(tmp_path / "base")))["step"] == 3
    with pytest.raises(ValueError, match=r"model_path: '.*base' -> '.*other'"):
        load_training_state(path, config_for(tmp_path, model_path="other"))
    path = saved(config_for(tmp_path, model_path="./gone"))
    with pytest.raises(ValueError, match=r"model_path: './gone' -> '.*base'"):
        load_training_state(path, config_for(tmp_path, model_path="base"))
    assert load_training_state(saved(hub := config_for(tmp_path, model_path="owner/name")), hub)["step"] == 3
