"""Where the simulators of a Tune trial live."""

import functools
import json
from pathlib import Path

import pytest
import ray
from ray import tune

from rllib_vla.algorithms.grpo import GRPO
from tests.rllib_vla.toy import toy_config


def own_placement_group(*args) -> str | None:
    return ray.get_runtime_context().get_placement_group_id()


def placement_groups_of_simulators(env_runner) -> list[str | None]:
    return ray.get([actor.__ray_call__.remote(own_placement_group) for actor in env_runner.pool._actors])


def record_placement_groups(*, algorithm, path: str, **info) -> None:
    """RLlib callback, runs in the trial's process."""
    is_local = algorithm.env_runner_group.num_remote_env_runners() == 0
    (simulators,) = algorithm.env_runner_group.foreach_env_runner(
        placement_groups_of_simulators, local_env_runner=is_local
    )
    Path(path).write_text(json.dumps({"trial": own_placement_group(), "simulators": simulators}))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_simulators_live_in_the_placement_group_of_their_trial(toy_policy_dir, tmp_path, num_env_runners):
    """Outside it they would compete with other trials for CPUs that these have reserved."""
    path = tmp_path / "groups.json"
    config = (
        toy_config(toy_policy_dir)
        .env_runners(num_env_runners=num_env_runners, num_simulators_per_env_runner=2, num_cpus_per_simulator=0.5)
        .callbacks(on_algorithm_init=functools.partial(record_placement_groups, path=str(path)))
    )
    tuner = tune.Tuner(
        GRPO,
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 1}, storage_path=str(tmp_path), verbose=0),
    )
    assert tuner.fit().num_errors == 0
    found = json.loads(path.read_text())
    assert found["trial"] is not None
    assert found["simulators"] == [found["trial"]] * 2
