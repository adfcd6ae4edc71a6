"""DiffusionGemma's decision step in C++."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.library import BLOCKS, LOGITS, BlockFields, check, load, logits_fields
from fastedit.ops.sampling import DECODE, NOISE, Sampling

_ARGUMENTS = Struct(f"{LOGITS}{BLOCKS}10P2q2P")  # fe_entropy_bound_args


def entropy_bound_step_(
    blocks: Blocks,
    logits: Tensor,
    best: Tensor,
    stable: Tensor,
    *,
    settings: tuple[Tensor, ...],
    sampling: Sampling,
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.entropy_bound_step_`."""
    keys = (sampling.seed, sampling.start, sampling.top_k, sampling.top_p)
    read = [tensor.contiguous() for tensor in (*settings, *keys)]
    held = BlockFields(blocks, best, stable)
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, forbid),
        *held.fields,
        *map(Tensor.data_ptr, read),
        DECODE,
        NOISE,
        *held.others,
    )
    check(load().fe_entropy_bound_step(arguments, torch.get_num_threads()))
    held.back()
