"""The head in training: losses and predictions of chosen rows without the logits of all of them.

With V = 157,184 the logits of 2048 rows are 1.2 GiB in fp32, and a plain loss holds them three
times. Here at most `LOGITS` of them exist at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastedit import ops

LOGITS = 1 << 24  # logits of a chunk, 64 MiB in fp32; fewer rows are slower on a CPU


def chunks(rows: int, vocab: int) -> Iterator[slice]:
    """Consecutive slices of `rows` rows whose logits over `vocab` ids are at most `LOGITS`."""
    size = max(1, LOGITS // vocab)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def weighted_cross_entropy(
    hidden: Tensor, head: nn.Module, labels: Tensor, weights: Tensor
) -> Tensor:
    """sum_i weights_i * CE_i of `hidden` [N, H] under `head`, labels int64 [N], weights fp32 [N].

    `torch.nn.functional.linear_cross_entropy` where torch has it and the head is a plain linear
    layer. Chunks are set here: on a CPU torch's own choice of one or two rows at this V takes
    ten times as long. Gradients are taken in the forward pass where all weights are the same, and
    by recomputation where they are not or the head is something else, with hooks for instance.
    """
    if len(labels) == 0:  # still a gradient of zeros for every parameter: DDP waits for them
        return head(hidden).sum()
    if not (_is_its_weight(head) and hasattr(torch.nn, "LinearCrossEntropyOptions")):
        return _recomputed(hidden, head, labels, weights)
    hidden, weight = _in_one_dtype(hidden, head.weight)
    options = torch.nn.LinearCrossEntropyOptions(
        batch_chunk_size=max(1, LOGITS // head.out_features)
    )
    settings: dict[str, Any] = {"linear_bias": head.bias, "options": options}
    if bool((weights == weights[0]).all()):
        loss = F.linear_cross_entropy(hidden, weight, labels, reduction="sum", **settings)
        return loss.float() * weights[0]
    losses = F.linear_cross_entropy(hidden, weight, labels, reduction="none", **settings)
    return (losses.float() * weights).sum()


def _is_its_weight(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a call of `head` is `F.linear` alone: no adapter, no hook (offloading, sharding)."""
    hooks = (
        head._forward_pre_hooks,
        head._forward_hooks,
        head._backward_pre_hooks,
        head._backward_hooks,
    )
    return type(head) is nn.Linear and "forward" not in vars(head) and not any(hooks)


def _recomputed(hidden: Tensor, head: nn.Module, labels: Tensor, weights: Tensor) -> Tensor:
    """The same for any head: the logits of a chunk are computed again in the backward pass."""

    def part(hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        losses = F.cross_entropy(_wide(head(hidden)), labels, reduction="none")
        return (losses * weights).sum()

    total = torch.zeros((), device=hidden.device)
    for rows in chunks(len(labels), vocabulary(head)):
        arguments = hidden[rows], labels[rows], weights[rows]
        total = total + checkpoint(part, *arguments, use_reentrant=False)
    return total


def entropy_of_right(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Mean entropy in nats over the rows whose argmax is the label, with gradient; 0 if none is.

    The confidence loss of dParallel and CAP (inclusionAI/dFactory,
    `tasks/train_llada2_bd_with_dparallel.py`). Logits are computed again in the backward pass.
    """

    def part(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logs = F.log_softmax(_wide(head(hidden)), dim=-1)
        right = logs.detach().argmax(-1) == labels
        return -(logs.exp() * logs).sum(-1)[right].sum(), right.sum()

    total, count = hidden.sum() * 0.0, torch.zeros((), device=hidden.device)
    for rows in chunks(len(labels), vocabulary(head)):
        entropy, right = checkpoint(part, hidden[rows], labels[rows], use_reentrant=False)
        total, count = total + entropy, count + right
    return total / count.clamp(min=1)


@torch.no_grad()
def predictions(
    hidden: Tensor, head: nn.Module, current: Tensor, mask_token_id: int
) -> tuple[Tensor, Tensor]:
    """Argmax that is not the mask, and its probability, of `hidden` [N, H]: int64, fp32 [N]."""
    token, prob, _ = likelihoods(hidden, head, current, (mask_token_id,))
    return token, prob


@torch.no_grad()
def likelihoods(
    hidden: Tensor, head: nn.Module, ids: Tensor, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Argmax that is none of `forbid`, its probability and that of `ids` [N]: int64, fp32, fp32."""
    token = torch.empty_like(ids)
    prob, of_ids = torch.empty(2, len(ids), device=ids.device)
    for rows in chunks(len(ids), vocabulary(head)):
        stats = ops.row_stats(readable(head(hidden[rows])), ids[rows], forbid=forbid)
        token[rows], prob[rows], of_ids[rows] = stats.token, stats.prob, stats.prob_current
    return token, prob, of_ids


def vocabulary(head: Any) -> int:
    """Number of ids of an output head, wrapped by an adapter or not."""
    return getattr(head, "original_module", head).out_features


def readable(logits: Tensor) -> Tensor:
    """Logits as the operations take them; they have no float64."""
    return logits.float() if logits.dtype == torch.float64 else logits


def _wide(logits: Tensor) -> Tensor:
    """fp32 for narrower dtypes; float64 stays."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _in_one_dtype(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `F.linear` would take them: autocast does not reach into the fused loss."""
    kind, dtype = hidden.device.type, weight.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype)
