"""The block-diffusion loss on the doubled sequence [x_t ; x_0]."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastedit.models.llada2 import doubled_block_mask
from recipes.tiny.noise import Noisy

# (ids [B, Q], bool mask [1, 1, Q, Q], positions [1, Q]) -> hidden states after the final norm
Trunk = Callable[[Tensor, Tensor, Tensor], Tensor]


class LossWeights(NamedTuple):
    """Weights of masked, wrong and right visible positions; w(t) is 1."""

    mask: float = 1.0
    edit: float = 1.0
    keep: float = 1.0


EVEN = LossWeights()


class Objective(NamedTuple):
    """Sums over the supervised positions of a batch; divide by `labels` of the whole step."""

    loss: Tensor  # scalar, with gradient
    labels: Tensor  # number of supervised positions
    hits: Tensor  # [3] right argmaxes among masked, wrong and right visible positions
    counts: Tensor  # [3] how many there are


@lru_cache(maxsize=16)
def doubled_layout(length: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Mask [1, 1, Q, Q] and positions [1, Q] of [x_t ; x_0 without its last block].

    Q = 2 * length - block_size: no query of the loss half sees the last clean block, so leaving
    it out changes nothing but the cost.
    """
    queries = 2 * length - block_size
    mask = doubled_block_mask(length, block_size)[..., :queries, :queries].contiguous()
    positions = torch.arange(length)
    return mask, torch.cat([positions, positions[: length - block_size]])[None]


def denoising_loss(
    trunk: Trunk,
    head: Callable[[Tensor], Tensor],
    noisy: Noisy,
    clean: Tensor,
    response: Tensor,
    *,
    block_size: int,
    weights: LossWeights = EVEN,
) -> Objective:
    """Cross entropy of the clean ids [B, L] at every position of `response`, bool [B, L].

    Same-position labels, no shift (inclusionAI/dFactory, `tasks/train_llada2_bd.py`). The head
    runs on supervised positions only; its logits are taken in fp32.
    """
    length = clean.shape[1]
    mask, positions = doubled_layout(length, block_size)
    ids = torch.cat([noisy.ids, clean[:, : length - block_size]], dim=1)
    hidden = trunk(ids, mask, positions)[:, :length]
    labels = clean[response]
    logits = head(hidden[response]).float()
    kind = torch.where(noisy.masked, 0, torch.where(noisy.replaced, 1, 2))[response]
    weight = torch.tensor(weights)[kind]
    loss = (F.cross_entropy(logits, labels, reduction="none") * weight).sum()
    hits = (logits.detach().argmax(-1) == labels).float()
    return Objective(
        loss,
        torch.tensor(labels.numel()),
        torch.zeros(3).index_add_(0, kind, hits),
        torch.bincount(kind, minlength=3).float(),
    )
