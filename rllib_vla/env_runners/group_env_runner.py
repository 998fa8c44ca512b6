"""RLlib EnvRunner that collects groups of trajectories from simulator actors."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
import torch
from gymnasium.spaces import MultiDiscrete
from ray.rllib.core import (
    COMPONENT_ENV_TO_MODULE_CONNECTOR,
    COMPONENT_MODULE_TO_ENV_CONNECTOR,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)

from policies.openvla_oft.configuration import NUM_ACTION_BINS
from rllib_vla import metrics as names
from rllib_vla.distributed.placement import simulator_strategy
from rllib_vla.env_runners.group import CollectedGroup, GroupRequest, Member
from rllib_vla.env_runners.rollout import play
from rllib_vla.env_runners.simulator_pool import ActorSimulatorPool, InProcessSimulatorPool
from rllib_vla.policy_fit import policy_misfit

logger = logging.getLogger("ray.rllib")


class GroupEnvRunner(EnvRunner, Checkpointable):
    """Plays groups of trajectories on a pool of simulators with batched inference.

    One policy call serves all members that wait for an action, whatever group, task or simulator they belong to.
    The connector pipelines are RLlib's: env-to-module (image chain, prompt, sampling noise), module-to-env (action
    tokens to chunks of simulator actions), and the group pipeline (dynamic-sampling filter, advantages), which
    runs here, before any sharding to learners could tear a group apart.

    Args:
        config: The algorithm's configuration (`GRPOConfig`).
        **kwargs: What RLlib passes to every EnvRunner (`worker_index`, `spaces`, ...).
    """

    @override(EnvRunner)
    def __init__(self, *, config, **kwargs):
        super().__init__(config=config, **kwargs)
        self._device = get_device(self.config, self.config.num_gpus_per_env_runner)
        self.weights_seq_no = 0
        self._failures_reported = 0
        self.pool = None
        self.module = None
        self.make_module()
        spaces = self.get_spaces()
        self._env_to_module = self.config.build_env_to_module_connector(spaces=spaces, device=self._device)
        self._module_to_env = self.config.build_module_to_env_connector(spaces=spaces)
        self._group_pipeline = self.config.build_group_connector()
        self.make_env()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._device

    # --- what the algorithm calls ------------------------------------------------------------------------------

    def sample_groups(
        self, requests: list[GroupRequest], on_group: Callable[[CollectedGroup], None] | None = None
    ) -> list[CollectedGroup]:
        """Collects the requested groups and returns those that the group pipeline keeps.

        Groups that lost a member to a simulator failure are dropped and counted.

        Args:
            requests: Groups to collect.
            on_group: Called with every group as it is completed, before any filtering.

        Raises:
            AllSimulatorsFailedError: If the simulators do nothing but fail.
        """
        groups: dict[int, CollectedGroup] = {}
        lost: set[int] = set()
        members_of = {request.group_id: self._make_members(request) for request in requests}
        every_member = [member for members in members_of.values() for member in members]
        needed = (member for member in every_member if not member.cancelled)  # of a lost group no more are started
        for member in play(self.pool, needed, lambda waiting: self._act(waiting, explore=True)):
            group_id = member.request.group_id
            if member.error is not None and group_id not in lost:
                lost.add(group_id)
                groups.pop(group_id, None)
                for other in members_of[group_id]:
                    other.cancelled = True
            if group_id not in lost:
                group = groups.setdefault(group_id, CollectedGroup(member.request, self.weights_seq_no))
                group.episodes.append(member.episode)
                if on_group is not None and len(group.episodes) == group.request.size:
                    on_group(group)

        complete = [group for group_id, group in groups.items() if len(group.episodes) == requests[0].size]
        for group in complete:  # members finish in any order; a group reads the same on every run
            group.episodes.sort(key=lambda episode: episode.custom_data["member"])
        complete.sort(key=lambda group: group.request.group_id)
        finished = [member for member in every_member if member.error is None and not member.cancelled]
        self._log_sampling(finished, complete, len(lost))
        return self._filter_groups(complete)

    def sample_group_refs(
        self, requests: list[GroupRequest], on_group: Callable[[CollectedGroup], None] | None = None
    ) -> list[tuple[ray.ObjectRef, int, int, int]]:
        """Like `sample_groups`, but leaves each group in the object store.

        Returns:
            Per kept group: (reference to its list of episodes, group id, weights version, model calls).
        """
        return [
            (
                ray.put(group.episodes),
                group.request.group_id,
                group.weights_seq_no,
                sum(len(episode) for episode in group.episodes),
            )
            for group in self.sample_groups(requests, on_group)
        ]

    def evaluate_scenes(
        self,
        requests: list[GroupRequest],
        *,
        explore: bool = False,
        record_frames: bool = False,
    ) -> Iterator[Member]:
        """Plays the requested groups (usually of size 1) and yields every member that ended.

        Args:
            requests: Scenes to play.
            explore: Sample at the rollout temperature instead of decoding greedily.
            record_frames: Keep video frames in `Member.frames`.
        """
        members = [m for request in requests for m in self._make_members(request, record_frames)]
        yield from play(
            self.pool,
            members,
            lambda waiting: self._act(waiting, explore=explore),
            record_frames=record_frames,
        )

    def forget_weights_version(self) -> None:
        """Makes the next `set_state` load its weights, whatever their version number."""
        self.weights_seq_no = -1

    def adopt_module(self, module, device: torch.device) -> None:
        """Uses the learner's module instead of an own copy (runner and learner in one process)."""
        self.module = module
        self._device = device
        self._env_to_module = self.config.build_env_to_module_connector(spaces=self.get_spaces(), device=device)

    # --- RLlib's EnvRunner interface ----------------------------------------------------------------------------

    @override(EnvRunner)
    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool = True,
        random_actions: bool = False,
        force_reset: bool = False,
        **kwargs,
    ) -> list[SingleAgentEpisode]:
        """Plays `num_episodes` training scenes and returns their episodes, unfiltered.

        The algorithm itself uses `sample_groups`; this method is RLlib's generic interface.
        """
        if random_actions or num_timesteps is not None:
            raise ValueError("GroupEnvRunner.sample() plays whole episodes of the policy: pass `num_episodes`.")
        scenes = self.config.get_training_scenes()
        requests = [
            GroupRequest(i, scenes[i % len(scenes)], 1, self.config.seed or 0) for i in range(num_episodes or 1)
        ]
        return [m.episode for m in self.evaluate_scenes(requests, explore=explore) if m.error is None]

    @override(EnvRunner)
    def get_metrics(self) -> dict[str, Any]:
        return self.metrics.reduce()

    @override(EnvRunner)
    def get_spaces(self):
        env_spaces = self.config.get_environment_spaces()
        tokens = MultiDiscrete([NUM_ACTION_BINS] * self.module.policy.config.num_action_tokens)
        return {
            INPUT_ENV_SPACES: env_spaces,
            INPUT_ENV_SINGLE_SPACES: env_spaces,
            DEFAULT_MODULE_ID: (env_spaces[0], tokens),
        }

    @override(EnvRunner)
    def make_env(self) -> None:
        if self.pool is not None:
            self.pool.close()
        cfg = self.config
        env_config = cfg.get_simulator_config()
        size = cfg.get_pool_size()
        if size.num_simulators == 0:
            self.pool = InProcessSimulatorPool(
                cfg.env,
                env_config,
                slots_per_simulator=size.num_envs_per_simulator,
                max_consecutive_failures=cfg.max_consecutive_simulator_failures,
            )
        else:
            self.pool = ActorSimulatorPool(
                cfg.env,
                env_config,
                num_simulators=size.num_simulators,
                slots_per_simulator=size.num_envs_per_simulator,
                num_cpus_per_simulator=cfg.num_cpus_per_simulator,
                strategy_of=lambda index: simulator_strategy(cfg, self.worker_index, index),
                timeout_s=cfg.simulator_timeout_s,
                start_timeout_s=cfg.simulator_start_timeout_s,
                max_consecutive_failures=cfg.max_consecutive_simulator_failures,
                first_number=max(self.worker_index - 1, 0) * size.num_simulators,
            )
        self._failures_reported = 0

    @override(EnvRunner)
    def make_module(self) -> None:
        spec = self.config.get_rl_module_spec(
            spaces={DEFAULT_MODULE_ID: self.config.get_environment_spaces()}, inference_only=True
        )
        self.module = spec.build()
        if message := policy_misfit(self.module.policy.config, self.config):
            raise ValueError(message)
        self.module.to(self._device)

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        if self.module is None or self.pool is None:
            raise RuntimeError("GroupEnvRunner has no module or no simulators.")

    @override(EnvRunner)
    def stop(self) -> None:
        if self.pool is not None:
            self.pool.close()

    # --- state ----------------------------------------------------------------------------------------------------

    @override(Checkpointable)
    def get_state(self, components=None, *, not_components=None, **kwargs):
        state = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
            state[WEIGHTS_SEQ_NO] = self.weights_seq_no
        if self._check_component(COMPONENT_ENV_TO_MODULE_CONNECTOR, components, not_components):
            state[COMPONENT_ENV_TO_MODULE_CONNECTOR] = self._env_to_module.get_state()
        if self._check_component(COMPONENT_MODULE_TO_ENV_CONNECTOR, components, not_components):
            state[COMPONENT_MODULE_TO_ENV_CONNECTOR] = self._module_to_env.get_state()
        return state

    @override(Checkpointable)
    def set_state(self, state) -> None:
        if COMPONENT_ENV_TO_MODULE_CONNECTOR in state:
            self._env_to_module.set_state(state[COMPONENT_ENV_TO_MODULE_CONNECTOR])
        if COMPONENT_MODULE_TO_ENV_CONNECTOR in state:
            self._module_to_env.set_state(state[COMPONENT_MODULE_TO_ENV_CONNECTOR])
        if COMPONENT_RL_MODULE in state:
            seq_no = state.get(WEIGHTS_SEQ_NO, 0)
            # Not `seq_no > own`, as in RLlib's runners: restoring an older checkpoint into a live algorithm
            # (population-based training) must bring the runners back as well.
            if seq_no == 0 or seq_no != self.weights_seq_no:
                weights = state[COMPONENT_RL_MODULE]
                if isinstance(weights, ray.ObjectRef):
                    weights = ray.get(weights)
                self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
            self.weights_seq_no = seq_no
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self):
        return (), {"config": self.config}

    @override(Checkpointable)
    def get_checkpointable_components(self):
        return [
            (COMPONENT_RL_MODULE, self.module),
            (COMPONENT_ENV_TO_MODULE_CONNECTOR, self._env_to_module),
            (COMPONENT_MODULE_TO_ENV_CONNECTOR, self._module_to_env),
        ]

    # --- internals ------------------------------------------------------------------------------------------------

    def _make_members(self, request: GroupRequest, record_frames: bool = False) -> list[Member]:
        return [
            Member(
                request,
                index,
                weights_seq_no=self.weights_seq_no,
                tokens_per_control_step=self.module.policy.config.action_dim,
                record_frames=record_frames,
            )
            for index in range(request.size)
        ]

    def _act(self, members: list[Member], *, explore: bool) -> list[np.ndarray]:
        """One policy call for all waiting members: observation -> tokens -> chunk of simulator actions."""
        episodes = [member.episode for member in members]
        shared_data: dict[str, Any] = {}
        batch = self._env_to_module(
            rl_module=self.module,
            episodes=episodes,
            explore=explore,
            shared_data=shared_data,
            metrics=None,
        )
        with torch.inference_mode():
            forward = self.module.forward_exploration if explore else self.module.forward_inference
            batch = forward(batch)
        batch = self._module_to_env(
            rl_module=self.module,
            batch=batch,
            episodes=episodes,
            explore=explore,
            shared_data=shared_data,
            metrics=None,
        )
        chunks = batch.pop(Columns.ACTIONS_FOR_ENV)
        tokens = batch.pop(Columns.ACTIONS)
        for i, member in enumerate(members):
            member.decide(tokens[i], {key: values[i] for key, values in batch.items()})
        return chunks

    def _filter_groups(self, groups: list[CollectedGroup]) -> list[CollectedGroup]:
        episodes = [episode for group in groups for episode in group.episodes]
        if not episodes:
            return []
        self._group_pipeline(rl_module=self.module, batch={}, episodes=episodes, shared_data={}, metrics=self.metrics)
        kept = {episode.custom_data["group_id"] for episode in episodes}
        return [group for group in groups if group.request.group_id in kept]

    def _log_sampling(self, members: list[Member], groups: list[CollectedGroup], num_lost: int) -> None:
        num_steps = sum(member.num_control_steps for member in members)
        num_calls = sum(member.num_model_calls for member in members)
        self.num_env_steps_sampled_lifetime += num_steps
        log = self.metrics.log_value
        for member in members:
            log(names.SUCCESS_RATE, float(member.success), reduce="mean")
            log((names.TASK_SUCCESS_RATE, member.scene.task), float(member.success), reduce="mean")
            log(names.TRAJECTORY_LENGTH, member.num_control_steps, reduce="mean")
        for group in groups:
            wins = sum(episode.custom_data["success"] for episode in group.episodes)
            log(names.SHARE_ALL_FAIL_GROUPS, float(wins == 0), reduce="mean")
            log(names.SHARE_ALL_SUCCESS_GROUPS, float(wins == len(group.episodes)), reduce="mean")
            log(names.SHARE_MIXED_GROUPS, float(0 < wins < len(group.episodes)), reduce="mean")
        counts = {
            names.NUM_TRAJECTORIES: len(members),
            names.NUM_GROUPS: len(groups),
            names.NUM_GROUPS_LOST: num_lost,
            names.NUM_SIMULATOR_FAILURES: self.pool.num_failures - self._failures_reported,
            NUM_EPISODES: len(members),
            NUM_ENV_STEPS_SAMPLED: num_steps,
        }
        self._failures_reported = self.pool.num_failures
        for name, count in counts.items():
            log(name, count, reduce="sum")
        log(NUM_ENV_STEPS_SAMPLED_LIFETIME, num_steps, reduce="lifetime_sum")
        log(names.NUM_TRAJECTORIES_LIFETIME, len(members), reduce="lifetime_sum")
        log((NUM_MODULE_STEPS_SAMPLED, DEFAULT_MODULE_ID), num_calls, reduce="sum")
        log((NUM_MODULE_STEPS_SAMPLED_LIFETIME, DEFAULT_MODULE_ID), num_calls, reduce="lifetime_sum")
