"""What a configuration knows of its benchmark suite.

Which scenes are trained on, how many simulators play them, and what happens between simulators and policy.
"""

from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.utils import _get_env_runner_bundles, _get_learner_bundles, _get_main_process_bundle
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.module_to_env import NormalizeAndClipActions, UnBatchToIndividualItems
from ray.rllib.utils.annotations import override

import envs
from envs.base import unknown_name
from rllib_vla.connectors.env_to_module.add_sampling_noise import AddSamplingNoise
from rllib_vla.connectors.env_to_module.process_observations import ProcessObservations
from rllib_vla.connectors.module_to_env.detokenize_actions import DetokenizeActions
from rllib_vla.distributed.placement import reserved_bundles
from rllib_vla.env_runners.pool_size import AUTO, PoolSize, available_resources, choose_pool_size
from rllib_vla.scene_keys import SCENE_KEYS, TASKS, TRAIN_SPLIT, UNSEEN_TASKS


class SuiteConfig(AlgorithmConfig):
    """Base of configurations whose `env` names a benchmark suite; the settings themselves are those of `GRPOConfig`."""

    # --- scenes and simulators ----------------------------------------------------------------------------------------

    def get_training_scenes(self) -> list[envs.Scene]:
        """Returns the scenes that training draws from.

        `env_config` chooses them: `tasks` (names; all), `train_split` ("train"; "reference" trains on the very states
        that are evaluated, as the reference implementation does) and `unseen_tasks` (names; none), which are only
        evaluated.

        Raises:
            ValueError: For a name that does not exist, or the held-out split.
        """
        split = self.env_config.get(TRAIN_SPLIT, "train")
        if split == "eval":
            raise ValueError("`env_config['train_split']` must not be 'eval', the states that are held out")
        scenes = envs.list_scenes(self.env, split, self.env_config.get(TASKS), self.get_simulator_config())
        unseen = self.env_config.get(UNSEEN_TASKS) or []
        if isinstance(unseen, str):
            raise ValueError(f"`env_config['unseen_tasks']` must be a list of names, is {unseen!r}")
        names = dict.fromkeys(scene.task for scene in scenes)
        for name in unseen:
            if name not in names:
                raise unknown_name("task in `env_config['unseen_tasks']`", name, names)
        return [scene for scene in scenes if scene.task not in unseen]

    def get_simulator_config(self) -> dict[str, Any]:
        """Returns `env_config` without the keys that only choose scenes."""
        return {key: value for key, value in self.env_config.items() if key not in SCENE_KEYS}

    def get_pool_size(self) -> PoolSize:
        """Returns how many simulators an environment runner has and how many trajectories each plays in turn."""
        num_runners = max(1, self.num_env_runners)
        num_groups = self.num_groups_per_sampling_round or self.num_groups_per_train_batch
        bundles = [_get_main_process_bundle(self), *_get_env_runner_bundles(self), *_get_learner_bundles(self)]
        num_cpus, memory_gb = available_resources()
        num_simulators, num_envs_per_simulator = self.num_simulators_per_env_runner, self.num_envs_per_simulator
        if num_simulators in (AUTO, None):
            num_simulators = len(reserved_bundles(self)) // num_runners or AUTO
        memory_of_simulator = envs.memory_gb(self.env, self.env_config.get(TASKS), self.get_simulator_config())
        if not envs.supports_snapshots(self.env):  # an environment for each trajectory
            num_envs_per_simulator = 1 if num_envs_per_simulator in (AUTO, None) else num_envs_per_simulator
            memory_of_simulator *= num_envs_per_simulator
        return choose_pool_size(
            num_simulators,
            num_envs_per_simulator,
            num_runners=num_runners,
            num_trajectories=-(-num_groups * self.group_size // num_runners),
            num_cpus=num_cpus,
            num_reserved_cpus=sum(bundle.get("CPU", 0) for bundle in bundles),
            num_cpus_per_simulator=self.num_cpus_per_simulator,
            memory_gb=memory_gb,
            simulator_memory_gb=memory_of_simulator,
        )

    def get_environment_spaces(self) -> tuple[gym.Space, gym.Space]:
        """Returns the suite's observation and action space (no simulator is started)."""
        return envs.make_spaces(self.env, **self.get_simulator_config())

    # --- between simulators and policy --------------------------------------------------------------------------------

    @override(AlgorithmConfig)
    def build_env_to_module_connector(
        self, env: gym.Env | None = None, spaces: dict[str, Any] | None = None, device: str | None = None
    ) -> ConnectorPipelineV2:
        """Image chain and prompt, sampling noise, then RLlib's batching."""
        pipeline = super().build_env_to_module_connector(env=env, spaces=spaces, device=device)
        pipeline.prepend(AddSamplingNoise())
        instructions = envs.list_instructions(self.env, self.get_simulator_config())
        prompt_length = envs.get_suite(self.env).prompt_length
        pipeline.prepend(ProcessObservations(instructions=instructions, prompt_length=prompt_length))
        return pipeline

    @override(AlgorithmConfig)
    def build_module_to_env_connector(
        self, env: gym.Env | None = None, spaces: dict[str, Any] | None = None
    ) -> ConnectorPipelineV2:
        """RLlib's unbatching, then tokens to actions; no unsquashing of what are not Box actions."""
        pipeline = super().build_module_to_env_connector(env=env, spaces=spaces)
        pipeline.remove(NormalizeAndClipActions)
        libero_gripper = envs.get_suite(self.env).gripper_convention == "libero"
        pipeline.insert_after(UnBatchToIndividualItems, DetokenizeActions(libero_gripper=libero_gripper))
        return pipeline
