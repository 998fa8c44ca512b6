"""The algorithm's part, with learners that are only pretended."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.actor_manager import RemoteCallResults, ResultOrError

from rllib_vla.algorithms.grpo import GRPO
from rllib_vla.checkpoints import MANIFEST, SHARDS_DIR, TrainingCheckpointError, file_entry, verify_checkpoint
from rllib_vla.distributed.checkpointing import ShardCheckpoints, local_storage_dir


class PretendedLearner:
    """Writes its file when `finish` is called, or when somebody waits for it."""

    def __init__(self, rank, *, is_sharded=True):
        self.rank, self.is_sharded = rank, is_sharded
        self.error = self.directory = None
        self.is_done = False

    def save_shards(self, directory):
        self.directory, self.is_done = directory, False

    def finish(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / f"__{self.rank}_0.distcp").write_text(f"shard of {self.rank}")
        self.is_done = True

    def shards_written(self, *, wait):
        if self.error:
            raise TrainingCheckpointError(self.error)
        if wait and not self.is_done:
            self.finish()
        path = self.directory / f"__{self.rank}_0.distcp"
        return {path.name: file_entry(path)} if self.is_done else None


def make_group(*learners):
    def foreach_learner(function):
        results = RemoteCallResults()
        for learner in learners:
            results.add_result(None, ResultOrError(result=function(learner)), None)
        return results

    return SimpleNamespace(foreach_learner=foreach_learner)


@pytest.fixture
def temporary(tmp_path):
    path = tmp_path / "temporary"
    path.mkdir()
    (path / "algorithm_state.pkl").write_text("small")
    return path


@pytest.fixture
def final(tmp_path):
    """Where Tune has copied the small files to."""
    path = tmp_path / "checkpoint_000000"
    path.mkdir()
    (path / "algorithm_state.pkl").write_text("small")
    return path


def test_without_shards_the_manifest_is_written_at_once(temporary, final):
    ShardCheckpoints(make_group(PretendedLearner(0, is_sharded=False)), is_async=True).save(str(temporary), final)
    verify_checkpoint(temporary)


@pytest.mark.parametrize(("is_async", "has_storage"), [(False, True), (True, False)])
def test_synchronous_checkpoints_are_complete_when_they_are_returned(temporary, final, is_async, has_storage):
    checkpoints = ShardCheckpoints(make_group(PretendedLearner(0), PretendedLearner(1)), is_async=is_async)
    checkpoints.save(str(temporary), final if has_storage else None)
    verify_checkpoint(temporary)
    assert len(json.loads((temporary / MANIFEST).read_text())) == 3


def test_an_asynchronous_checkpoint_counts_when_the_last_learner_is_done(temporary, final):
    learners = [PretendedLearner(0), PretendedLearner(1)]
    checkpoints = ShardCheckpoints(make_group(*learners), is_async=True)
    checkpoints.save(str(temporary), final)
    assert not (temporary / SHARDS_DIR).exists()
    for learner in learners:
        checkpoints.complete(wait=False)
        with pytest.raises(TrainingCheckpointError, match="not written to the end"):
            verify_checkpoint(final)
        learner.finish()
    (final / "result.json").write_text("written by somebody else meanwhile")
    checkpoints.complete(wait=False)
    verify_checkpoint(final)
    (final / SHARDS_DIR / "__1_0.distcp").write_text("shard of X")
    with pytest.raises(TrainingCheckpointError, match="checksum"):
        verify_checkpoint(final)


def test_the_next_checkpoint_completes_the_one_before(temporary, final, tmp_path):
    checkpoints = ShardCheckpoints(make_group(PretendedLearner(0)), is_async=True)
    checkpoints.save(str(temporary), final)
    checkpoints.save(str(temporary), tmp_path / "checkpoint_000001")
    verify_checkpoint(final)


def test_a_failed_write_costs_the_checkpoint_only(temporary, final, caplog):
    learners = [PretendedLearner(0), PretendedLearner(1)]
    checkpoints = ShardCheckpoints(make_group(*learners), is_async=True)
    checkpoints.save(str(temporary), final)
    learners[1].error = "OSError: No space left on device"
    checkpoints.complete(wait=True)
    assert "No space left" in caplog.text
    assert not (final / MANIFEST).exists()
    learners[1].error = None
    checkpoints.save(str(temporary), final)
    checkpoints.complete(wait=True)
    verify_checkpoint(final)


def test_a_learner_that_died_leaves_no_manifest(temporary, final, caplog):
    learners = [PretendedLearner(0), PretendedLearner(1)]
    group = make_group(*learners)
    checkpoints = ShardCheckpoints(group, is_async=True)
    checkpoints.save(str(temporary), final)
    group.foreach_learner = make_group(learners[0]).foreach_learner  # Ray asks only those that live
    checkpoints.complete(wait=True)
    assert "a learner is gone" in caplog.text
    assert not (final / MANIFEST).exists()


def test_a_failed_synchronous_write_is_raised(temporary):
    learner = PretendedLearner(0)
    learner.error = "OSError: No space left on device"
    with pytest.raises(TrainingCheckpointError, match="No space left"):
        ShardCheckpoints(make_group(learner), is_async=False).save(str(temporary), None)


def test_shards_on_another_nodes_disk_are_noticed(temporary, final, caplog):
    learner = PretendedLearner(0)
    checkpoints = ShardCheckpoints(make_group(learner), is_async=True)
    checkpoints.save(str(temporary), final)
    learner.shards_written = lambda *, wait: {"__0_0.distcp": {"bytes": 1, "crc32": 0}}
    checkpoints.complete(wait=True)
    assert "that all share" in caplog.text


def test_storage_that_is_no_directory_is_not_written_to():
    import pyarrow.fs

    def storage(filesystem):
        return SimpleNamespace(
            storage_filesystem=filesystem,
            trial_fs_path="/runs/trial",
            current_checkpoint_index=1,
            _make_checkpoint_dir_name=lambda index: f"checkpoint_{index:06d}",
        )

    assert local_storage_dir(None) is None
    assert local_storage_dir(storage(pyarrow.fs.SubTreeFileSystem("bucket", pyarrow.fs.LocalFileSystem()))) is None
    assert str(local_storage_dir(storage(pyarrow.fs.LocalFileSystem()))) == "/runs/trial/checkpoint_000002"


def algorithm_with(monkeypatch, *learners, makes_folder=True):
    """A `GRPO` in a Tune trial of which `save_to_path` works."""

    def save_to_path(self, path, **kwargs):
        if makes_folder:
            Path(path).mkdir()
            Path(path, "algorithm_state.pkl").write_text("small")
        return str(path)

    monkeypatch.setattr(Algorithm, "save_to_path", save_to_path)
    algorithm = object.__new__(GRPO)
    algorithm._storage = SimpleNamespace(storage_filesystem=None)
    algorithm.learner_group = SimpleNamespace(is_local=True)
    algorithm._shards = ShardCheckpoints(make_group(*learners), is_async=True)
    return algorithm


def test_save_to_path_writes_everything_there(tmp_path, monkeypatch):
    """RLlib's own way to save, without Tune; it used to leave out the shards, and with them the weights."""
    algorithm = algorithm_with(monkeypatch, PretendedLearner(0), PretendedLearner(1))
    path = algorithm.save_to_path(tmp_path / "mine")
    verify_checkpoint(path)
    assert len(json.loads(Path(path, MANIFEST).read_text())) == 3


def test_only_whole_learners_save_to_a_clouds_storage(tmp_path, monkeypatch):
    path = str(tmp_path / "bucket" / "checkpoint")
    whole = algorithm_with(monkeypatch, PretendedLearner(0, is_sharded=False), makes_folder=False)
    assert whole.save_to_path(path) == path
    sharded = algorithm_with(monkeypatch, PretendedLearner(0), makes_folder=False)
    with pytest.raises(TrainingCheckpointError, match="that all of them share"):
        sharded.save_to_path(path)
    assert not Path(path).exists()
