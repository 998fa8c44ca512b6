"""Who gets which GPUs and CPUs. Nothing here starts Ray: requests are plain lists of bundles."""

from types import SimpleNamespace

import pytest
import ray

from rllib_vla.algorithms import suite_config
from rllib_vla.algorithms.grpo import GRPO
from rllib_vla.distributed.placement import reserved_bundles, simulator_strategy
from tests.rllib_vla.toy import toy_config


def processes(policy_dir, *, learners, runners, gpus_per_learner=0, gpus_per_runner=0, **resources):
    return (
        toy_config(policy_dir, num_groups_per_train_batch=8)
        .learners(num_learners=learners, num_gpus_per_learner=gpus_per_learner)
        .env_runners(
            num_env_runners=runners,
            num_gpus_per_env_runner=gpus_per_runner,
            num_simulators_per_env_runner=2,
            num_cpus_per_simulator=0.5,
        )
        .resources(**resources)
    )


def requested(config) -> tuple[list[dict], str]:
    factory = GRPO.default_resource_request(config.to_dict())
    return factory.bundles, factory.strategy


def total(bundles, name):
    return sum(bundle.get(name, 0) for bundle in bundles)


def test_one_process_has_one_gpu_and_its_simulators(toy_policy_dir):
    bundles, strategy = requested(processes(toy_policy_dir, learners=0, runners=0, gpus_per_learner=1))
    assert bundles == [{"CPU": 1, "GPU": 1}, {"CPU": 0.5}, {"CPU": 0.5}]
    assert strategy == "PACK"


def test_without_gpus_placement_changes_nothing(toy_policy_dir):
    requests = [
        requested(processes(toy_policy_dir, learners=2, runners=1, placement=placement))
        for placement in ("collocated", "disaggregated")
    ]
    assert requests[0] == requests[1]
    assert requests[0][0] == [{"CPU": 1}, {"CPU": 1}, {"CPU": 1}, {"CPU": 1}, {"CPU": 0.5}, {"CPU": 0.5}]


def test_collocated_pairs_share_a_bundle(toy_policy_dir):
    config = processes(toy_policy_dir, learners=2, runners=2, gpus_per_learner=1)
    bundles, _ = requested(config)
    assert bundles == [{"CPU": 1}, {"CPU": 1, "GPU": 1.0}, {"CPU": 1, "GPU": 1.0}] + [{"CPU": 0.5}] * 4
    config.validate()
    assert (config.num_gpus_per_learner, config.num_gpus_per_env_runner) == (0.5, 0.5)
    config.validate()  # once more changes nothing
    assert (config.num_gpus_per_learner, config.num_gpus_per_env_runner) == (0.5, 0.5)
    assert requested(config)[0] == bundles


def test_own_shares_are_kept(toy_policy_dir):
    config = processes(toy_policy_dir, learners=1, runners=1, gpus_per_learner=0.6, gpus_per_runner=0.3)
    config.validate()
    assert (config.num_gpus_per_learner, config.num_gpus_per_env_runner) == (0.6, 0.3)


def test_disaggregated_actors_have_their_own_gpus(toy_policy_dir):
    config = processes(
        toy_policy_dir, learners=2, runners=3, gpus_per_learner=1, gpus_per_runner=1, placement="disaggregated"
    )
    bundles, _ = requested(config)
    assert total(bundles, "GPU") == 5
    assert [bundle.get("GPU", 0) for bundle in bundles[:6]] == [0, 1, 1, 1, 1, 1]
    assert bundles[6:] == [{"CPU": 0.5}] * 6  # appended: RLlib finds the runners' bundles by index


def test_spread(toy_policy_dir):
    assert requested(processes(toy_policy_dir, learners=0, runners=2, simulator_scheduling="spread"))[1] == "SPREAD"


@pytest.fixture
def cluster(monkeypatch):
    """Ray with as many CPUs as `cluster.num_cpus`, and the placement group of a trial with `cluster.bundles`."""
    cluster = SimpleNamespace(num_cpus=12, bundles=None)
    monkeypatch.setattr(suite_config, "available_resources", lambda: (cluster.num_cpus, 1000.0))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(
        ray.util,
        "get_current_placement_group",
        lambda: None if cluster.bundles is None else SimpleNamespace(bundle_specs=cluster.bundles),
    )
    return cluster


