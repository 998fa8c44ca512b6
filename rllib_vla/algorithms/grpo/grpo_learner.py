"""Framework-independent part of the GRPO learner."""

from ray.rllib.core.learner.learner import Learner

from rllib_vla.algorithms.grpo.default_grpo_rl_module import DefaultGRPORLModule


class GRPOLearner(Learner):
    """Learner without a value function: advantages come with the groups, see `GroupRelativeAdvantages`."""

    @classmethod
    def rl_module_required_apis(cls) -> list[type]:
        """GRPO needs log-probabilities of action tokens and nothing else; no value function."""
        return [DefaultGRPORLModule]
