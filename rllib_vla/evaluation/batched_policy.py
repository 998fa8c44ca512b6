"""A policy that answers many waiting episodes at once, the same for each whatever else waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from policies.openvla_oft import OpenVLAOFTPolicy, libero_gripper_to_env
from policies.openvla_oft.modeling import Pick
from policies.openvla_oft.sampling import greedy, log_probs_from_logits, sample_by_inverse_cdf
from rllib_vla.connectors.env_to_module.add_sampling_noise import sampling_uniforms
from rllib_vla.evaluation.trajectory import EvaluationTrajectory

# Rows of every forward pass. Matrix products of another size round differently (by 1e-5 in the logits of the tiny
# policy), which can turn over a near tie: the same episode would end differently beside other episodes.
BATCH_SIZE = 8


class BatchedPolicy:
    """Turns waiting episodes into action chunks.

    Every forward pass (plain OpenVLA's: one per token) has `BATCH_SIZE` rows and prompts of one length, filled up where
    fewer episodes wait. So an episode does not depend on which others are played beside it: not on the number of
    simulators, and not on whether an evaluation was interrupted.

    Args:
        policy: The policy, on whatever device its model is.
        instructions: All instructions that will come; the longest one decides the length of prompts.
        prompt_length: Least length of prompts in tokens, see `envs.base.Suite`.
        temperature: Softmax temperature of sampling; None decodes greedily.
        seed: Seed of sampling. The noise of an episode depends on it, the scene, the repeat and the number of
            the model call only, so an episode can be replayed alone.
        gripper_convention: That of the suite, see `envs.base.Suite`.
    """

    def __init__(
        self,
        policy: OpenVLAOFTPolicy,
        *,
        instructions: Sequence[str],
        prompt_length: int = 0,
        temperature: float | None = None,
        seed: int = 0,
        gripper_convention: str | None,
    ) -> None:
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature} (None decodes greedily)")
        self.policy = policy
        self.temperature = temperature
        self.seed = seed
        self.gripper_convention = gripper_convention
        self.device = next(policy.model.parameters()).device
        lengths = [len(policy.processor.prompt_ids(text)) for text in set(instructions)]
        self._prompt_length = max(prompt_length, *lengths)

    def __call__(self, waiting: Sequence[EvaluationTrajectory]) -> list[np.ndarray]:
        """Actions for each waiting episode, ``[n, D] float32`` in the simulator's units."""
        asking = [t for t in waiting if t.needs_plan]
        for batch in _batches(asking):
            for trajectory, chunk in zip(batch, self._chunks(batch), strict=True):
                trajectory.plan(chunk)
        return [t.next_actions() for t in waiting]

    @torch.inference_mode()
    def _chunks(self, batch: Sequence[EvaluationTrajectory]) -> np.ndarray:
        """One batch: observations to chunks, ``[B, C, D] float32``."""
        rows = [*batch, *[batch[-1]] * (BATCH_SIZE - len(batch))]
        tensors = {k: torch.from_numpy(v).to(self.device) for k, v in self._inputs(rows).items()}
        bins, _ = self.policy.model.generate(self._picker(rows), **tensors)
        bins = bins[: len(batch)]
        actions = self.policy.decode(bins + self.policy.config.first_action_id)
        if self.gripper_convention == "libero":
            actions = libero_gripper_to_env(actions)
        return actions.astype(np.float32)

    def _picker(self, rows: Sequence[EvaluationTrajectory]) -> Pick:
        """How tokens are decided for these episodes."""
        temperature = self.temperature
        if temperature is None:
            return lambda logits, first: greedy(logits)
        noise = [
            sampling_uniforms(
                seed=self.seed,
                group_id=t.scene.task_id * 1_000_000 + t.scene.index,
                member=t.repeat,
                call=t.num_model_calls,
                num_tokens=self.policy.config.num_action_tokens,
            )
            for t in rows
        ]
        uniforms = torch.from_numpy(np.stack(noise)).to(self.device)

        def pick(logits: torch.Tensor, first: int) -> torch.Tensor:
            log_probs = log_probs_from_logits(logits, temperature)
            return sample_by_inverse_cdf(log_probs, uniforms[:, first : first + logits.shape[1]])

        return pick

    def _inputs(self, rows: Sequence[EvaluationTrajectory]) -> dict[str, np.ndarray]:
        observations = [t.observation for t in rows]
        proprio = [o["proprio"] for o in observations] if self.policy.config.use_proprio else None
        inputs = self.policy.processor(
            [o["image"] for o in observations], [o["instruction"] for o in observations], proprio=proprio
        )
        missing = self._prompt_length - inputs["input_ids"].shape[1]
        padding = ((0, 0), (0, max(0, missing)))
        pad_id = self.policy.config.pad_token_id
        return inputs | {
            "input_ids": np.pad(inputs["input_ids"], padding, constant_values=pad_id),
            "attention_mask": np.pad(inputs["attention_mask"], padding),
        }


def _batches(asking: Sequence[EvaluationTrajectory]) -> Iterator[Sequence[EvaluationTrajectory]]:
    for start in range(0, len(asking), BATCH_SIZE):
        yield asking[start : start + BATCH_SIZE]
