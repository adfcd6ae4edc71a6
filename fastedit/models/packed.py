"""Attention of texts that stand end to end in one row: each sees all of itself, and no other.

No mask is made, and nothing is padded. On a CPU, SDPA is called once for each run of texts of one
length; on NVIDIA's GPUs, in bf16 and fp16, flash attention once for all. It is registered beside
transformers' own functions, under a name that a config gives for as long as texts are packed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import varlen
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "sdpa_of_packed_texts"
_DTYPES = (torch.bfloat16, torch.float16)  # of flash attention


class _Texts:
    """Texts of a row, by their lengths."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self._starts: dict[torch.device, Tensor] = {}

    def starts(self, device: torch.device) -> Tensor:
        """Where each begins, and where the last one ends, int32 [n + 1]."""
        if device not in self._starts:
            starts = [0, *itertools.accumulate(self.lengths)]
            self._starts[device] = torch.tensor(starts, dtype=torch.int32, device=device)
        return self._starts[device]


_packed: ContextVar[_Texts | None] = ContextVar("packed", default=None)


def serves(device: torch.device, dtype: torch.dtype, implementation: str | None) -> bool:
    """Whether texts may be packed for a model that attends by `implementation`."""
    if implementation != "sdpa" or device.type == "cpu":
        return implementation == "sdpa"
    nvidia = device.type == "cuda" and torch.version.hip is None
    return nvidia and dtype in _DTYPES and torch.cuda.get_device_capability(device) >= (8, 0)


@contextlib.contextmanager
def packing(lengths: Sequence[int]) -> Iterator[None]:
    """Rows of the forwards in here are texts of these lengths, in this thread alone."""
    token = _packed.set(_Texts(lengths))
    try:
        yield
    finally:
        _packed.reset(token)


def implementation(config: Any) -> str | None:
    """What a config says of its attention: that of texts, where they are packed."""
    own = config._attn_implementation_internal
    return _NAME if own == "sdpa" and _packed.get() is not None else own


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """`query` [1, H, N, D] over `key`, `value` [1, G, N, D] -> output [1, N, H, D]."""
    texts = _packed.get()
    assert texts is not None
    attend = _by_flash if query.is_cuda else _by_sdpa
    return attend(module, query, key, value, texts, **options)[None], None


def _by_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, texts: _Texts, **options: Any
) -> Tensor:
    parts, end = [], 0
    for length, run in itertools.groupby(texts.lengths):
        count = len(list(run))
        begin, end = end, end + count * length
        q, k, v = (
            x[0, :, begin:end].unflatten(1, (count, length)).transpose(0, 1)
            for x in (query, key, value)
        )
        alone = options | {"is_causal": False}
        parts.append(sdpa_attention_forward(module, q, k, v, None, **alone)[0].flatten(0, 1))
    return torch.cat(parts)


def _by_flash(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    texts: _Texts,
    scaling: float | None = None,
    **_: Any,
) -> Tensor:
    q, k, v = (_like(x, query)[0].transpose(0, 1) for x in (query, key, value))
    starts, longest = texts.starts(query.device), max(texts.lengths)
    output: Any = varlen.varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling)
    return output


def _like(x: Tensor, query: Tensor) -> Tensor:
    """Heads of `x` [1, G, N, D] repeated, so that there are as many as of `query`."""
    groups = query.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


AttentionInterface.register(_NAME, _attention)
