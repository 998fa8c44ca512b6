import pytest

from rllib_vla.cli.board import check_directory
from rllib_vla.cli.problems import InputError


def test_directories_without_events_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        check_directory(tmp_path / "none")
    with pytest.raises(InputError, match="no TensorBoard events"):
        check_directory(tmp_path)
    (tmp_path / "experiment" / "trial").mkdir(parents=True)
    (tmp_path / "experiment" / "trial" / "events.out.tfevents.1.host").touch()
    check_directory(tmp_path)
