"""Settings of GRPO. Defaults are the paper's and its reference implementation's (LIBERO recipe)."""

from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.learner import AddObservationsFromEpisodesToBatch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

import envs
from rllib_vla.algorithms.grpo.grpo_validation import check_settings
from rllib_vla.algorithms.suite_config import SuiteConfig
from rllib_vla.connectors.group.group_outcome_filter import GroupOutcomeFilter
from rllib_vla.connectors.group.group_relative_advantages import GroupRelativeAdvantages
from rllib_vla.connectors.learner.add_token_weights import AddTokenWeights
from rllib_vla.distributed.placement import resolve_gpu_shares
from rllib_vla.env_runners.group_env_runner import GroupEnvRunner
from rllib_vla.env_runners.pool_size import AUTO
from rllib_vla.model_path import resolve_model_path

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.core.learner.learner import Learner


class GRPOConfig(SuiteConfig):
    """Configuration of `GRPO`.

    .. code-block:: python

        config = (
            GRPOConfig()
            .environment("libero_blocks", env_config={"tasks": ["lift_red_cube"]})
            .rl_module(model_config={"model_path": "checkpoints/libero_blocks_cold_start"})
            .training(temperature=1.0, lr=1e-4, num_groups_per_train_batch=16)
        )
        algo = config.build_algo()
        print(algo.train()["env_runners"]["success_rate"])
    """

    def __init__(self, algo_class: "type[Algorithm] | None" = None) -> None:
        if algo_class is None:
            from rllib_vla.algorithms.grpo.grpo import GRPO

            algo_class = GRPO
        super().__init__(algo_class=algo_class)

        # fmt: off
        # Sampling.
        self.temperature = 1.6
        self.group_size = 8
        self.num_groups_per_train_batch = 64
        self.num_groups_per_sampling_round: int | None = None
        self.max_sampling_rounds = 7
        self.max_group_staleness = 1
        self.max_sampling_staleness = 0
        self.importance_weight_cap: float | None = 2.0
        self.dynamic_sampling = True
        self.success_rate_low = 0.1
        self.success_rate_high = 0.9
        # Objective.
        self.clip_param_low = 0.2
        self.clip_param_high = 0.28
        self.dual_clip: float | None = None
        self.advantage_estimator = "grpo"
        self.advantage_epsilon = 1e-6
        self.loss_aggregation = "trajectory"
        self.kl_coeff = 0.0
        self.entropy_coeff = 0.0
        # Optimizer.
        self.lr = 5e-6
        self.grad_clip: float | None = 1.0
        self.grad_clip_by = "global_norm"
        self.adam_betas = (0.9, 0.999)
        self.adam_epsilon = 1e-8
        self.weight_decay = 0.01
        self.minibatch_size = 128
        self.num_epochs = 1
        self.micro_batch_size: int | None = 16
        self.max_consecutive_nonfinite_updates = 5
        self.micro_batch_tokens: int | None = None
        # Learners.
        self.num_threads_for_update: int | None = None
        self.parallelism = "auto"
        self.master_dtype: str | None = None
        self.activation_checkpointing = False
        self.compile_blocks = False
        self.cpu_offload = False
        self.async_checkpoints = True
        # Processes.
        self.placement = "collocated"
        self.offload_idle_model = False
        self.simulator_scheduling = "pack"
        # Simulators.
        self.num_simulators_per_env_runner: int | str | None = AUTO
        self.num_envs_per_simulator: int | str | None = AUTO
        self.num_cpus_per_simulator = 1.0
        self.simulator_timeout_s = 60.0
        self.simulator_start_timeout_s = 300.0
        self.max_consecutive_simulator_failures = 8
        # Model.
        self.module_class: type | None = None
        # Evaluation.
        self.evaluation_split = "eval"
        self.evaluation_num_scenes_per_task = 50
        self.evaluation_num_videos = 0
        self.evaluate_at_start = True
        # What RLlib's defaults would get wrong here.
        self.env_runner_cls = GroupEnvRunner
        self.num_env_runners = 0
        self.num_learners = 0
        self.sample_timeout_s: float | None = None
        self.evaluation_sample_timeout_s: float | None = None
        self.create_local_env_runner = True
        # Connectors hold no state; asking for it after every iteration would wait for runners that sample ahead.
        self._dont_auto_sync_env_runner_states = True
        self.normalize_actions = False
        self.clip_actions = False
        self.delay_between_env_runner_restarts_s = 1.0
        self.env_runner_health_probe_timeout_s = 5.0  # waited for in every iteration while a runner cannot come back
        self.torch_skip_nan_gradients = True  # the learner itself skips non-finite steps as a whole
        self.log_sys_usage = False
        self.seed = 0
        # fmt: on

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        temperature: float | None = NotProvided,
        group_size: int | None = NotProvided,
        num_groups_per_train_batch: int | None = NotProvided,
        num_groups_per_sampling_round: int | None = NotProvided,
        max_sampling_rounds: int | None = NotProvided,
        max_group_staleness: int | None = NotProvided,
        max_sampling_staleness: int | None = NotProvided,
        importance_weight_cap: float | None = NotProvided,
        dynamic_sampling: bool | None = NotProvided,
        success_rate_low: float | None = NotProvided,
        success_rate_high: float | None = NotProvided,
        clip_param_low: float | None = NotProvided,
        clip_param_high: float | None = NotProvided,
        dual_clip: float | None = NotProvided,
        advantage_estimator: Literal["grpo", "rloo", "mean_baseline"] | None = NotProvided,
        advantage_epsilon: float | None = NotProvided,
        loss_aggregation: Literal["trajectory", "token"] | None = NotProvided,
        kl_coeff: float | None = NotProvided,
        entropy_coeff: float | None = NotProvided,
        adam_betas: list[float] | None = NotProvided,
        adam_epsilon: float | None = NotProvided,
        weight_decay: float | None = NotProvided,
        micro_batch_size: int | None = NotProvided,
        micro_batch_tokens: int | None = NotProvided,
        max_consecutive_nonfinite_updates: int | None = NotProvided,
        **kwargs: Any,
    ) -> "GRPOConfig":
        """Sets what defines the training.

        Args:
            temperature: Softmax temperature of the action tokens for sampling and in the loss (1.6 in the paper).
                The temperature that explores well depends on how sharp the cold start is.
            group_size: Trajectories per scene that are compared with each other (8).
            num_groups_per_train_batch: Groups with contrast per iteration (64).
            num_groups_per_sampling_round: Groups that are played before looking whether there are enough with
                contrast. None: `num_groups_per_train_batch`.
            max_sampling_rounds: Rounds after which an iteration trains on what it has, or, without a single group
                with contrast, reports so and makes no update (7: one epoch of the reference).
            max_group_staleness: Groups that were sampled beyond the train batch are kept for later iterations while
                their weights are at most this many updates old. 0 drops them, as the reference does.
            max_sampling_staleness: Train batches that the environment runners may sample ahead while the learner
                updates. 0: learner and runners wait for each other, every group is sampled with the newest weights.
                1: during an update the runners play the groups of the next one, with weights that are one update old
                by then. Needs `num_env_runners` of at least 1 and `max_group_staleness` at least as high, which
                bounds the age of every group.
            importance_weight_cap: With `max_sampling_staleness`, tokens sampled by older weights count
                min(pi_old / pi_behaviour, this) times, where pi_old are the weights before the update, and their
                ratio is taken to pi_old; see docs/grpo.md. None: no correction, the ratio is taken to what sampled.
            dynamic_sampling: Drop groups whose members all did equally well.
            success_rate_low: Groups with a lower mean success are dropped (0.1).
            success_rate_high: Groups with a higher mean success are dropped (0.9).
            clip_param_low: The importance ratio is clipped below 1 minus this (0.2).
            clip_param_high: The importance ratio is clipped above 1 plus this (0.28, "clip-higher").
            dual_clip: Bound of the ratio for negative advantages, > 1; None: off.
            advantage_estimator: "grpo" (standardised within the group), "rloo" (leave-one-out baseline) or
                "mean_baseline" (REINFORCE with the group mean).
            advantage_epsilon: Guards the division by the standard deviation.
            loss_aggregation: "trajectory": mean over the tokens of a trajectory, then over trajectories. "token":
                mean over all tokens of the minibatch, so that long trajectories count more.
            kl_coeff: Weight of the exact KL divergence to the initial policy; 0 (paper): no reference model is kept.
            entropy_coeff: Weight of the entropy bonus; 0 in the paper.
            adam_betas: AdamW's betas.
            adam_epsilon: AdamW's epsilon.
            weight_decay: AdamW's weight decay.
            micro_batch_size: Model calls per forward and backward pass; bounds memory, does not change gradients.
                None: the whole minibatch at once.
            micro_batch_tokens: Instead of `micro_batch_size`: tokens per forward and backward pass (visual tokens,
                prompt, action slots; padding included). Rows are sorted by length and as many are taken as fit.
            max_consecutive_nonfinite_updates: The run stops after this many skipped optimizer steps in a row.
            **kwargs: RLlib's own settings: `lr`, `grad_clip`, `minibatch_size` (in trajectories, over all learners
                together), `num_epochs`, `shuffle_batch_per_epoch`, ...
        """
        super().training(**kwargs)
        return self._set_provided(locals())

    @override(AlgorithmConfig)
    def env_runners(
        self,
        *,
        num_simulators_per_env_runner: int | Literal["auto"] | None = NotProvided,
        num_envs_per_simulator: int | Literal["auto"] | None = NotProvided,
        num_cpus_per_simulator: float | None = NotProvided,
        simulator_timeout_s: float | None = NotProvided,
        simulator_start_timeout_s: float | None = NotProvided,
        max_consecutive_simulator_failures: int | None = NotProvided,
        **kwargs: Any,
    ) -> "GRPOConfig":
        """Sets how trajectories are collected.

        Args:
            num_simulators_per_env_runner: Simulator processes per environment runner. "auto": one per CPU that nothing
                else of the algorithm reserves, as far as memory allows. 0: one simulator inside the runner's own
                process, for debugging.
            num_envs_per_simulator: Trajectories that one simulator plays in turn. More make larger inference batches
                and hide the policy's latency; they cost hardly any memory. "auto": a sampling round is shared out
                evenly, at most 16. Suites without snapshots (RoboTwin) need a simulation process of its own for each of
                them: 1 or 2, "auto" is 1.
            num_cpus_per_simulator: CPUs reserved per simulator process.
            simulator_timeout_s: Seconds one action chunk may take before its simulator is considered hung,
                killed and restarted.
            simulator_start_timeout_s: Extra seconds for the first call of a fresh simulator.
            max_consecutive_simulator_failures: Simulator failures in a row after which a runner gives up.
            **kwargs: RLlib's own settings: `num_env_runners`, `num_gpus_per_env_runner`, `sample_timeout_s`, ...
        """
        super().env_runners(**kwargs)
        return self._set_provided(locals())

    @override(AlgorithmConfig)
    def resources(
        self,
        *,
        placement: Literal["collocated", "disaggregated"] | None = NotProvided,
        offload_idle_model: bool | None = NotProvided,
        simulator_scheduling: Literal["pack", "spread"] | None = NotProvided,
        **kwargs: Any,
    ) -> "GRPOConfig":
        """Sets who shares what hardware.

        Args:
            placement: "collocated": learner and runner share a GPU and take turns (the paper's way); `num_learners` and
                `num_env_runners` are equal, both 0: one process and one copy of the model. "disaggregated": learners
                and runners have GPUs of their own (`num_gpus_per_learner`, `num_gpus_per_env_runner`) and can work at
                the same time. Without GPUs both are the same.
            offload_idle_model: On a shared GPU, move to host memory what is idle: weights, gradients and optimizer
                state of the learner during sampling, the runner's weights during the update.
            simulator_scheduling: "pack": simulators fill one node after the other. "spread": over all nodes; in a Tune
                trial this holds for everything the trial reserves.
            **kwargs: RLlib's own settings: `placement_strategy`, ...
        """
        super().resources(**kwargs)
        return self._set_provided(locals())

    @override(AlgorithmConfig)
    def rl_module(self, *, module_class: type | None = NotProvided, **kwargs: Any) -> "GRPOConfig":
        """Sets the model.

        Args:
            module_class: An RLModule class that implements `DefaultGRPORLModule` (in a file: 'package.module:Class').
                None: OpenVLA-OFT.
            **kwargs: RLlib's own settings: `model_config`, ...
        """
        super().rl_module(**kwargs)
        return self._set_provided({"module_class": module_class})

    @override(AlgorithmConfig)
    def learners(
        self,
        *,
        num_threads_for_update: int | None = NotProvided,
        parallelism: Literal["auto", "ddp", "fsdp2"] | None = NotProvided,
        master_dtype: Literal["float32", "bfloat16"] | None = NotProvided,
        activation_checkpointing: bool | None = NotProvided,
        compile_blocks: bool | None = NotProvided,
        cpu_offload: bool | None = NotProvided,
        async_checkpoints: bool | None = NotProvided,
        **kwargs: Any,
    ) -> "GRPOConfig":
        """Sets how the learners run; `docs/scale.md` has the arithmetic of memory.

        Args:
            num_threads_for_update: Torch threads during updates on the CPU. None: leave torch's setting.
            parallelism: "fsdp2": every learner holds a part of weights, gradients and optimizer state. "ddp": every
                learner holds all. "auto": FSDP2 from a billion trainable parameters on, or where `master_dtype` or
                `cpu_offload` need it, else DDP; a single learner needs neither.
            master_dtype: Type of the weights that the optimizer steps, where it is not the one that is computed with
                (`model_config={"dtype": ...}`, the same for sampling and learning). "float32" with a model in bfloat16:
                mixed precision. None: the model's. LoRA adapters are float32 in any case.
            activation_checkpointing: Recompute each block in the backward pass instead of keeping its activations:
                a third more arithmetic for a fraction of the memory.
            compile_blocks: Compile each block with `torch_compile_learner_dynamo_backend`.
            cpu_offload: With FSDP2: weights, gradients and optimizer state rest in host memory, and the CPU makes the
                optimizer step.
            async_checkpoints: With FSDP2: training goes on while checkpoints are written. Until it is complete, a
                checkpoint has no manifest and is passed over by `--resume`.
            **kwargs: RLlib's own settings: `num_learners`, `num_gpus_per_learner`, ...
        """
        super().learners(**kwargs)
        return self._set_provided(locals())

    @override(AlgorithmConfig)
    def evaluation(
        self,
        *,
        evaluation_split: Literal["eval", "train", "reference"] | None = NotProvided,
        evaluation_num_scenes_per_task: int | None = NotProvided,
        evaluation_num_videos: int | None = NotProvided,
        evaluate_at_start: bool | None = NotProvided,
        **kwargs: Any,
    ) -> "GRPOConfig":
        """Sets the greedy evaluation during training.

        Args:
            evaluation_split: Which initial states are played. "eval" are never trained on, unless
                `env_config["train_split"]` is "reference" (LIBERO's suites only).
            evaluation_num_scenes_per_task: Initial states per task (all 50 of libero_blocks).
            evaluation_num_videos: Videos per evaluation, one frame per action chunk, in `<trial>/videos/`.
            evaluate_at_start: Also evaluate before the first update.
            **kwargs: RLlib's own settings: `evaluation_interval`, ...
        """
        super().evaluation(**kwargs)
        return self._set_provided(locals())

    def _set_provided(self, arguments: dict[str, Any]) -> "GRPOConfig":
        """Sets what the caller of one of the methods above has given; `arguments` are its local variables."""
        for name, value in arguments.items():
            if name not in ("self", "kwargs", "__class__") and value is not NotProvided:
                setattr(self, name, value)
        return self

    # --- validation ---------------------------------------------------------------------------------------------------

    @override(AlgorithmConfig)
    def validate(self) -> None:
        if isinstance(self.env, str):
            tune.register_env(self.env, lambda env_context: envs.make_env(self.env, **env_context))
        if self.num_env_runners:
            # A runner in the main process would hold a model and simulators that nobody uses.
            self.create_local_env_runner = False
        if not self.in_evaluation:  # RLlib's evaluation configuration speaks of runners that GRPO does not have
            try:
                resolve_gpu_shares(self)
            except ValueError as error:
                self._value_error(f"{error}.")
        # Requests beyond this number would be dropped by RLlib without a word.
        self.max_requests_in_flight_per_env_runner = 1 + int(self.max_sampling_staleness or 0)
        super().validate()
        if "model_path" in self._model_config:
            self._model_config["model_path"] = resolve_model_path(self._model_config["model_path"])
        check_settings(self)

    # --- what RLlib builds from the settings ----------------------------------------------------------------------

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> "type[Learner]":
        from rllib_vla.algorithms.grpo.torch.grpo_torch_learner import GRPOTorchLearner

        return GRPOTorchLearner

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        from rllib_vla.rl_modules.openvla_oft_rl_module import OpenVLAOFTRLModule

        return RLModuleSpec(module_class=self.module_class or OpenVLAOFTRLModule)

    @property
    @override(AlgorithmConfig)
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return super()._model_config_auto_includes | {"temperature": self.temperature}

    def build_group_connector(self) -> ConnectorPipelineV2:
        """Works on whole groups before any sharding: dynamic-sampling filter, then advantages."""
        pieces = []
        if self.dynamic_sampling:
            pieces.append(GroupOutcomeFilter(low=self.success_rate_low, high=self.success_rate_high))
        pieces.append(GroupRelativeAdvantages(estimator=self.advantage_estimator, epsilon=self.advantage_epsilon))
        return ConnectorPipelineV2(connectors=pieces)

    @override(AlgorithmConfig)
    def build_learner_connector(
        self,
        input_observation_space: gym.Space | None,
        input_action_space: gym.Space | None,
        device: str | None = None,
    ) -> ConnectorPipelineV2:
        """Token weights, then RLlib's episodes-to-batch conversion. The batch stays on the CPU."""
        pipeline = super().build_learner_connector(input_observation_space, input_action_space, device="cpu")
        pipeline.insert_before(
            AddObservationsFromEpisodesToBatch, AddTokenWeights(loss_aggregation=self.loss_aggregation)
        )
        return pipeline

    def get_master_dtype(self) -> str:
        """Returns the type of the weights that the optimizer steps (with LoRA: of the frozen ones)."""
        model_dtype = self._model_config.get("dtype", "float32")
        return model_dtype if self._model_config.get("lora") is not None else self.master_dtype or model_dtype

    def needs_sharding(self) -> bool:
        """Whether settings ask for what only sharded learners can do."""
        return self.cpu_offload or self.get_master_dtype() != self._model_config.get("dtype", "float32")
