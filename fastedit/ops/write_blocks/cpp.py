"""Writing into blocks in C++, for tensors on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from struct import Struct

from torch import Tensor

from fastedit.ops.library import check, load


@cache
def _arguments(buffers: int) -> Struct:
    """fe_write_blocks_args, with so many buffers behind it."""
    return Struct("2q6PqP3q2Pq" + "2Pq" * buffers)


def write_blocks_(
    ids: Tensor,
    wanted: Tensor,
    may: Tensor,
    finished: Tensor,
    bad: Tensor,
    flags: Tensor,
    counts: Tensor,
    mask_token_id: int,
    judges_tokens: bool,
    buffers: Sequence[tuple[Tensor, Tensor]],
    limit: Tensor | None,
    fallback: Tensor | None,
) -> None:
    """Contract: `fastedit.ops.write_blocks_`."""
    written = [(ids, ids.contiguous())]
    written += [(p, p if p.stride(1) == 1 else p.contiguous()) for p in (flags, counts)]
    held = [tensor.contiguous() for tensor in (wanted, may, bad, finished)]
    pairs: list[int] = []
    for old, now in buffers:
        dense, now = old.contiguous(), now.contiguous()
        written.append((old, dense))
        held.append(now)
        size = dense.element_size() * math.prod(dense.shape[1:])
        pairs += dense.data_ptr(), now.data_ptr(), size
    bound = (0, 0)
    if limit is not None and fallback is not None:
        limit, fallback = limit.contiguous(), fallback.contiguous()
        bound = limit.data_ptr(), fallback.data_ptr()
    (_, dense), (_, flags_), (_, counts_) = written[:3]
    arguments = _arguments(len(buffers)).pack(
        *ids.shape,
        dense.data_ptr(),
        *[tensor.data_ptr() for tensor in held[:4]],
        flags_.data_ptr(),
        flags_.stride(0),
        counts_.data_ptr(),
        counts_.stride(0),
        mask_token_id,
        judges_tokens,
        *bound,
        len(buffers),
        *pairs,
    )
    check(load().fe_write_blocks(arguments))
    for tensor, dense in written:
        if dense is not tensor:
            tensor.copy_(dense)