@pytest.mark.parametrize(("learners", "gpus", "first"), [(0, 0, 3), (1, 0, 4), (2, 1, 3)])
def test_simulators_keep_their_bundles_when_the_cluster_shrinks(toy_policy_dir, cluster, learners, gpus, first):
    """`auto` counts CPUs: a node that left must not send a restarted simulator to the bundle of another one."""
    config = processes(toy_policy_dir, learners=learners, runners=2, gpus_per_learner=gpus)
    config.env_runners(num_simulators_per_env_runner="auto", num_cpus_per_simulator=1)
    bundles, _ = requested(config)
    config.validate()
    cluster.bundles = bundles
    per_runner = (len(bundles) - first) // 2
    before = config.get_pool_size()
    assert per_runner == before.num_simulators > 2
    for cluster.num_cpus in (12, 7, 40):
        assert config.get_pool_size() == before
        places = [
            simulator_strategy(config, worker, index).placement_group_bundle_index
            for worker in (1, 2)
            for index in range(per_runner)
        ]
        assert places == list(range(first, len(bundles)))


def test_simulators_without_cpus_have_no_bundles(toy_policy_dir, cluster):
    config = processes(toy_policy_dir, learners=1, runners=1)
    config.env_runners(num_cpus_per_simulator=0)
    cluster.bundles, _ = requested(config)
    assert cluster.bundles == [{"CPU": 1}] * 3  # main process, runner, learner
    config.validate()
    assert len(reserved_bundles(config)) == 0
    assert simulator_strategy(config, 1, 0) == "DEFAULT"


def test_bundles_of_somebody_elses_are_left_alone(toy_policy_dir, cluster):
    config = processes(toy_policy_dir, learners=0, runners=1)
    cluster.bundles = [{"CPU": 1}, {"CPU": 1}, {"CPU": 8}]
    assert simulator_strategy(config, 1, 0) == "DEFAULT"
    cluster.bundles = [{"CPU": 1}, {"CPU": 1}, {"CPU": 0.5}]  # room for one, and two are asked for
    assert simulator_strategy(config, 1, 0) == "DEFAULT"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learners": 1, "runners": 2, "gpus_per_learner": 1}, "make them equal"),
        ({"learners": 1, "runners": 1, "gpus_per_learner": 2}, "at most 1"),
        (
            {"learners": 1, "runners": 1, "gpus_per_learner": 1, "placement": "disaggregated"},
            "num_gpus_per_env_runner: 1",
        ),
        ({"learners": 0, "runners": 0, "gpus_per_learner": 1, "placement": "disaggregated"}, "processes of their own"),
        ({"learners": 1, "runners": 1, "placement": "elsewhere"}, "`placement` must be one of"),
        ({"learners": 1, "runners": 1, "simulator_scheduling": "x"}, "`simulator_scheduling` must be one of"),
        (
            {"learners": 1, "runners": 1, "placement": "disaggregated", "offload_idle_model": True},
            "`offload_idle_model` is for",
        ),
    ],
)
def test_impossible_placements_are_refused(toy_policy_dir, settings, message):
    with pytest.raises(ValueError, match=message):
        processes(toy_policy_dir, **settings).validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_sampling_staleness": 1}, "needs `num_env_runners` of at least 1"),
        ({"max_sampling_staleness": 0.5}, "must be a whole number"),
        ({"importance_weight_cap": 0.0}, "`importance_weight_cap` must be positive"),
    ],
)
def test_impossible_pipelines_are_refused(toy_policy_dir, settings, message):
    with pytest.raises(ValueError, match=message):
        toy_config(toy_policy_dir, **settings).validate()


def test_pipelining_keeps_to_the_other_bounds(toy_policy_dir):
    config = processes(toy_policy_dir, learners=1, runners=1).training(max_sampling_staleness=2)
    with pytest.raises(ValueError, match="`max_group_staleness` drops groups"):
        config.validate()
    config.training(max_group_staleness=2).validate()
    assert config.max_requests_in_flight_per_env_runner == 3
    config.learners(num_gpus_per_learner=1)
    with pytest.raises(ValueError, match="placement: disaggregated"):
        config.validate()
