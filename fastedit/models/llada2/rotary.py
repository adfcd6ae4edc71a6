"""Rotary positions: what a config says of them, their tables, and the rotation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# RoPE types and the parameters that each has beside these; computed by transformers' functions.
ROPE_FIELDS = ("rope_theta", "partial_rotary_factor")  # fields of the configuration, too
_COMMON = frozenset(("rope_type", *ROPE_FIELDS))
_YARN = """
    factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale
    mscale_all_dim truncate
"""
_LLAMA3 = "factor original_max_position_embeddings low_freq_factor high_freq_factor"
SCALED = {
    "linear": frozenset(("factor",)),
    "dynamic": frozenset(("factor",)),
    "yarn": frozenset(_YARN.split()),
    "llama3": frozenset(_LLAMA3.split()),
}
_REQUIRED = {"yarn": {"factor"}, "llama3": SCALED["llama3"]}


def rope_parameters(
    theta: float | None, partial: float | None, *dictionaries: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One dictionary of `rope_type`, `rope_theta`, `partial_rotary_factor` and what the type takes.

    theta, partial: the config's keys beside the dictionaries, None where they are not given.
    dictionaries: `rope_scaling` and `rope_parameters`; the type is spelled `type` or `rope_type`.
    Raises ValueError where two say different things, and for what is not implemented.
    """
    found: dict[str, Any] = {}
    given = (
        {"rope_theta": theta, "partial_rotary_factor": partial},
        *(d or {} for d in dictionaries),
    )
    for dictionary in given:
        if not isinstance(dictionary, Mapping):
            raise ValueError(f"rope_scaling and rope_parameters are objects; got {dictionary!r}")
        for spelled, value in dictionary.items():
            name = "rope_type" if spelled == "type" else spelled
            if value is None:
                continue
            if name in found and found[name] != value:
                raise ValueError(
                    f"{spelled}={value!r} of the RoPE parameters contradicts {found[name]!r}, said "
                    "elsewhere in the config (rope_scaling, rope_parameters, or beside them)"
                )
            found[name] = value
    found = {"rope_theta": 600000.0, "partial_rotary_factor": 0.5, "rope_type": "default"} | found
    _check(found)
    return found


def _check(found: dict[str, Any]) -> None:
    kind = found["rope_type"]
    if not isinstance(kind, str) or (kind != "default" and kind not in SCALED):
        raise ValueError(
            f"rope_type={kind!r} (in rope_scaling or rope_parameters) is not supported: "
            f"LLaDA2.x checkpoints have none; known: default, {', '.join(SCALED)}"
        )
    allowed = SCALED.get(kind, frozenset())
    for name, value in found.items():
        if name in _COMMON or name in allowed:
            continue
        if name != "factor" or value != 1:  # a factor of 1 scales nothing
            raise ValueError(
                f"{name}={value!r} (in rope_scaling or rope_parameters) is not supported with "
                f"rope_type={kind!r}"
            )
    missing = sorted(set(_REQUIRED.get(kind, {"factor"} & allowed)) - found.keys())
    if missing:
        raise ValueError(
            f"rope_type={kind!r} needs {', '.join(missing)} in rope_scaling or rope_parameters"
        )
    for name in ("rope_theta", "partial_rotary_factor", *sorted(allowed & found.keys())):
        value = found[name]
        number = isinstance(value, (int, float)) and not (
            isinstance(value, bool) and name != "truncate"
        )
        least = 1 if name in ("factor", "original_max_position_embeddings") else 0
        if not number or not least <= value < float("inf") or (name == "rope_theta" and not value):
            raise ValueError(
                f"{name} of the RoPE must be a number of at least {least}; got {value!r}"
            )
    if kind == "llama3" and not 0 < found["low_freq_factor"] < found["high_freq_factor"]:
        raise ValueError(
            f"low_freq_factor={found['low_freq_factor']!r} must be positive and below "
            f"high_freq_factor={found['high_freq_factor']!r}"
        )


def rotary_tables(config: Any, positions: Tensor, dtype: torch.dtype, length: int) -> tuple:
    """cos and sin [B, 1, Q, rotary_dim / 2] of `positions` [B, Q], in fp32 and then cast.

    length: of the sequence, cached tokens included; only `dynamic` scaling looks at it.
    """
    if config.rope_type == "default":
        facts = config.rotary_dim, config.rope_theta, positions.device
        frequencies, scale = _kept(_plain, positions)(*facts), 1.0
    else:
        frequencies, scale = _scaled(config, positions, length)
    angles = positions[:, None, :, None] * frequencies
    if scale == 1.0:
        return angles.cos().to(dtype), angles.sin().to(dtype)
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def _scaled(config: Any, positions: Tensor, length: int) -> tuple[Tensor, float]:
    """Inverse frequencies [rotary_dim / 2] in fp32, and the factor of cos and sin."""
    reach = config.max_position_embeddings
    facts = (tuple(sorted(config.rope.items())), config.head_dim, reach, positions.device)
    seen = max(length, reach) if config.rope_type == "dynamic" else reach
    return _kept(_frequencies, positions)(*facts, seen)


def _kept(cached: Any, positions: Tensor) -> Callable[..., Any]:
    """`cached`, or what it wraps: what a trace or a fake forward makes is of no use to others."""
    traced = torch.compiler.is_compiling() or type(positions) is not Tensor
    return cached.__wrapped__ if traced else cached


@functools.cache
def _plain(rotary_dim: int, theta: float, device: torch.device) -> Tensor:
    """Inverse frequencies [rotary_dim / 2] in fp32."""
    with torch.inference_mode(False):
        half = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device)
        return 1.0 / theta ** (half / rotary_dim)


@functools.lru_cache(maxsize=16)  # making them copies from the host to the device
def _frequencies(
    rope: tuple[tuple[str, Any], ...],
    head_dim: int,
    max_positions: int,
    device: torch.device,
    length: int,
) -> tuple[Tensor, float]:
    config: Any = PreTrainedConfig()
    config.head_dim = config.hidden_size = head_dim
    config.num_attention_heads = 1
    config.max_position_embeddings = max_positions
    config.rope_parameters = {"original_max_position_embeddings": max_positions, **dict(rope)}
    with torch.inference_mode(False):
        return ROPE_INIT_FUNCTIONS[dict(rope)["rope_type"]](config, device, seq_len=length)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotary on the leading dimensions of `x` [B, heads, Q, head_dim]."""
    half = cos.shape[-1]
    a, b, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)
