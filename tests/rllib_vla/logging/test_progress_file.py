from rllib_vla.logging.progress_file import ProgressFile, read_progress


def test_fields_are_kept_within_a_phase_and_forgotten_after(tmp_path):
    progress = ProgressFile(tmp_path, min_interval_s=0)
    assert read_progress(tmp_path) is None
    progress.update("sample", 1, groups_target=16)
    progress.update("sample", 1, groups_collected=3)
    fields = read_progress(tmp_path)
    assert (fields["phase"], fields["iteration"]) == ("sample", 1)
    assert (fields["groups_collected"], fields["groups_target"]) == (3, 16)
    progress.update("update", 1)
    assert set(read_progress(tmp_path)) == {"phase", "iteration", "since"}


def test_writes_are_rare_but_a_new_phase_is_written_at_once(tmp_path):
    progress = ProgressFile(tmp_path, min_interval_s=3600)
    progress.update("sample", 1, groups_collected=1)
    progress.update("sample", 1, groups_collected=2)
    assert read_progress(tmp_path)["groups_collected"] == 1
    progress.update("update", 1)
    assert read_progress(tmp_path)["phase"] == "update"
