"""Seconds of a GRPO iteration, from counted arithmetic and typical rates; `rllib plan` prints them.

All trajectories are taken to reach the step limit and one sampling round to suffice; simulators and policy, which
overlap, are added up. Rates that are not given are typical values of this file.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rllib_vla.distributed.placement import num_simulators, shares_process

if TYPE_CHECKING:
    from rllib_vla.cli.plan import Plan

# Sustained TFLOP/s: of a large GPU in bfloat16 (`python -m benchmarks gpu`, 7B on an H200: 290 to 510); of a CPU core
# in float32 (`python -m benchmarks plan_accuracy`: 0.02 for the tiny policy, 0.05 for `small`).
GPU_TFLOPS = 300.0
CPU_TFLOPS = 0.03
# Control steps per second of one simulator on one core, frames included (measured, docs/performance.md).
STEPS_PER_SECOND = {
    "libero_blocks": 1300.0,
    "libero_spatial": 41.0,
    "libero_object": 72.0,
    "libero_10": 55.0,
    "bimanual": 820.0,
}


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Time of an iteration and what it is based on.

    Attributes:
        policy: Seconds of the policy calls of one sampling round.
        simulation: Seconds of its simulation; None: the rate of this suite is not known.
        update: Seconds of one update.
        basis: The rates, in words.
    """

    policy: float
    simulation: float | None
    update: float
    basis: str

    @property
    def total(self) -> float:
        """All parts that are known."""
        return self.policy + (self.simulation or 0.0) + self.update


def estimate(plan: Plan, *, tflops: float | None = None, steps_per_second: float | None = None) -> Seconds:
    """Estimates the time of an iteration.

    Args:
        plan: Counts of the experiment.
        tflops: Sustained TFLOP/s of each GPU or process; None: typical ones.
        steps_per_second: Control steps per second of one simulator; None: typical ones of the suite.
    """
    config = plan.config
    runners, learners = max(1, config.num_env_runners), plan.learning.num_learners
    learner_gpu = config.num_gpus_per_learner > 0
    runner_gpu = config.num_gpus_per_env_runner > 0 or (shares_process(config) and learner_gpu)
    runner_tflops, learner_tflops = (tflops or (GPU_TFLOPS if gpu else CPU_TFLOPS) for gpu in (runner_gpu, learner_gpu))
    steps_rate = steps_per_second or STEPS_PER_SECOND.get(config.env if isinstance(config.env, str) else "")
    steps = plan.model_calls * plan.model_config.chunk_size
    simulators = max(1, num_simulators(config))
    rates = [f"{tflops:g} TFLOP/s each"] if tflops else []
    if not tflops:
        rates += [f"{GPU_TFLOPS:g} TFLOP/s per GPU, typical of an H200"] * (runner_gpu or learner_gpu)
        rates += [f"{CPU_TFLOPS:g} TFLOP/s per CPU process, typical of one core"] * (not runner_gpu or not learner_gpu)
    if steps_rate:
        typical = "" if steps_per_second else ", typical of the suite"
        rates.append(f"{steps_rate:g} control steps/s on each of {simulators} simulators{typical}")
    return Seconds(
        policy=plan.sampling_flops / runners / runner_tflops / 1e12,
        simulation=steps / simulators / steps_rate if steps_rate else None,
        update=plan.update_flops / learners / learner_tflops / 1e12,
        basis="; ".join(rates),
    )
