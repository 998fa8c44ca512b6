"""The training loop on the toy suite, in one process."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from rllib_vla import metrics as names
from rllib_vla.logging.result_view import flatten
from rllib_vla.logging.tensorboard import is_shown
from tests.rllib_vla.toy import SUITE, max_difference, toy_config, weights_of

pytestmark = pytest.mark.usefixtures("ray_session")


METRICS_PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def learner_of(algorithm):
    return algorithm.learner_group._learner


def nans_in(results, path="") -> list[str]:
    if isinstance(results, dict):
        return [p for key, value in results.items() for p in nans_in(value, f"{path}/{key}")]
    return [path] if isinstance(results, float) and math.isnan(results) else []


def undocumented(results) -> list[str]:
    """Returns scalars of TensorBoard that the page on metrics does not explain."""
    documented = re.findall(r"`([^`\n]+)`", METRICS_PAGE.read_text())
    names_of_tasks = re.compile(rf"({names.TASK_SUCCESS_RATE})/.*")
    scalars = [tag for tag, value in flatten(without_config(results)).items() if not isinstance(value, str)]
    tags = [names_of_tasks.sub(r"\1/<task>", tag) for tag in scalars if is_shown(tag)]
    return [tag for tag in tags if not {tag, tag.removeprefix("learners/default_policy/")} & set(documented)]


def without_config(results):
    return {key: value for key, value in results.items() if key != "config"}


def trained_group_ids(algorithm) -> list[list[int]]:
    """Records the groups of every update from now on."""
    import ray

    recorded, update = [], algorithm._update

    def recording(groups):
        ids = [group.group_id for group in groups]
        assert ids == [ray.get(group.episodes)[0].custom_data["group_id"] for group in groups]
        recorded.append(ids)
        update(groups)

    algorithm._update = recording
    return recorded


def test_an_iteration(toy_policy_dir, build):
    algorithm = build(toy_config(toy_policy_dir))
    recorded = trained_group_ids(algorithm)
    before = weights_of(learner_of(algorithm))
    results = algorithm.train()
    assert max_difference(before, weights_of(learner_of(algorithm))) > 0
    assert len(recorded) == 1
    assert len(recorded[0]) == results["sampling"][names.NUM_GROUPS_TRAINED] == 2
    assert algorithm.num_updates == algorithm.env_runner.weights_seq_no == learner_of(algorithm)._weights_seq_no == 1
    assert results["learners"][DEFAULT_MODULE_ID][names.RATIO_MAX_DEVIATION] < 1e-4
    assert 0 < results["env_runners"][names.SUCCESS_RATE] < 1
    assert results["sampling"][names.NUM_ITERATIONS_WITHOUT_UPDATE] == 0
    assert nans_in(without_config(results)) == []
    assert undocumented(results) == []


def test_runner_and_learner_share_one_model(toy_policy_dir, build):
    algorithm = build(toy_config(toy_policy_dir))
    assert algorithm.env_runner.module is learner_of(algorithm).module[DEFAULT_MODULE_ID]


def test_without_contrast_there_is_no_update(toy_policy_dir, build):
    """Only groups in which everybody succeeds are kept, and there are none."""
    algorithm = build(toy_config(toy_policy_dir, success_rate_low=1.0, success_rate_high=1.0, max_sampling_rounds=3))
    before = weights_of(learner_of(algorithm))
    for iteration in (1, 2):
        results = algorithm.train()
        assert max_difference(before, weights_of(learner_of(algorithm))) == 0
        assert algorithm.num_updates == 0
        assert "learners" not in results
        assert nans_in(without_config(results)) == []
        sampling = results["sampling"]
        assert sampling[names.NUM_GROUPS_TRAINED] == 0
        assert sampling[names.NUM_ITERATIONS_WITHOUT_UPDATE] == iteration
        assert sampling[names.NUM_SAMPLING_ROUNDS] == 3
        assert results["env_runners"][names.NUM_TRAJECTORIES] == 3 * 2 * 4


def test_rounds_are_bounded_and_a_small_batch_is_used(toy_policy_dir, build):
    config = toy_config(
        toy_policy_dir, num_groups_per_train_batch=50, num_groups_per_sampling_round=4, max_sampling_rounds=2
    )
    results = build(config).train()
    assert results["sampling"][names.NUM_SAMPLING_ROUNDS] == 2
    assert results["env_runners"][names.NUM_GROUPS] == 8
    assert 0 < results["sampling"][names.NUM_GROUPS_TRAINED] < 8


def carrying(policy_dir, **kwargs):
    """12 groups a round without a filter, 2 trained on: many are left over."""
    settings = {"dynamic_sampling": False, "num_groups_per_sampling_round": 12}
    return toy_config(policy_dir, **(settings | kwargs))


def test_surplus_groups_are_trained_on_in_order(toy_policy_dir, build):
    algorithm = build(carrying(toy_policy_dir, max_group_staleness=2))
    recorded = trained_group_ids(algorithm)
    results = [algorithm.train() for _ in range(4)]
    # Updates 1-3 use groups of weights 0; before the 4th they are 3 updates old: 6 are dropped.
    assert recorded == [[0, 1], [2, 3], [4, 5], [12, 13]]
    sampling = [r["sampling"] for r in results]
    assert [s[names.NUM_GROUPS_CARRIED_OVER] for s in sampling] == [10, 8, 6, 10]
    assert [s[names.NUM_GROUPS_STALE] for s in sampling] == [0, 0, 0, 6]
    assert [s[names.NUM_SAMPLING_ROUNDS] for s in sampling] == [1, 0, 0, 1]


def test_iterations_without_sampling_report_no_nan(toy_policy_dir, build):
    algorithm = build(carrying(toy_policy_dir, max_group_staleness=2))
    algorithm.train()
    results = algorithm.train()
    assert results["sampling"][names.NUM_SAMPLING_ROUNDS] == 0
    assert [nans_in(results[key]) for key in ("env_runners", "sampling", "time_split")] == [[], [], []]
    assert results["sampling"][names.TRAJECTORIES_PER_SECOND] == 0
    assert names.SUCCESS_RATE not in results["env_runners"]


def test_staleness_zero_drops_the_surplus(toy_policy_dir, build):
    algorithm = build(carrying(toy_policy_dir, max_group_staleness=0))
    recorded = trained_group_ids(algorithm)
    results = [algorithm.train() for _ in range(2)]
    assert recorded == [[0, 1], [12, 13]]
    assert results[1]["sampling"][names.NUM_GROUPS_STALE] == 10


def test_evaluation_uses_held_out_scenes_greedily(toy_policy_dir, build):
    config = toy_config(toy_policy_dir).evaluation(evaluation_interval=2, evaluation_num_scenes_per_task=3)
    algorithm = build(config)
    splits, evaluate = set(), algorithm.env_runner.evaluate_scenes

    def recording(requests, **kwargs):
        splits.update(request.scene.split for request in requests)
        return evaluate(requests, **kwargs)

    algorithm.env_runner.evaluate_scenes = recording
    first, second = algorithm.train(), algorithm.train()
    assert splits == {"eval"}
    assert "evaluation" not in first
    for evaluation in (first["evaluation_at_start"], second["evaluation"]):
        assert evaluation[names.NUM_TRAJECTORIES] == 6
        assert set(evaluation[names.TASK_SUCCESS_RATE]) == {"go_left", "go_right"}
        assert 0 <= evaluation[names.SUCCESS_RATE] <= 1


def test_a_run_without_any_working_simulator_stops_with_the_cause(toy_policy_dir, build):
    config = toy_config(toy_policy_dir).environment(SUITE, env_config={"fault": "raise", "fault_scene": None})
    config.env_runners(max_consecutive_simulator_failures=1)
    algorithm = build(config.training(max_sampling_rounds=10))
    with pytest.raises(RuntimeError, match="the toy simulator broke"):
        algorithm.train()


def test_unequal_shares_are_carried_over(toy_policy_dir, build):
    """With two learners five groups make shares of two; the fifth waits. (No second learner is needed to see it.)"""
    algorithm = build(carrying(toy_policy_dir, num_groups_per_train_batch=5, num_groups_per_sampling_round=5))
    algorithm.config = algorithm.config.copy(copy_frozen=False).learners(num_learners=2)
    groups = algorithm._collect_groups()
    assert [g.group_id for g in groups] == [0, 1, 2, 3]
    assert [g.group_id for g in algorithm.carried_over] == [4]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_resumed_run_equals_an_uninterrupted_one(toy_policy_dir, build, tmp_path):
    config = carrying(toy_policy_dir, max_group_staleness=2, num_groups_per_sampling_round=5)
    straight = build(config)
    recorded = trained_group_ids(straight)
    for _ in range(2):
        straight.train()
    straight.save_checkpoint(str(tmp_path))
    moments = learner_of(straight).get_optimizer(DEFAULT_MODULE_ID).state_dict()["state"]

    resumed = build(config)
    resumed.load_checkpoint(str(tmp_path))
    assert max_difference(weights_of(learner_of(straight)), weights_of(learner_of(resumed))) == 0
    restored = learner_of(resumed).get_optimizer(DEFAULT_MODULE_ID).state_dict()["state"]
    assert moments.keys() == restored.keys()
    assert all((moments[k]["exp_avg_sq"] == restored[k]["exp_avg_sq"]).all() for k in moments)
    assert any(m["exp_avg"].any() for m in moments.values())
    assert resumed.num_updates == resumed.env_runner.weights_seq_no == straight.num_updates == 2
    assert resumed.iteration == straight.iteration == 2
    assert [g.group_id for g in resumed.carried_over] == [g.group_id for g in straight.carried_over] != []

    recorded.clear()
    recorded_resumed = trained_group_ids(resumed)
    results = [[algorithm.train() for _ in range(2)] for algorithm in (straight, resumed)]
    assert recorded == recorded_resumed
    assert max_difference(weights_of(learner_of(straight)), weights_of(learner_of(resumed))) < 1e-6
    lifetime = [r[-1]["env_runners"][names.NUM_TRAJECTORIES_LIFETIME] for r in results]
    assert lifetime[0] == lifetime[1] > 0


def test_carried_over_groups_survive_with_their_data(toy_policy_dir, build, tmp_path):
    import ray

    config = carrying(toy_policy_dir)
    original = build(config)
    original.train()
    original.save_checkpoint(str(tmp_path))
    resumed = build(config)
    resumed.load_checkpoint(str(tmp_path))
    for a, b in zip(original.carried_over, resumed.carried_over, strict=True):
        assert (a.weights_seq_no, a.num_model_calls) == (b.weights_seq_no, b.num_model_calls)
        for e, f in zip(ray.get(a.episodes), ray.get(b.episodes), strict=True):
            for key in (Columns.ACTION_LOGP, Columns.ADVANTAGES):
                np.testing.assert_array_equal(e.get_extra_model_outputs(key), f.get_extra_model_outputs(key))


def test_an_older_checkpoint_can_be_loaded_into_a_running_algorithm(toy_policy_dir, build, tmp_path):
    algorithm = build(toy_config(toy_policy_dir))
    algorithm.train()
    saved = weights_of(learner_of(algorithm))
    algorithm.save_checkpoint(str(tmp_path))
    algorithm.train()
    assert max_difference(saved, weights_of(learner_of(algorithm))) > 0
    algorithm.load_checkpoint(str(tmp_path))
    assert max_difference(saved, weights_of(learner_of(algorithm))) == 0
    assert algorithm.env_runner.weights_seq_no == algorithm.num_updates == 1
    assert algorithm.train()["sampling"][names.NUM_GROUPS_TRAINED] == 2


def test_a_truncated_checkpoint_is_refused(toy_policy_dir, build, tmp_path):
    from rllib_vla.checkpoints import TrainingCheckpointError

    algorithm = build(toy_config(toy_policy_dir))
    algorithm.save_checkpoint(str(tmp_path))
    largest = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-10])
    with pytest.raises(TrainingCheckpointError, match=f"{largest.name} is truncated"):
        algorithm.load_checkpoint(str(tmp_path))
