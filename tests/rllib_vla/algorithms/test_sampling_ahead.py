"""Which weights sample what is trained on, and that nothing changes without staleness."""

import numpy as np
import pytest
import ray
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_vla import metrics as names
from rllib_vla.distributed.checkpointing import ShardCheckpoints
from tests.rllib_vla.algorithms.stand_ins import make_loop, replace_object_store, train
from tests.rllib_vla.toy import episodes_of, make_learner, make_runner, max_difference, toy_config, weights_of


@pytest.fixture(autouse=True)
def object_store(monkeypatch):
    replace_object_store(monkeypatch)


@pytest.fixture
def loop_of(toy_policy_dir):
    loops = []

    def loop_of(**training):
        loops.append(make_loop(toy_config(toy_policy_dir, **({"dynamic_sampling": False} | training))))
        return loops[-1]

    yield loop_of
    for loop in loops:
        loop.env_runner_group.runner.stop()


def recorded_versions(loop) -> list[dict[int, int]]:
    """Group id -> version of the weights that sampled it, for every update."""
    recorded, update = [], loop._update

    def recording(groups):
        recorded.append({g.group_id: ray.get(g.episodes)[0].custom_data["weights_seq_no"] for g in groups})
        update(groups)

    loop._update = recording
    return recorded


def test_without_staleness_the_loop_is_on_policy(loop_of, toy_policy_dir):
    """Against the plainest loop there is: sample, update, copy the weights."""
    loop = loop_of()
    versions = recorded_versions(loop)
    results = [train(loop) for _ in range(3)]

    config = toy_config(toy_policy_dir, dynamic_sampling=False)
    runner, learner = make_runner(config), make_learner(config)
    for i in range(3):
        runner.module.set_state(learner.module["default_policy"].get_state())
        runner.weights_seq_no = i
        groups = runner.sample_groups(requests_of(loop, first=2 * i))
        learner.update(
            episodes=episodes_of(groups),
            minibatch_size=4,
            num_epochs=1,
            shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
        )
    runner.stop()
    assert max_difference(weights_of(learner), weights_of(loop.learner_group._learner)) < 1e-6
    assert versions == [{0: 0, 1: 0}, {2: 1, 3: 1}, {4: 2, 5: 2}]
    for result in results:
        assert result["sampling"][names.STALENESS_MEAN] == result["sampling"][names.STALENESS_MAX] == 0
        assert names.IMPORTANCE_WEIGHT not in result["learner"]


def requests_of(loop, *, first):
    """The requests that the loop's sampler draws in the same places."""
    from rllib_vla.env_runners.scene_sampler import SceneSampler

    cfg = loop.config
    return SceneSampler(cfg.get_training_scenes(), group_size=cfg.group_size, seed=cfg.seed).draw(first + 2)[first:]


def test_one_round_ahead_is_one_update_old(loop_of):
    loop = loop_of(max_sampling_staleness=1)
    versions = recorded_versions(loop)
    results = [train(loop) for _ in range(4)]
    assert versions == [{0: 0, 1: 0}, {2: 0, 3: 0}, {4: 1, 5: 1}, {6: 2, 7: 2}]
    sampling = [r["sampling"] for r in results]
    assert [s[names.STALENESS_MAX] for s in sampling] == [0, 1, 1, 1]
    assert [s[names.STALENESS_MEAN] for s in sampling] == [0, 1, 1, 1]
    assert [s[names.NUM_SAMPLING_ROUNDS] for s in sampling] == [1, 1, 1, 1]
    assert [s[names.NUM_GROUPS_STALE] for s in sampling] == [0, 0, 0, 0]
    assert np.isnan(results[0]["learner"].get(names.IMPORTANCE_WEIGHT, np.nan))  # nothing was stale yet
    learner = results[-1]["learner"]
    assert 0.5 < learner[names.IMPORTANCE_WEIGHT] <= 2.0
    assert learner[names.RATIO_MAX_DEVIATION] < 1e-4


def test_the_age_of_groups_is_bounded(loop_of):
    """Two rounds ahead and surplus groups: nothing older than two updates is trained on, wherever it waited."""
    loop = loop_of(max_sampling_staleness=2, max_group_staleness=2, num_groups_per_sampling_round=3)
    versions = recorded_versions(loop)
    results = [train(loop) for _ in range(7)]
    ages = [[update - version for version in used.values()] for update, used in enumerate(versions)]
    assert max(age for used in ages for age in used) == 2
    assert min(age for used in ages for age in used) == 0
    assert all(len(used) == 2 for used in ages)
    for used, result in zip(ages, results, strict=True):
        assert result["sampling"][names.STALENESS_MAX] == max(used)
        assert result["sampling"][names.STALENESS_MEAN] == pytest.approx(np.mean(used))
    trained = [group_id for used in versions for group_id in used]
    assert len(trained) == len(set(trained))


def test_enough_surplus_means_no_sampling_ahead(loop_of):
    loop = loop_of(max_sampling_staleness=1, max_group_staleness=3, num_groups_per_sampling_round=6)
    train(loop)
    assert len(loop.carried_over) == 4
    assert loop._rounds.requests_under_way() == []


def test_a_checkpoint_remembers_what_was_under_way(loop_of):
    loop = loop_of(max_sampling_staleness=1)
    train(loop)
    under_way = loop._rounds.requests_under_way()
    assert [r.group_id for r in under_way] == [2, 3]
    state = loop.scene_sampler.get_state(under_way)
    resumed = loop_of(max_sampling_staleness=1)
    resumed.scene_sampler.set_state(state)
    assert [r.group_id for r in resumed.scene_sampler.draw(3)] == [2, 3, 4]


def test_a_runner_that_was_restarted_gets_the_weights_before_it_samples(loop_of):
    loop = loop_of(max_sampling_staleness=1, max_sampling_rounds=4)
    versions = recorded_versions(loop)
    train(loop)
    loop.env_runner_group._work()  # what was under way is played, and its results are lost with the runner
    loop._rounds._under_way.clear()
    loop.env_runner_group.runner.weights_seq_no = 0
    loop.env_runner_group.runner.module.set_state(
        {k: np.zeros_like(v) for k, v in loop.env_runner_group.runner.module.get_state().items()}
    )
    results = train(loop)
    assert versions[-1] == {4: 1, 5: 1}  # the scenes that it refused are not passed over
    assert results["learner"][names.RATIO_MAX_DEVIATION] < 1e-4


def test_weights_that_are_loaded_alone_reach_the_runner(loop_of, monkeypatch):
    """`restore_from_path(path, component=...)` changes the learner's weights, not the number of updates."""
    loop = loop_of()
    train(loop)
    learner, runner = loop.learner_group._learner, loop.env_runner_group.runner
    loop._shards = ShardCheckpoints(loop.learner_group, is_async=False)
    loaded = {name: array * 0.5 for name, array in learner.module["default_policy"].get_state().items()}

    def restore_from_path(self, path, *, component):
        learner.module["default_policy"].set_state(loaded)

    monkeypatch.setattr(Algorithm, "restore_from_path", restore_from_path)
    loop.restore_from_path("weights", component="learner_group/learner/rl_module/default_policy")
    loop.env_runner_group._work()
    np.testing.assert_equal(runner.module.get_state(), loaded)
    assert train(loop)["learner"][names.RATIO_MAX_DEVIATION] < 1e-4
