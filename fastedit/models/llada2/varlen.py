"""Attention of blocks over the first keys of their rows: no mask, and nothing behind is read.

Flash attention takes the lengths of sequences from the device, so one launch, and one CUDA graph,
serves rows of any lengths. It comes from torch, on ROCm from the package flash-attn, and in bf16 or
fp16. Elsewhere a mask does the same.

torch 2.11 takes bounds between sequences alone, and no number of keys. There every row is two
sequences: its queries over the keys that they see, and one without queries up to where the next
row's keys begin. Where these begin earlier its length is below zero, which nothing looks at: the
kernel leaves a sequence without queries before it reads its keys.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.nn.functional import pad

from fastedit import extras

DEVICES = ("cuda",)
DTYPES = (torch.bfloat16, torch.float16)


class Lengths(NamedTuple):
    """What the queries of B rows see, in place of a mask."""

    keys: Tensor  # [B] int32: the first `keys[b]` keys of row b, for all of its queries
    starts: Tensor  # [B] int32, position of the first one
    most: int  # keys that a row sees, at most
    query_bounds: Tensor  # [S + 1] int32, for torch: between its S = B or 2 B sequences
    key_bounds: Tensor  # [S + 1] int32, for torch; with S = B the last number is not read


def lengths(keys: Tensor, starts: Tensor, most: int, queries: int) -> Lengths:
    """For rows of `queries` queries that see `keys` [B], at most `most`, positions from `starts`
    [B] on, both int32."""
    ends = torch.arange(len(keys) + 1, dtype=torch.int32, device=keys.device) * queries
    if _takes_lengths():
        return Lengths(keys, starts, most, ends, pad(starts, (0, 1)))
    stops = starts + keys
    bounds = torch.cat((torch.stack((starts, stops), 1).flatten(), stops[-1:]))
    return Lengths(keys, starts, most, ends[:, None].expand(-1, 2).flatten()[1:], bounds)


def serves(hidden: Tensor, implementation: str | None) -> bool:
    """Whether `attention` can stand in for SDPA on activations like `hidden`."""
    fits = hidden.device.type in DEVICES and hidden.dtype in DTYPES
    return fits and implementation == "sdpa" and _kernel() is not None and _runs(hidden.device)


def report(device: torch.device) -> dict[str, str]:
    """For attention of decoding on `device`: per implementation "in use", or why it is not."""
    on_gpu, rocm = device.type in DEVICES, torch.version.hip is not None
    if not on_gpu:
        by_torch = by_package = f"takes key lengths on CUDA and ROCm devices, not on {device.type}"
    elif rocm:
        by_torch = "serves CUDA devices; its kernels for ROCm have not been tried"
        by_package = "in use" if _kernel() else f"not installed: {extras.install('flash')}"
    elif not _runs(device):
        by_torch = by_package = "needs a GPU of compute capability 8.0 or more"
    else:
        by_torch, by_package = "in use", "torch's own serves CUDA devices"
    used = "in use" in (by_torch, by_package)
    return {
        "torch varlen_attn": f"{by_torch}, in bf16 and fp16" if by_torch == "in use" else by_torch,
        "flash-attn": f"{by_package}, in bf16 and fp16" if by_package == "in use" else by_package,
        "SDPA with a mask": "in use for fp32" if used else "in use",
    }


def attention(query: Tensor, key: Tensor, value: Tensor, seen: Lengths, scale: float) -> Tensor:
    """`query` [B, H, Q, D] over positions `key`, `value` [1, H, P, D] -> output [B, Q, H, D]."""
    kernel = _kernel()
    assert kernel is not None
    return kernel(*(x.transpose(1, 2) for x in (query, key, value)), seen, scale)


def _runs(device: torch.device) -> bool:
    """Flash attention wants an Ampere GPU or a newer one, of NVIDIA's."""
    nvidia = device.type == "cuda" and torch.version.hip is None
    return not nvidia or torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _kernel() -> Callable[..., Tensor] | None:
    if torch.version.hip is not None:  # torch's has other kernels there, which nobody has tried
        return _flash_attn if importlib.util.find_spec("flash_attn") else None
    return _torch


@functools.cache
def _takes_lengths() -> bool:
    """Whether torch's kernel is told how many keys of a sequence are seen: from torch 2.12 on."""
    return "seqused_k" in inspect.signature(varlen.varlen_attn).parameters


def _torch(query: Tensor, key: Tensor, value: Tensor, seen: Lengths, scale: float) -> Tensor:
    rows = query.flatten(0, 1), key[0], value[0]
    bounds = seen.query_bounds, seen.key_bounds
    used: dict[str, Any] = {"seqused_k": seen.keys} if _takes_lengths() else {}
    output: Any = varlen.varlen_attn(*rows, *bounds, query.shape[1], seen.most, scale=scale, **used)
    return output.view(query.shape)


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, seen: Lengths, scale: float) -> Tensor:
    from flash_attn import flash_attn_with_kvcache

    # It takes one length for all rows, so they are copied together.
    columns = torch.arange(seen.most, device=query.device)
    where = (seen.starts[:, None] + columns).clamp(max=key.shape[1] - 1)
    return flash_attn_with_kvcache(
        query, key[0][where], value[0][where], cache_seqlens=seen.keys, softmax_scale=scale
    )
