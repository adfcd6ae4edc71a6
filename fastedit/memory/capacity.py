"""How many requests may decode at once: from the memory that is there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from fastedit.config import DecodeConfig
from fastedit.models.families import Family

# Where no memory is looked at: on a CPU, and for a model whose config does not give its sizes.
ROWS = 32
# With memory for more, beside a GPU: a forward of 128 blocks of 32 is 4096 tokens wide.
MOST = 128
# Whatever `max_batch` says: slots are made for as many, and no forward is wider.
WIDEST = 4096
# Of the free memory; the rest is for graphs and what the allocator cannot use.
SHARE = 0.8
# Positions per prefill forward, in whole blocks.
PREFILL_CHUNK = 2048
# Activations alive at a time, in units of what one layer makes of a position. With this a position
# of LLaDA2.1-mini's shape counts 300 KiB in bfloat16; a prefill of 2,000 took about 230 KiB each.
ACTIVATIONS = 2
# Logits alive at a time, in units of a step's in fp32: these and what they are made from in half
# precision, and both once more in the memory of the graphs.
LOGITS = 3
# torch has a class for its GPU allocator only; what else allocates says so in words: the CPU's, the
# CUDA driver (for graphs, for kernels it loads), cuBLAS, Triton.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory"
    r"|(CUDA|CUDA driver|HIP|Triton) [Ee]rror.*: out of memory|(CU|HIP)BLAS_STATUS_ALLOC_FAILED"
)


@dataclass(frozen=True)
class Capacity:
    """How many requests decode together, `most` of them whatever their length.

    memory       bytes for all of them
    per_request  bytes that each needs
    per_position bytes for each position of each of them
    """

    most: int
    memory: float = math.inf
    per_request: int = 0
    per_position: int = 0

    @property
    def counted(self) -> bool:
        """Whether memory is a limit, and not only `most`."""
        return self.memory < math.inf

    def positions(self, requests: int) -> float:
        """Positions that there is memory for, beside what so many requests need."""
        if not self.per_position:
            return math.inf
        return (self.memory - requests * self.per_request) // self.per_position

    def holds(self, requests: int, positions: int) -> bool:
        """Whether so many requests fit, with so many positions in all."""
        needed = requests * self.per_request + positions * self.per_position
        return requests <= self.most and needed <= self.memory


class Room(NamedTuple):
    """What a call asks for.

    max_batch  how many requests together
    rows       most of a forward per request, of those whose keys and values are kept; 0: none are
    whole      whether there are requests whose forwards cover all of their positions
    both       whether keys and values of these are kept, too
    heads      how many give logits
    """

    max_batch: int | Literal["auto"]
    rows: int
    whole: bool
    both: bool = False
    heads: int = 1

    @classmethod
    def of(
        cls, max_batch: int | Literal["auto"], configs: Iterable[DecodeConfig], family: Family
    ) -> Room:
        """For the widest of requests with these configs.

        Raises ValueError for a `max_batch` that is not "auto" or an integer from 1.
        """
        number = isinstance(max_batch, int) and not isinstance(max_batch, bool)
        if max_batch != "auto" and not (number and max_batch >= 1):
            raise ValueError(f'max_batch must be "auto" or an integer from 1; got {max_batch!r}')
        rows, whole, both, heads = 0, False, False, 1
        for config in {id(config): config for config in configs}.values():
            rule = config.rule(family.policy)
            heads = max(heads, 2 if "next_token" in rule.needs else 1)
            if config.use_cache and family.exact_cache:
                wide = max(rule.window, 2 if config.lookahead or rule.plan == "shadow" else 1)
                rows = max(rows, wide * config.block_length)
            else:
                whole, both = True, both or config.approximate
        return cls(max_batch, rows, whole, both, heads)


def capacity(room: Room, model: Any, device: torch.device) -> Capacity:
    """As many as `max_batch` says; with "auto", beside a GPU, what its free memory holds."""
    if room.max_batch != "auto":
        return Capacity(min(room.max_batch, WIDEST))
    sizes = _sizes(model, room) if device.type == "cuda" else None
    if sizes is None:
        return Capacity(ROWS)
    memory = SHARE * free_memory(device) - PREFILL_CHUNK * _activations(model)
    return Capacity(MOST, max(memory, 0.0), *sizes)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether this was raised as a GPU or the CPU had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that are free, or held by torch's allocator and not in use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _sizes(model: Any, room: Room) -> tuple[int, int] | None:
    """(bytes per request, bytes per position) of a call as `Room` has it; None where the model's
    config lacks a size."""
    sizes = getattr(model, "config", None)
    layers, heads, hidden, vocab = (
        getattr(sizes, name, None)
        for name in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
    )
    if not (layers and heads and hidden and vocab):
        return None
    logits, activations = LOGITS * room.heads * 4 * vocab, _activations(model)
    kept = getattr(sizes, "num_key_value_heads", None) or heads
    dim = getattr(sizes, "head_dim", None) or hidden // heads
    # Keys and values of all layers, and those of one layer repeated for every query head.
    position = 2 * (layers * kept + heads) * dim * _element_size(model)
    of_a_row = logits + activations
    return room.rows * of_a_row, max(
        position if room.rows else 0,
        of_a_row if room.whole else 0,
        position + of_a_row if room.both else 0,
    )


def _activations(model: Any) -> int:
    """Bytes that a position takes in a forward, beside its logits, keys and values."""
    sizes = model.config
    hidden, chosen = sizes.hidden_size, getattr(sizes, "num_experts_per_tok", None) or 0
    inner = getattr(sizes, "intermediate_size", None) or 4 * hidden
    routed = chosen * (2 * hidden + 3 * (getattr(sizes, "moe_intermediate_size", None) or 0))
    return ACTIVATIONS * (8 * hidden + 3 * inner + routed) * _element_size(model)


def _element_size(model: Any) -> int:
    first = next(model.parameters(), None) if hasattr(model, "parameters") else None
    return 4 if first is None else first.element_size()
