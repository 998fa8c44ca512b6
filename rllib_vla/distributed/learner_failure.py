"""What happens when a learner dies.

A learner holds what nobody else has: the optimizer's state, and with FSDP its share of the weights. Nothing in the
running trial can replace it (RLlib restarts environment runners, but no learners), so the trial ends with a message
that says how to go on from the last checkpoint; with `max_failures` Tune does so by itself.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup

Answer = TypeVar("Answer")


class LearnerDiedError(RuntimeError):
    """A learner process is gone, and with it the optimizer's state."""


def update_learners(learner_group: LearnerGroup, **arguments: Any) -> list[dict[str, Any]]:
    """`LearnerGroup.update`, with the death of a learner told apart from everything else.

    Raises:
        LearnerDiedError: A learner process died, before or now, or its update raised (RLlib ends the process then).
    """
    check_learners(learner_group)
    try:
        return learner_group.update(**arguments)
    except ray.exceptions.RayActorError as error:
        raise _death("A learner process died or its update raised", error) from error


def ask_first_learner(learner_group: LearnerGroup, question: Callable[[Learner], Answer]) -> Answer:
    """Returns what the first of remote learners answers.

    Raises:
        LearnerDiedError: It is dead, or the question raised there.
    """
    result = next(iter(learner_group.foreach_learner(question, remote_actor_ids=[0])), None)
    if result is None:  # RLlib does not ask those it knows to be dead
        raise _death("A learner process is gone")
    if not result.ok:
        raise _death("A learner process died or what it was asked for raised", result.get()) from result.get()
    return result.get()


def check_learners(learner_group: LearnerGroup) -> None:
    """Makes sure that all learners are alive after a call whose failures RLlib only logs.

    Raises:
        LearnerDiedError: One is not: it died, or what it was asked for raised.
    """
    if learner_group.is_local:
        return
    answers = learner_group.foreach_learner(lambda learner: None)
    if sum(answer.ok for answer in answers) < len(learner_group):
        raise _death(
            "A learner process is gone: it died, or could not do what it was asked for (to save its state: is the disk "
            "full? To take its model back to the GPU: is there too little memory?)"
        )


def _death(what: str, error: Exception | None = None) -> LearnerDiedError:
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return LearnerDiedError(
        f"{what}. The updates since the last complete checkpoint are lost with it. `rllib train ... --resume` goes on "
        "from that checkpoint; `max_failures: 3` in the experiment does so by itself. The cause is in the learner's "
        "log (`worker-*.err` of Ray's session)." + (f" Ray says: {lines[-1]}" if lines else "")
    )
