"""Settings of supervised fine-tuning, checked before anything is built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.openvla_oft.lora import LoRAConfig
from rllib_vla.sft.augmentation import AugmentationConfig
from rllib_vla.sft.config_values import SFTConfigError, build, one_of
from rllib_vla.sft.demonstrations.demonstration import AUTO, LIBERO_GRIPPER
from rllib_vla.sft.demonstrations.loading import AUTO_FORMAT, READERS
from rllib_vla.sft.evaluation_config import SFTEvaluationConfig

SCHEDULES = ("cosine", "constant_then_decay")
PRECISIONS = ("float32", "bfloat16")
ACTION_BINS, FULL_VOCABULARY = "action_bins", "full_vocabulary"
LOSSES = (ACTION_BINS, FULL_VOCABULARY)
NO_GRIPPER = "none"
# Fields of `policy` that fit any weights: with `model_path`, sizes are those of the checkpoint.
ADAPTABLE_POLICY_FIELDS = (
    *("chunk_size", "action_dim", "use_proprio", "proprio_dim", "action_normalization", "image_chain"),
)
_POSITIVE = (
    *("first_windows", "first_window_repeats", "num_steps", "batch_size", "log_every_steps", "lr", "grad_clip"),
    *("demos_per_task", "checkpoint_every_steps", "num_threads"),
)


@dataclass(frozen=True)
class SFTConfig:
    """Everything one supervised fine-tuning run depends on.

    Attributes:
        demos_dir: Folder of the demonstrations: one ``<task>_demo.hdf5`` per task (LIBERO's layout), a LeRobot data
            set, or RoboTwin's ``<task>/…/episode<i>.hdf5``.
        output_dir: Where the checkpoint, the training state and TensorBoard events go.
        tasks: Tasks to train on; None means all of `suite`, or without a suite all that `demos_dir` has.
        suite: The tasks' suite: gives their names and, for LeRobot data sets, their texts; it is also where policies
            are evaluated.
        demos_format: ``libero_hdf5``, ``robotwin_hdf5``, ``lerobot``, or ``auto``: found out from the files.
        camera: Name of the camera in the files; None takes the layout's usual one.
        rotate_frames: LeRobot data sets only: frames were recorded upside down, as LIBERO's renderer leaves them.
        gripper_convention: ``libero`` (last action dimension -1 open, +1 closed), ``none`` (actions are learned as
            they are), or ``auto``: what the layout or the recorded suite says.
        instructions: Instruction by task, instead of the files' own.
        demos_per_task: Demonstrations drawn at random per task; None uses all.
        demos: Names of the demonstrations to use, by task; tasks that are not listed follow `demos_per_task`.
        subset_seed: Seed of that draw; None is `seed`.
        unnorm_key: Name under which the action statistics are stored in the checkpoint.
        statistics_from_all_demos: Compute the action statistics from all demonstrations of the tasks, also
            those not drawn. The released one-trajectory checkpoints used the full set's statistics.
        model_path: Checkpoint folder, or Hugging Face hub id, to start from; None starts from random weights of
            `preset`.
        init_from: Older name of `model_path`.
        preset: Size of a policy that starts from random weights.
        policy: Overrides of the preset's configuration; with `model_path`, only fields that fit any weights.
        lora: Train low-rank adapters instead of all weights (``{rank: 32, alpha: 16}``, see
            `policies.openvla_oft.lora.LoRAConfig`); they are merged into the checkpoint that is written.
        frozen_dtype: Type of the weights that adapters leave frozen.
        gradient_checkpointing: Recompute the language model's layers in the backward pass: less memory, a third more
            time.
        first_windows: How many windows at the start of each demonstration count as its first ones.
        first_window_repeats: How often an epoch shows those; 1 is as often as all others. Where to go is decided in the
            first chunk, from the picture alone; later windows can be answered from where the arm already is, and are
            in the majority.
        loss: ``action_bins``: cross-entropy of the action tokens over the 256 bins, the distribution that RL samples
            from; ``full_vocabulary``: the reference's, over all ids and with the stop token.
        num_steps: Optimizer steps.
        batch_size: Windows per optimizer step, of all workers together.
        micro_batch_size: Windows per forward and backward pass (gradients add up); None is a worker's whole share.
        lr: Peak learning rate.
        betas: AdamW's moment decay rates; the second suits runs of a thousand steps (the reference: 0.999).
        weight_decay: AdamW's decoupled weight decay (matrices only: no norms, biases or embeddings).
        warmup_steps: Steps of linear warm-up.
        schedule: ``cosine`` to `final_lr_fraction`, or ``constant_then_decay``: the reference's recipe, which
            multiplies by `final_lr_fraction` after `decay_at` of the steps.
        decay_at: Share of the steps after which ``constant_then_decay`` decays.
        final_lr_fraction: Last learning rate as a share of the peak.
        grad_clip: Largest global gradient norm; None does not clip (the reference).
        ema_decay: Decay per step of an exponential moving average of the weights, which is then what is
            saved; None saves the last weights.
        augmentation: Image augmentation.
        evaluation: Periodic greedy evaluation in the simulator; the best policy is what is saved. None: there is none,
            and the last policy is saved.
        precision: ``float32``, or ``bfloat16`` autocast over float32 weights.
        save_dtype: Type of the weights in the final checkpoint.
        device: ``cpu``, ``cuda`` …, or ``auto``: the first CUDA device if there is one.
        num_workers: 0 trains in this process; n trains in n processes by Ray Train, one GPU each if there are any.
        num_threads: PyTorch threads; None leaves PyTorch's choice. Part of the configuration because sums in
            another order round differently: the same seed and thread count give the same weights.
        prefetch_batches: Batches that a thread prepares ahead; 0 prepares each when it is needed.
        cache_dir: Folder in which prepared frames are kept as memory-mapped files, for later runs and shared by all
            workers; None keeps them in memory. Workers without it use a folder in `output_dir`.
        seed: Seed of the subset, the initial weights, the order of the data and the augmentation.
        log_every_steps: Steps between progress lines and TensorBoard points.
        checkpoint_every_steps: Steps between resumable training states; None writes one at the end only.
    """

    demos_dir: str
    output_dir: str
    tasks: list[str] | None = None
    suite: str | None = None
    demos_format: str = AUTO_FORMAT
    camera: str | None = None
    rotate_frames: bool = False
    gripper_convention: str = AUTO
    instructions: dict[str, str] = field(default_factory=dict)
    demos_per_task: int | None = None
    demos: dict[str, list[str]] = field(default_factory=dict)
    subset_seed: int | None = None
    unnorm_key: str = "libero_blocks"
    statistics_from_all_demos: bool = True
    model_path: str | None = None
    init_from: str | None = None
    preset: str = "tiny"
    policy: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    frozen_dtype: str = "float32"
    gradient_checkpointing: bool = False
    first_windows: int = 5
    first_window_repeats: int = 1
    loss: str = ACTION_BINS
    num_steps: int = 1000
    batch_size: int = 64
    micro_batch_size: int | None = None
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 50
    schedule: str = "cosine"
    decay_at: float = 0.67
    final_lr_fraction: float = 0.1
    grad_clip: float | None = 1.0
    ema_decay: float | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    evaluation: SFTEvaluationConfig | None = None
    precision: str = "float32"
    save_dtype: str = "float32"
    device: str = "auto"
    num_workers: int = 0
    num_threads: int | None = None
    prefetch_batches: int = 2
    cache_dir: str | None = None
    seed: int = 0
    log_every_steps: int = 50
    checkpoint_every_steps: int | None = 500

    def __post_init__(self) -> None:
        """Checks values that types alone do not rule out."""
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("loss", self.loss, LOSSES)
        for name in ("precision", "save_dtype", "frozen_dtype"):
            one_of(name, getattr(self, name), PRECISIONS)
        one_of("demos_format", self.demos_format, (AUTO_FORMAT, *READERS))
        one_of("gripper_convention", self.gripper_convention, (AUTO, LIBERO_GRIPPER, NO_GRIPPER))
        if self.tasks is not None and not self.tasks:
            raise SFTConfigError("'tasks' is empty: name at least one task, or leave it out", "tasks")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SFTConfigError(f"'{name}' must be positive, not {value}", name)
        for name in ("num_workers", "prefetch_batches", "warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise SFTConfigError(f"'{name}' must not be negative, is {getattr(self, name)}", name)
        for name in ("decay_at", "final_lr_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SFTConfigError(f"'{name}' is a share, must be in [0, 1], not {getattr(self, name)}", name)
        self._check_batches()
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise SFTConfigError(f"'ema_decay' must be in (0, 1), not {self.ema_decay}", "ema_decay")
        self._check_start()
        if self.evaluation is not None and (self.evaluation.suite or self.suite) is None:
            raise SFTConfigError("'evaluation' needs a suite to play: set 'suite' or 'evaluation.suite'", "evaluation")

    def _check_batches(self) -> None:
        """Workers and micro-batches must divide the batch."""
        workers, micro = max(1, self.num_workers), self.micro_batch_size
        if self.batch_size % workers:
            raise SFTConfigError(
                f"'num_workers' {workers} does not divide 'batch_size' {self.batch_size}", "num_workers"
            )
        share = self.batch_size // workers
        if micro is not None and (micro <= 0 or share % micro):
            of = f"'batch_size' {self.batch_size}" + (f" / {workers} workers" if workers > 1 else "")
            raise SFTConfigError(f"'micro_batch_size' {micro} does not divide {of}", "micro_batch_size")

    def _check_start(self) -> None:
        """What training starts from, and what is trained."""
        if self.init_from:
            if self.model_path:
                raise SFTConfigError("'init_from' is the older name of 'model_path': give one of them", "init_from")
            object.__setattr__(self, "model_path", self.init_from)
            object.__setattr__(self, "init_from", None)
        fixed = sorted(set(self.policy) - set(ADAPTABLE_POLICY_FIELDS))
        if self.model_path and fixed:
            raise SFTConfigError(
                f"'policy.{fixed[0]}' cannot be used with 'model_path', whose weights have their own sizes; "
                f"these can: {', '.join(ADAPTABLE_POLICY_FIELDS)}",
                "policy",
            )
        if self.lora is not None:
            if not self.model_path:
                raise SFTConfigError("'lora' adapts a checkpoint: set 'model_path'", "lora")
            if self.ema_decay is not None:
                raise SFTConfigError("'ema_decay' and 'lora' cannot be used together", "ema_decay")
            try:
                LoRAConfig.from_dict(self.lora)
            except ValueError as error:
                raise SFTConfigError(str(error), "lora") from None
        if self.frozen_dtype == "bfloat16" and (self.lora is None or self.precision != "bfloat16"):
            raise SFTConfigError(
                "'frozen_dtype' bfloat16 is of weights that 'lora' leaves frozen, and needs 'precision' bfloat16",
                "frozen_dtype",
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SFTConfig:
        """Builds the configuration from plain values.

        Raises:
            SFTConfigError: A key is unknown (the nearest valid one is named), missing, or of the wrong type.
        """
        return build(cls, values)

    @classmethod
    def from_yaml(cls, path: str | Path) -> SFTConfig:
        """Reads a YAML file; relative folders in it are relative to the working directory.

        Raises:
            SFTConfigError: The file is not a mapping, or a key or value in it is wrong.
        """
        from rllib_vla.cli.problems import InputError
        from rllib_vla.cli.sft_file import load_sft_config

        try:
            return load_sft_config(path)
        except InputError as error:
            raise SFTConfigError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` accepts."""
        values = dataclasses.asdict(self)
        values["betas"] = list(self.betas)
        return values
