"""Inputs of the decision benchmark: blocks in the middle of decoding, and logits for them.

The peers' rules differ in corners (SGLang and diffusers may choose the mask token, sort ties in
their own order or take one prompt mask for the whole batch), so these inputs stay out of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LENGTH = 32
PROMPT = 5  # positions at the head of every block; diffusers has one prompt mask for the batch
THRESHOLD, EDITING_THRESHOLD, MAX_POST_STEPS = 0.7, 0.5, 16  # the quality preset
MARGIN = 0.01  # no confidence is nearer to a threshold
LLADA2_MASK = 156895

# Block b is in stage b modulo 4: the share of its positions that are still masks.
MASKED = (0.5, 0.9, 0.2, 0.0)
FORCED = 1  # the stage where no mask is above the threshold, so that the best one is forced


@dataclass(frozen=True)
class Case:
    """One cell of the grid: B blocks of 32 positions.

    logits    copies of one [B, L, V] tensor; reading them in turn leaves no cache warm
    ids       [B, L] int64, before the step
    editable  [B, L] bool
    rotation  the copies, in turn, without end
    """

    logits: tuple[Tensor, ...]
    ids: Tensor
    editable: Tensor
    mask_token_id: int
    rotation: Iterator[Tensor]

    @property
    def blocks(self) -> int:
        return self.ids.shape[0]

    @property
    def vocab(self) -> int:
        return self.logits[0].shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.logits[0].dtype

    @property
    def device(self) -> torch.device:
        return self.ids.device

    @property
    def bytes(self) -> int:
        """What one step has to read."""
        return self.logits[0].nbytes


def make_case(blocks: int, vocab: int, dtype: torch.dtype, device: torch.device) -> Case:
    """The same inputs on every device. Needs a vocabulary of at least 64."""
    generator = torch.Generator().manual_seed(blocks)
    mask = min(LLADA2_MASK, vocab - 1)
    ids, editable = _canvas(blocks, mask, generator)
    winners = _winners(ids, editable, mask, generator)
    confidence = torch.rand(ids.shape, generator=generator) * 0.97 + 0.02
    forced = (torch.arange(blocks) % len(MASKED) == FORCED)[:, None] & (ids == mask)
    confidence = torch.where(forced, confidence * 0.6, confidence)

    # Every block has the same 32 rows of noise, turned by another distance: fast to make.
    spread = torch.linspace(0.5, 2.0, LENGTH)[:, None]
    noise = (torch.randn(LENGTH, vocab, generator=generator) * spread).to(dtype).to(device)
    logits = torch.stack([noise.roll(block * (vocab // blocks), -1) for block in range(blocks)])
    winners, confidence = winners.to(device)[..., None], confidence.to(device)
    others = noise.double().exp().sum(-1) - logits.gather(-1, winners).squeeze(-1).double().exp()
    best = _logit(confidence, others, noise.amax(-1).double(), dtype)
    logits.scatter_(-1, winners, best[..., None])

    copies = (logits, *(logits.clone() for _ in range(1, _copies(logits))))
    return Case(copies, ids.to(device), editable.to(device), mask, itertools.cycle(copies))


def _canvas(blocks: int, mask: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids and what is editable: a head of prompt, then tokens and masks."""
    ids = torch.randint(mask, (blocks, LENGTH), generator=generator)
    for block in range(blocks):
        masks = round(MASKED[block % len(MASKED)] * (LENGTH - PROMPT))
        places = PROMPT + torch.randperm(LENGTH - PROMPT, generator=generator)[:masks]
        ids[block, places] = mask
    return ids, (torch.arange(LENGTH) >= PROMPT).expand(blocks, -1).contiguous()


def _winners(ids: Tensor, editable: Tensor, mask: int, generator: torch.Generator) -> Tensor:
    """The best token of every position: anything for a mask, mostly the same again for a token."""
    other = torch.randint(mask, ids.shape, generator=generator)
    agrees = torch.rand(ids.shape, generator=generator) < 0.8
    # Every second block without masks is content with itself, and so ends with this step.
    agrees[len(MASKED) - 1 :: 2 * len(MASKED)] = True
    return torch.where((ids != mask) & editable & agrees, ids, other)


def _logit(confidence: Tensor, others: Tensor, noise: Tensor, dtype: torch.dtype) -> Tensor:
    """The winner's logit for about that confidence, beside `others`, the exponentials of the rest.

    Above all noise, and away from the thresholds as stored in `dtype`.
    """
    odds = confidence.double() / (1.0 - confidence.double())
    best = torch.maximum((odds * others).log(), noise + 0.5)
    while True:
        reached = 1.0 / (1.0 + others * (-best.to(dtype).double()).exp())
        near = torch.zeros_like(reached, dtype=torch.bool)
        for threshold in (THRESHOLD, EDITING_THRESHOLD):
            near |= (reached - threshold).abs() < MARGIN
        if not near.any():
            return best.to(dtype)
        best = torch.where(near, best + 0.25, best)


def _copies(logits: Tensor) -> int:
    """Enough that none is left in a cache when its turn comes again."""
    total = 512 * 2**20
    if logits.is_cuda:
        total = 2 * torch.cuda.get_device_properties(logits.device).L2_cache_size
    return min(max(2, total // logits.nbytes + 1), 64)
