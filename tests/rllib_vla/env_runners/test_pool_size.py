import pytest

from rllib_vla.algorithms.grpo import GRPO
from rllib_vla.env_runners import pool_size
from rllib_vla.env_runners.pool_size import AUTO, PoolSize, choose_pool_size
from tests import toy_suite
from tests.rllib_vla.toy import make_runner, toy_config

MACHINE = {
    "num_runners": 1,
    "num_trajectories": 512,
    "num_cpus": 32,
    "num_reserved_cpus": 2,
    "num_cpus_per_simulator": 1.0,
    "memory_gb": 256,
    "simulator_memory_gb": 2.0,
}


def choose(num_simulators=AUTO, num_envs=AUTO, **machine):
    return choose_pool_size(num_simulators, num_envs, **(MACHINE | machine))


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({}, PoolSize(30, 16)),  # one process per free CPU
        ({"memory_gb": 20}, PoolSize(7, 16)),  # 70 % of the memory
        ({"num_runners": 4, "num_trajectories": 128}, PoolSize(7, 16)),
        ({"num_cpus_per_simulator": 0.5}, PoolSize(60, 9)),
        ({"num_cpus_per_simulator": 0}, PoolSize(89, 6)),  # memory is the only bound
        ({"num_cpus": 2}, PoolSize(1, 16)),  # never none
        ({"memory_gb": 1}, PoolSize(1, 16)),
        ({"num_trajectories": 64}, PoolSize(30, 3)),  # shared out evenly
        ({"num_trajectories": 8}, PoolSize(8, 1)),  # no idle processes
    ],
)
def test_size_follows_from_cpus_and_memory(machine, expected):
    assert choose(**machine) == expected


def test_numbers_are_kept():
    assert choose(3, 5) == PoolSize(3, 5)
    assert choose(0, None, num_trajectories=12) == PoolSize(0, 12)
    assert choose(None, 4) == PoolSize(30, 4)
    assert choose(64, AUTO) == PoolSize(64, 8)


def test_memory_is_that_of_the_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(pool_size, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(limit)))
    whole = pool_size.machine_memory_gb()
    limit.write_text("max\n")
    assert pool_size.machine_memory_gb() == whole
    limit.write_text("1500000000\n")
    assert pool_size.machine_memory_gb() == 1.5


def test_algorithm_asks_for_as_many_cpus_as_its_pool_has_processes(toy_policy_dir, monkeypatch):
    monkeypatch.setattr("rllib_vla.algorithms.suite_config.available_resources", lambda: (12.0, 64.0))
    config = toy_config(toy_policy_dir, num_groups_per_train_batch=16).env_runners(
        num_env_runners=2, num_simulators_per_env_runner=AUTO, num_envs_per_simulator=None
    )
    assert config.get_pool_size() == PoolSize(4, 8)  # 12 CPUs less the main process and two runners; 32 trajectories
    factory = GRPO.default_resource_request(config.to_dict())
    assert factory.required_resources["CPU"] == 1 + 2 + 2 * 4


def test_suites_without_snapshots_play_one_trajectory_per_process(toy_policy_dir, monkeypatch):
    monkeypatch.setattr("rllib_vla.algorithms.suite_config.available_resources", lambda: (40.0, 20.0))
    config = toy_config(toy_policy_dir, num_groups_per_train_batch=16).environment(toy_suite.FLEETING_SUITE.name)
    config.env_runners(num_simulators_per_env_runner=AUTO, num_envs_per_simulator=AUTO).validate()
    assert config.get_pool_size() == PoolSize(14, 1)  # 0.5 GB and a model of 0.5 GB, of 14 GB
    assert config.env_runners(num_envs_per_simulator=2).get_pool_size() == PoolSize(7, 2)


def test_environment_runner_builds_the_pool_that_was_chosen(toy_policy_dir):
    config = toy_config(toy_policy_dir).env_runners(num_envs_per_simulator=AUTO)
    runner = make_runner(config)
    assert [len(lane.slots) for lane in runner.pool.lanes] == [8]  # a round of two groups of four
    runner.stop()


@pytest.mark.parametrize("key", ["num_simulators_per_env_runner", "num_envs_per_simulator"])
@pytest.mark.parametrize("value", ["many", -1, True])
def test_other_values_are_refused(toy_policy_dir, key, value):
    config = toy_config(toy_policy_dir).env_runners(**{key: value})
    with pytest.raises(ValueError, match=rf"`{key}` must (be .*or 'auto'|be positive|not be negative)"):
        config.validate()
