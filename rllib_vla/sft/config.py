"""Settings of supervised fine-tuning, read from YAML and checked before anything is built."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rllib_vla.sft.augmentation import AugmentationConfig

SCHEDULES = ("cosine", "constant_then_decay")
PRECISIONS = ("float32", "bfloat16")


class SFTConfigError(ValueError):
    """A setting that does not exist or cannot be used; the message names it and says what would do."""


@dataclass(frozen=True)
class SFTConfig:
    """Everything one supervised fine-tuning run depends on.

    Attributes:
        demos_dir: Folder with one ``<task>_demo.hdf5`` per task.
        output_dir: Where the checkpoint, the training state and TensorBoard events go.
        tasks: Tasks to train on.
        demos_per_task: Demonstrations drawn at random per task; None uses all.
        unnorm_key: Name under which the action statistics are stored in the checkpoint.
        statistics_from_all_demos: Compute the action statistics from all demonstrations of the tasks, also
            those not drawn. The released one-trajectory checkpoints used the full set's statistics.
        init_from: Checkpoint folder to start from; None starts from random weights of `preset`.
        preset: Size of a policy that starts from random weights.
        policy: Overrides of the preset's configuration.
        first_windows: How many windows at the start of each demonstration count as its first ones.
        first_window_repeats: How often an epoch shows those; 1 is as often as all others. Where to go is decided in the
            first chunk, from the picture alone; later windows can be answered from where the arm already is, and are
            in the majority.
        num_steps: Optimizer steps.
        batch_size: Windows per optimizer step.
        micro_batch_size: Windows per forward and backward pass (gradients add up); None is the batch.
        lr: Peak learning rate.
        betas: AdamW's moment decay rates; the second suits runs of a thousand steps (the reference: 0.999).
        weight_decay: AdamW's decoupled weight decay (matrices only: no norms, biases or embeddings).
        warmup_steps: Steps of linear warm-up.
        schedule: ``cosine`` to `final_lr_fraction`, or ``constant_then_decay``: the reference's recipe, which
            multiplies by `final_lr_fraction` after `decay_at` of the steps.
        decay_at: Share of the steps after which ``constant_then_decay`` decays.
        final_lr_fraction: Last learning rate as a share of the peak.
        grad_clip: Largest global gradient norm.
        ema_decay: Decay per step of an exponential moving average of the weights, which is then what is
            saved; None saves the last weights.
        augmentation: Image augmentation.
        precision: ``float32``, or ``bfloat16`` autocast over float32 weights.
        save_dtype: Type of the weights in the final checkpoint.
        device: ``cpu``, ``cuda`` …, or ``auto``: the first CUDA device if there is one.
        num_threads: PyTorch threads; None leaves PyTorch's choice. Part of the configuration because sums in
            another order round differently: the same seed and thread count give the same weights.
        seed: Seed of the subset, the initial weights, the order of the data and the augmentation.
        log_every_steps: Steps between progress lines and TensorBoard points.
        checkpoint_every_steps: Steps between resumable training states; None writes one at the end only.
    """

    demos_dir: str
    output_dir: str
    tasks: list[str]
    demos_per_task: int | None = None
    unnorm_key: str = "libero_blocks"
    statistics_from_all_demos: bool = True
    init_from: str | None = None
    preset: str = "tiny"
    policy: dict[str, Any] = field(default_factory=dict)
    first_windows: int = 5
    first_window_repeats: int = 1
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
    grad_clip: float = 1.0
    ema_decay: float | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    precision: str = "float32"
    save_dtype: str = "float32"
    device: str = "auto"
    num_threads: int | None = None
    seed: int = 0
    log_every_steps: int = 50
    checkpoint_every_steps: int | None = 500

    def __post_init__(self) -> None:
        """Checks values that types alone do not rule out."""
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("save_dtype", self.save_dtype, PRECISIONS)
        if not self.tasks:
            raise SFTConfigError("'tasks' is empty: name at least one task")
        for name in (
            "first_windows",
            "first_window_repeats",
            "num_steps",
            "batch_size",
            "log_every_steps",
            "lr",
            "grad_clip",
        ):
            if getattr(self, name) <= 0:
                raise SFTConfigError(f"'{name}' must be positive, not {getattr(self, name)}")
        micro = self.micro_batch_size
        if micro is not None and (micro <= 0 or self.batch_size % micro):
            raise SFTConfigError(f"'micro_batch_size' {micro} does not divide 'batch_size' {self.batch_size}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise SFTConfigError(f"'ema_decay' must be in (0, 1), not {self.ema_decay}")
        if self.init_from and self.policy:
            raise SFTConfigError("'policy' overrides the preset's sizes and cannot be used with 'init_from'")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SFTConfig:
        """Builds the configuration from plain values.

        Raises:
            SFTConfigError: A key is unknown (the nearest valid one is named), missing, or of the wrong type.
        """
        return _build(cls, values, "")

    @classmethod
    def from_yaml(cls, path: str | Path) -> SFTConfig:
        """Reads a YAML file; relative folders in it are relative to the working directory.

        Raises:
            SFTConfigError: The file is not a mapping, or a key or value in it is wrong.
        """
        values = yaml.safe_load(Path(path).read_text())
        if not isinstance(values, dict):
            raise SFTConfigError(f"{path} must hold a mapping of settings, not {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except SFTConfigError as error:
            raise SFTConfigError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` accepts."""
        values = dataclasses.asdict(self)
        values["betas"] = list(self.betas)
        return values


def _build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    """Builds a (nested) dataclass from plain values, naming every mistake by its key."""
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else f"; valid keys: {sorted(hints)}"
            raise SFTConfigError(f"unknown key '{prefix}{key}'{hint}")
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise SFTConfigError(f"missing key '{prefix}{missing[0]}'")
    converted = {key: _convert(hints[key], value, prefix + key) for key, value in values.items()}
    try:
        return cls(**converted)
    except SFTConfigError:
        raise
    except ValueError as error:
        raise SFTConfigError(str(error)) from None


def _convert(hint: Any, value: Any, key: str) -> Any:
    """Checks `value` against a type hint; numbers such as 5e-4, text in YAML 1.1, become floats."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    origin = typing.get_origin(hint) or hint
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value, f"{key}.")
    if hint is Any or (origin is dict and isinstance(value, dict)):
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        items = [_convert(item, v, f"{key}[{i}]") for i, v in enumerate(value)]
        if origin is tuple and len(items) != len(typing.get_args(hint)):
            raise SFTConfigError(f"'{key}' must have {len(typing.get_args(hint))} values, not {len(items)}")
        return origin(items)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = getattr(hint, "__name__", str(hint))
    raise SFTConfigError(f"'{key}' must be {expected}, not {value!r}")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SFTConfigError(f"'{key}' must be one of {', '.join(allowed)}, not {value!r}{hint}")
