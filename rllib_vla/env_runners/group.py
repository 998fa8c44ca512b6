"""A group: several trajectories of the same scene, compared with each other.

In RLlib's multi-agent terms a group is one multi-agent rollout: every member is an agent, all agents are mapped to
the same module, and the "game" is that they are scored relative to one another. Members need not move in lockstep
(they see copies of the same scene, not each other), so each one is collected as a `SingleAgentEpisode`; the group
id in `custom_data` ties them together.
"""

from dataclasses import dataclass, field

import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from envs.base import Scene
from rllib_vla.columns import TOKEN_MASK
from rllib_vla.env_runners.simulator import Reply


@dataclass(frozen=True)
class GroupRequest:
    """What the algorithm asks of an environment runner: one group of this scene.

    Attributes:
        group_id: Number of the group, unique within a run.
        scene: The initial condition all members share.
        size: Number of members.
        seed: Seed of the run; with `group_id` and the member's number it determines every sampled token.
    """

    group_id: int
    scene: Scene
    size: int
    seed: int


@dataclass
class CollectedGroup:
    """A complete group, as it travels to the learner.

    Attributes:
        request: What was asked for; with `weights_seq_no` enough to replay the group.
        weights_seq_no: Version of the weights that acted.
        episodes: One `SingleAgentEpisode` per member.
    """

    request: GroupRequest
    weights_seq_no: int
    episodes: list[SingleAgentEpisode] = field(default_factory=list)


class Member:
    """One trajectory of a group; implements `rollout.Trajectory`.

    Args:
        request: The group it belongs to.
        index: Number of the member in its group.
        weights_seq_no: Version of the weights that act.
        tokens_per_control_step: D, action tokens per control step.
        record_frames: Keep the video frames in `frames`.
    """

    def __init__(
        self,
        request: GroupRequest,
        index: int,
        *,
        weights_seq_no: int,
        tokens_per_control_step: int,
        record_frames: bool = False,
    ):
        self.request = request
        self.scene = request.scene
        self.cancelled = False
        self.error: BaseException | None = None
        self.simulation_s = 0.0
        self.num_model_calls = 0
        self.frames: list[np.ndarray] | None = [] if record_frames else None
        self._tokens_per_control_step = tokens_per_control_step
        self._decision: dict[str, np.ndarray] | None = None
        self.episode = SingleAgentEpisode()
        self.episode.custom_data.update(
            {
                "group_id": request.group_id,
                "member": index,
                "scene": request.scene,
                "seed": request.seed,
                "weights_seq_no": weights_seq_no,
                "num_control_steps": 0,
                "success": False,
            }
        )

    @property
    def success(self) -> bool:
        """Whether the task was solved."""
        return self.episode.custom_data["success"]

    @property
    def num_control_steps(self) -> int:
        """Control steps executed so far."""
        return self.episode.custom_data["num_control_steps"]

    def decide(self, tokens: np.ndarray, extra_model_outputs: dict[str, np.ndarray]) -> None:
        """Remembers what the policy sampled until the simulator's answer completes the step.

        Args:
            tokens: int [N], sampled bins.
            extra_model_outputs: Further columns of this model call, e.g. `Columns.ACTION_LOGP` float32 [N].
        """
        self._decision = {Columns.ACTIONS: tokens, **extra_model_outputs}
        self.num_model_calls += 1

    def observe(self, reply: Reply) -> None:
        """Adds the simulator's answer to the episode."""
        self.simulation_s += reply.simulation_s
        if self.frames is not None:
            self.frames.append(reply.frame)
        if self._decision is None:
            self.episode.add_env_reset(observation=reply.observation)
            return
        tokens = self._decision.pop(Columns.ACTIONS)
        token_mask = np.arange(len(tokens)) < reply.num_control_steps * self._tokens_per_control_step
        self.episode.custom_data["num_control_steps"] += reply.num_control_steps
        self.episode.custom_data["success"] = reply.success
        # A finished trajectory has no further observation: nobody acts on it (`ManipulationEnv.observes_end`).
        observation = self.episode.get_observations(-1) if reply.done else reply.observation
        self.episode.add_env_step(
            observation=observation,
            action=tokens,
            reward=float(reply.success),
            terminated=reply.done and reply.success,
            truncated=reply.done and not reply.success,
            extra_model_outputs={**self._decision, TOKEN_MASK: token_mask},
        )
        self._decision = None

    def fail(self, error: BaseException) -> None:
        """Marks the trajectory as lost with its simulator."""
        self.error = error
