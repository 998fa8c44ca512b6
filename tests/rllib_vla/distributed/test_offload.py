"""Moving what is idle. The device "meta" stands for another one: what was moved there says so."""

from types import SimpleNamespace

import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_vla.algorithms.grpo import GRPO
from rllib_vla.distributed.offload import move_optimizer_state, park_learner, wake_learner
from tests.rllib_vla.toy import make_learner, max_difference, toy_config, weights_of

META = torch.device("meta")


def stepped(parameters):
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_moments_move_and_counters_stay():
    optimizer = stepped([torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))])
    move_optimizer_state(optimizer, META)
    for state in optimizer.state.values():
        assert state["exp_avg"].device == state["exp_avg_sq"].device == META
        assert state["step"].device.type == "cpu"


def test_a_round_trip_changes_nothing_and_the_next_step_is_the_same():
    start = torch.nn.Parameter(torch.linspace(-1, 1, 6))
    copies = [torch.nn.Parameter(start.detach().clone()) for _ in range(2)]
    for i, parameter in enumerate(copies):
        optimizer = stepped([parameter])
        if i:
            move_optimizer_state(optimizer, torch.device("cpu"))
        parameter.grad = parameter.detach() ** 2
        optimizer.step()
    assert torch.equal(*copies)


def test_a_parked_learner_has_no_gradients_and_wakes_with_its_weights(toy_policy_dir):
    learner = make_learner(toy_config(toy_policy_dir))
    before = weights_of(learner)
    parameters = learner.get_parameters(learner.module["default_policy"])
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    identities = [id(parameter) for parameter in parameters]
    park_learner(learner, with_weights=True)
    assert all(parameter.grad is None for parameter in parameters)
    wake_learner(learner, with_weights=True)
    assert max_difference(before, weights_of(learner)) == 0
    # The optimizer holds the very same parameter objects.
    assert [id(p) for p in learner.get_parameters(learner.module["default_policy"])] == identities


@pytest.mark.usefixtures("process_group")
def test_what_rests_in_host_memory_anyway_stays_there(toy_policy_dir):
    """FSDP2 that off-loads to the CPU refuses to compute when its shards are somewhere else."""
    config = toy_config(toy_policy_dir).learners(num_learners=1, parallelism="fsdp2", cpu_offload=True)
    learner = make_learner(config)
    learner._device = META
    wake_learner(learner, with_weights=True)
    assert not any(p.is_meta for p in learner.get_parameters(learner.module["default_policy"]))


def test_before_the_first_sampling_and_after_restoring_the_learner_is_parked(toy_policy_dir, monkeypatch):
    """Sampling comes first: what was built or loaded onto a shared GPU would be in the way, moments above all."""
    config = toy_config(toy_policy_dir).learners(num_learners=1).env_runners(num_env_runners=1)
    config.resources(offload_idle_model=True).validate()
    moved = []
    algorithm = object.__new__(GRPO)
    algorithm.config, algorithm._logdir = config, None
    algorithm.learner_group = SimpleNamespace(foreach_learner=lambda func, **kwargs: moved.append(func) or [])
    algorithm.env_runner_group = SimpleNamespace(foreach_env_runner=lambda func, **kwargs: None)
    algorithm._sync_weights = lambda: None
    for method in ("setup", "restore_from_path"):
        monkeypatch.setattr(Algorithm, method, lambda self, *args: None)
    algorithm.setup(config)
    assert moved[-1] is park_learner
    moved.clear()
    algorithm.restore_from_path("checkpoint")
    assert moved == [park_learner]
