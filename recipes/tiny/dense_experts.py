"""Every routed expert for every token: two large products instead of a gather per expert.

For a few small experts this is faster to train on a CPU, and its shapes do not depend on the
routing, so `torch.compile` takes it whole. Results equal the "eager" implementation up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from fastedit.models.llada2.modeling import LLaDA2MoeSparseBlock

DENSE = "fastedit_dense"


def dense_experts(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """`hidden` [N, H], `chosen` and `weights` [N, k] -> [N, H]; leaves `experts.load` [E] behind.

    The load is how many tokens chose each expert, for `balance`.
    """
    count = experts.num_experts
    dense = torch.zeros_like(weights[:, :1]).expand(-1, count).scatter(1, chosen, weights)
    experts.load = (dense.detach() > 0).sum(0)
    both = F.linear(hidden, experts.gate_up_proj.flatten(0, 1)).unflatten(-1, (count, 2, -1))
    inner = experts.act_fn(both[:, :, 0]) * both[:, :, 1] * dense[..., None].to(both.dtype)
    return F.linear(inner.flatten(1), experts.down_proj.transpose(0, 1).flatten(1))


@torch.no_grad()
def balance(model: nn.Module, rate: float) -> None:
    """Move each router's `expert_bias` by `rate` towards an even load of the last forward.

    Loss-free balancing (arXiv 2408.15664): the bias only selects, so it needs no gradient.
    """
    for block in model.modules():
        if isinstance(block, LLaDA2MoeSparseBlock):
            experts: Any = block.experts
            load = experts.load.float()
            block.gate.expert_bias += rate * torch.sign(load.mean() - load)


ALL_EXPERTS_FUNCTIONS.register(DENSE, dense_experts)
