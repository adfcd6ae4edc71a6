"""What the references of the steps on a CPU share: all rows read, and what is decided written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.row_stats import RowStats
from fastedit.ops.row_stats.reference import row_stats
from fastedit.ops.sampling import RowDraws
from fastedit.ops.write_blocks.reference import write_blocks_


def block_stats(
    blocks: Blocks,
    logits: Tensor,
    forbid: tuple[int, ...],
    *,
    temperature: float | Tensor = 1.0,
    entropy: bool = False,
    draws: RowDraws | None = None,
) -> RowStats:
    """`ops.row_stats` of every position of `blocks`."""
    return row_stats(
        logits,
        blocks.ids,
        forbid=forbid,
        temperature=temperature,
        entropy=entropy,
        top_k=0,
        draws=draws,
        only=None,
    )


def holds_best(token: Tensor, prob: Tensor, ids: Tensor) -> Tensor:
    """Whether a row's best id is the one it holds, with a probability of 0: what statistics say of
    a bad row that has nothing to choose from."""
    return (token == ids) & ~(prob > 0.0)


def write_(
    blocks: Blocks,
    stats: RowStats,
    wanted: Tensor,
    finished: Tensor,
    buffers: Sequence[tuple[Tensor, Tensor]],
    limit: Tensor | None = None,
) -> None:
    """`ops.write_blocks_` of a step that judges tokens; at a limit masks become the best ids.

    A row that has nothing to choose from keeps what it holds.
    """
    none = stats.bad & holds_best(stats.token, stats.prob, blocks.ids)
    write_blocks_(
        blocks.ids,
        torch.where(none, blocks.ids, wanted),
        blocks.may,
        finished,
        stats.bad,
        blocks.flags,
        blocks.counts,
        blocks.mask_token_id,
        judges_tokens=True,
        buffers=buffers,
        limit=limit,
        fallback=None if limit is None else stats.token,
    )
