"""Log-probabilities under the weights before the update, for groups that older weights sampled."""

from typing import Any

import torch
import torch.distributed as dist
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.torch_utils import convert_to_torch_tensor

from policies.openvla_oft.sampling import gather
from rllib_vla.algorithms.grpo.default_grpo_rl_module import ALL_LOG_PROBS
from rllib_vla.algorithms.grpo.torch.micro_batches import select_rows
from rllib_vla.columns import PROXIMAL_LOGP

# Rows per forward pass where `micro_batch_size` does not say; without gradients little is kept.
_DEFAULT_ROWS = 16


@torch.no_grad()
def add_proximal_logp(learner, module_id: str, rows: dict[str, Any]) -> None:
    """Adds `PROXIMAL_LOGP` float32 [B, N] to a train batch; runs before the first optimizer step of an update.

    Tokens that the present weights sampled have their log-probabilities already; only the others take a forward pass.
    With several learners all make the same number of passes, since a sharded model communicates in each.

    Args:
        learner: The learner.
        module_id: The policy.
        rows: The learner's train batch on the CPU.
    """
    behaviour = rows[Columns.ACTION_LOGP]
    stale = torch.nonzero(torch.as_tensor(rows[WEIGHTS_SEQ_NO]) < learner.version_before_update).flatten()
    proximal = behaviour.clone()
    size = learner.config.micro_batch_size or _DEFAULT_ROWS
    num_passes = -(-len(stale) // size)
    if dist.is_initialized() and dist.get_world_size() > 1:
        most = torch.tensor(num_passes, device=learner.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        num_passes = int(most)
    for i in range(num_passes):
        index = stale[i * size : (i + 1) * size]
        shown = index if len(index) else torch.zeros(1, dtype=torch.int64)  # a pass for the sake of the others
        micro = convert_to_torch_tensor(select_rows(dict(rows), shown), device=learner.device)
        log_probs = learner.module.forward_train({module_id: micro})[module_id][ALL_LOG_PROBS]
        logp = gather(log_probs, micro[Columns.ACTIONS]).to(proximal.device, proximal.dtype)
        proximal[index] = logp[: len(index)]
    rows[PROXIMAL_LOGP] = proximal
