"""Weights of networks that are not ours: scalars and counters beside matrices."""

import pytest
import torch

from rllib_vla.distributed.sharded_weights import gather, load_full, to_numpy, travelling_dtypes


class OtherNetwork(torch.nn.Module):
    """With a scalar parameter, and with BatchNorm, whose counter is a scalar as well."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.norm = torch.nn.BatchNorm1d(4)


@pytest.fixture
def trained():
    network = OtherNetwork()
    for _ in range(1001):  # more than bfloat16 can count
        network.norm(torch.randn(3, 4))
    return network


def test_scalars_and_counters_are_loaded(trained):
    own = OtherNetwork()
    load_full(own.state_dict(), {name: to_numpy(tensor) for name, tensor in trained.state_dict().items()})
    for name, tensor in trained.state_dict().items():
        assert torch.equal(own.state_dict()[name], tensor), name


@pytest.mark.usefixtures("process_group")
def test_counters_travel_in_their_own_type(trained):
    weights = trained.state_dict()
    dtypes = travelling_dtypes(weights, torch.bfloat16)
    arrays = gather(weights, dtypes, torch.device("cpu"), None)
    own = OtherNetwork().bfloat16()
    load_full(own.state_dict(), arrays)
    assert int(own.norm.num_batches_tracked) == 1001
    assert torch.equal(own.norm.running_mean, trained.norm.running_mean.bfloat16())


def test_other_shapes_are_refused(trained):
    with pytest.raises(RuntimeError, match=r"scale: \(1,\) instead of \(\)"):
        load_full(trained.state_dict(), {"scale": to_numpy(torch.ones(1))})
