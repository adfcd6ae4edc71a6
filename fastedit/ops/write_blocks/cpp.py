"""Writing into blocks in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

from torch import Tensor

from fastedit.ops.library import check, load

_ARGUMENTS = Struct("2q6PqP3q")  # fe_write_blocks_args


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
) -> None:
    """Contract: `fastedit.ops.write_blocks_`."""
    dense = ids.contiguous()
    held = [tensor.contiguous() for tensor in (wanted, may, bad, finished)]
    planes = [p if p.stride(1) == 1 else p.contiguous() for p in (flags, counts)]
    arguments = _ARGUMENTS.pack(
        *ids.shape,
        dense.data_ptr(),
        *[tensor.data_ptr() for tensor in held],
        planes[0].data_ptr(),
        planes[0].stride(0),
        planes[1].data_ptr(),
        planes[1].stride(0),
        mask_token_id,
        judges_tokens,
    )
    check(load().fe_write_blocks(arguments))
    for tensor, written in ((ids, dense), (flags, planes[0]), (counts, planes[1])):
        if written is not tensor:
            tensor.copy_(written)
