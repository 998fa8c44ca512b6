"""Weights from the learner to the environment runners, past the driver.

The first learner puts what is trained (with LoRA: the adapters; bfloat16 as it is) into its node's object store and
returns a reference. The driver hands on the reference only; every runner reads the object from its own node's shared
memory, to which Ray copies it once per node. RLlib's own `sync_weights` fetches the weights into the driver and puts
them into the object store a second time.
"""

import logging
from dataclasses import dataclass

import ray
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rllib_vla.distributed.learner_failure import ask_first_learner

logger = logging.getLogger("ray.rllib")


@dataclass(frozen=True)
class PublishedWeights:
    """Weights in the object store; they stay there as long as this object lives.

    Attributes:
        ref: What `RLModule.get_state(inference_only=True)` returned.
        seq_no: Version of the weights: how many updates they have seen.
        num_bytes: Size of all arrays.
    """

    ref: ray.ObjectRef
    seq_no: int
    num_bytes: int


def publish(learner: Learner) -> PublishedWeights:
    """Puts the learner's weights into the object store; runs where the learner is."""
    state = learner.get_state(components=COMPONENT_RL_MODULE, inference_only=True)
    weights = state[COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]
    return PublishedWeights(
        ray.put(weights), state[WEIGHTS_SEQ_NO], sum(int(array.nbytes) for array in weights.values())
    )


def publish_weights(learner_group: LearnerGroup) -> PublishedWeights:
    """Lets one learner (all have the same weights) publish them.

    Raises:
        LearnerDiedError: The learner died.
    """
    if learner_group.is_local:
        return publish(learner_group._learner)
    return ask_first_learner(learner_group, publish)


def send_weights(weights: PublishedWeights, env_runner_group: EnvRunnerGroup) -> None:
    """Makes all runners load `weights` before they do anything that is asked of them later; returns at once."""
    state = {COMPONENT_RL_MODULE: weights.ref, WEIGHTS_SEQ_NO: weights.seq_no}
    if env_runner_group.num_remote_env_runners() == 0:
        env_runner_group.local_env_runner.set_state(state)
        return
    # Fire and forget: a runner that cannot load them refuses the next request for its version number.
    env_runner_group.foreach_env_runner(
        lambda env_runner: env_runner.set_state(state), local_env_runner=False, timeout_seconds=0.0
    )
