"""A dead learner is told apart from everything else. (`faults/test_learner_dies.py` kills real ones.)"""

from types import SimpleNamespace

import pytest
import ray

from rllib_vla.distributed.learner_failure import LearnerDiedError, check_learners, update_learners
from rllib_vla.distributed.weight_sync import publish_weights


class Learners:
    """What is used of a LearnerGroup with two remote learners."""

    is_local = False

    def __init__(self, error=None, *, update_error=None, num_alive=2):
        self.error, self.update_error, self.num_alive = error, update_error, num_alive

    def __len__(self):
        return 2

    def update(self, **arguments):
        if self.update_error is not None:
            raise self.update_error
        return [arguments]

    def foreach_learner(self, func, remote_actor_ids=(0, 1)):
        """Like RLlib's: learners that are known to be dead, here the first ones, are not asked."""
        alive = range(2 - self.num_alive, 2)
        return [SimpleNamespace(ok=self.error is None, get=lambda: self.error) for i in remote_actor_ids if i in alive]


@pytest.mark.parametrize("error", [ray.exceptions.ActorDiedError(), ray.exceptions.RayActorError()])
def test_a_death_says_how_to_go_on(error):
    with pytest.raises(LearnerDiedError, match=r"--resume.*max_failures.*worker-\*.err") as caught:
        update_learners(Learners(update_error=error), num_epochs=1)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("num_alive", [0, 1])
@pytest.mark.parametrize("call", [update_learners, publish_weights])
def test_a_death_that_another_call_noticed_says_how_to_go_on(call, num_alive):
    with pytest.raises(LearnerDiedError, match=r"is gone.*--resume.*max_failures"):
        call(Learners(num_alive=num_alive))


def test_a_death_while_weights_are_published_says_how_to_go_on():
    error = ray.exceptions.ActorDiedError()
    with pytest.raises(LearnerDiedError, match=r"--resume.*Ray says: The actor died") as caught:
        publish_weights(Learners(error))
    assert caught.value.__cause__ is error


def test_other_errors_and_results_pass():
    with pytest.raises(ZeroDivisionError):
        update_learners(Learners(update_error=ZeroDivisionError()))
    assert update_learners(Learners(), num_epochs=3) == [{"num_epochs": 3}]


@pytest.mark.parametrize("num_alive", [0, 1])
def test_missing_learners_are_noticed(num_alive):
    with pytest.raises(LearnerDiedError, match=r"is gone.*--resume"):
        check_learners(Learners(num_alive=num_alive))


def test_whole_groups_and_local_learners_are_fine():
    check_learners(Learners())
    check_learners(SimpleNamespace(is_local=True))
