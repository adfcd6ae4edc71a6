"""Passes of the model over noisy copies, beside the clean half where the model reads blocks.

With block-causal attention a clean state never depends on noisy tokens, so the keys and values of
the clean half are the same in every pass of a step as long as the weights are: `SharedClean`
computes them once, with their graph, and draft and supervised passes run noisy tokens only.
`DoubledClean` runs both halves each time.

| a step with k drafts and k supervised passes of L tokens | rows forward | rows backward |
|---|---|---|
| doubled | 4kL | 2kL |
| shared | (1 + 2k)L | (1 + k)L |
| whole | 2kL | kL |

With full attention nothing is clean but the prompt, which stands in the row: `Whole` runs the noisy
copy alone.

Where the model predicts the next token (`Reading.shift`), a position's state is the one before it:
the hidden rows are moved, so nothing else of a step knows. The first position of a document has no
row before it and keeps its own, as in Dream (arXiv 2508.15487). The first of a later block has the
last row of the clean block before it, which is where decoding reads it, as in Fast-dLLM v2
(arXiv 2509.26328).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from fastedit.models.masks import open_empty_rows
from fastedit.plans.call import cache_argument
from fastedit.training.passes.layout import (
    Blocks,
    Tokens,
    clean_mask,
    doubled_mask,
    noisy_mask,
    whole_mask,
)
from fastedit.training.passes.sharing import keys_kept
from fastedit.training.reading import Reading


class Passes(Protocol):
    def hidden(self, ids: Tensor, where: Tensor) -> Tensor:
        """Hidden states after the final norm that predict the True positions of `where` [B, L].

        `ids` [B, L] is a noisy copy. Returns [N, H], in the order of `ids[where]`. Only blocks, or
        rows, that hold such a position are computed.
        """


class Inside(NamedTuple):
    """Hidden states of canvases that are read each by itself: blocks, or with full attention rows.

    states    [n, m, H]
    place     [n, m] int64         index into the flattened [B, L] of a batch
    position  [n, m] int64         within the document
    mask      bool [n, 1, m, m]    who sees whom; None: all do
    """

    states: Tensor
    place: Tensor
    position: Tensor
    mask: Tensor | None


def passes_over(
    trunk: nn.Module, clean_ids: Tensor, rows: Tokens, reading: Reading, *, shared: bool
) -> Passes:
    """The passes of a step over `clean_ids` [B, L]; shared: compute the clean half once."""
    if reading.full or shared:
        return frozen_passes(trunk, clean_ids, rows, reading)
    return DoubledClean(trunk, clean_ids, rows, reading)


def frozen_passes(
    trunk: nn.Module, clean_ids: Tensor, rows: Tokens, reading: Reading
) -> SharedClean | Whole:
    """The same of a trunk that no pass differs in; these also tell what is read `inside` it."""
    if reading.full:
        return Whole(trunk, rows, reading)
    return SharedClean(trunk, clean_ids, rows, reading)


class CleanKeys(Cache):
    """Keys and values of the clean half as its pass leaves them, with their graph."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.states: list[tuple[Tensor, Tensor]] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any):
        if layer_idx == len(self.states):  # gradient checkpointing comes here a second time
            self.states.append((key_states, value_states))
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class BesideClean(Cache):
    """Shows a noisy pass the clean keys and values in front of its own, and keeps nothing."""

    def __init__(self, clean: CleanKeys) -> None:
        super().__init__(layers=[])
        self.clean = clean

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any):
        keys, values = self.clean.states[layer_idx]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.clean.states[0][0].shape[2]


class SharedClean:
    """The clean half is computed here, once; see the module. Gradients as in `DoubledClean`."""

    def __init__(self, trunk: nn.Module, clean_ids: Tensor, rows: Tokens, reading: Reading) -> None:
        self.trunk, self.rows, self.reading = trunk, rows, reading
        length = _clean_length(clean_ids, reading.block_size)
        self.clean, self.keys = rows.first(length), CleanKeys()
        self.states = _run(
            trunk, clean_ids[:, :length], clean_mask(self.clean), self.clean.position, self.keys
        )

    def hidden(self, ids: Tensor, where: Tensor) -> Tensor:
        blocks = Blocks.holding(where, self.reading.block_size)
        noisy = blocks.tokens(self.rows)
        mask = noisy_mask(noisy, self.clean)
        beside = BesideClean(self.keys)
        states = _run(self.trunk, blocks.take(ids), mask, noisy.position, beside)
        return _predicting(states, self.states, blocks, noisy.position, where, self.reading)

    def inside(self, ids: Tensor, where: Tensor, block: int) -> Inside:
        """What the trunk's block number `block` reads of the blocks that hold a True of `where`.

        Each at its own place, and by itself: so a head judges the tokens of a canvas in decoding.
        """
        blocks = Blocks.holding(where, self.reading.block_size)
        noisy = blocks.tokens(self.rows)
        mask = noisy_mask(noisy, self.clean)
        with _read_by(self.trunk, block) as read:
            _run(self.trunk, blocks.take(ids), mask, noisy.position, BesideClean(self.keys))
        return _of_blocks(read[0], blocks, noisy.position, where.shape[1], self.reading.block_size)


class DoubledClean:
    """Every pass runs the clean half too; valid whatever differs between the passes."""

    def __init__(self, trunk: nn.Module, clean_ids: Tensor, rows: Tokens, reading: Reading) -> None:
        self.trunk, self.rows, self.reading = trunk, rows, reading
        length = _clean_length(clean_ids, reading.block_size)
        self.clean, self.clean_ids = rows.first(length), clean_ids[:, :length]

    def hidden(self, ids: Tensor, where: Tensor) -> Tensor:
        blocks = Blocks.holding(where, self.reading.block_size)
        noisy = blocks.tokens(self.rows)
        both = torch.cat([self.clean_ids, blocks.take(ids)], dim=1)
        positions = torch.cat([self.clean.position, noisy.position], dim=1)
        states = _run(self.trunk, both, doubled_mask(self.clean, noisy), positions, None)
        length = self.clean_ids.shape[1]
        clean, own = states[:, :length], states[:, length:]
        return _predicting(own, clean, blocks, noisy.position, where, self.reading)


class Whole:
    """Full attention: the noisy copy alone, of which a document sees all of itself."""

    def __init__(self, trunk: nn.Module, rows: Tokens, reading: Reading) -> None:
        self.trunk, self.rows, self.reading = trunk, rows, reading

    def hidden(self, ids: Tensor, where: Tensor) -> Tensor:
        needed = where.any(1)
        needed[0] |= ~needed.any()  # no pass is empty
        rows, wanted = self.rows.of(needed), where[needed]
        states = _run(self.trunk, ids[needed], whole_mask(rows), rows.position, None)
        row, place = wanted.nonzero(as_tuple=True)
        return states[row, place - self.reading.shift * (rows.position[wanted] > 0)]

    def inside(self, ids: Tensor, where: Tensor, block: int) -> Inside:
        """The same of the rows that hold one; see `SharedClean.inside`."""
        needed = where.any(1)
        needed[0] |= ~needed.any()
        rows = self.rows.of(needed)
        mask = whole_mask(rows)
        with _read_by(self.trunk, block) as read:
            _run(self.trunk, ids[needed], mask, rows.position, None)
        place = torch.arange(where.numel(), device=where.device).view_as(where)
        return Inside(read[0], place[needed], rows.position, open_empty_rows(mask))


def _predicting(
    states: Tensor,
    clean: Tensor,
    blocks: Blocks,
    position: Tensor,
    where: Tensor,
    reading: Reading,
) -> Tensor:
    """The rows [N, H] that predict `where` [B, L].

    Of the noisy states [B, n, H] of `blocks`, which stand at `position` [B, n], and of the clean
    ones [B, m, H].
    """
    wanted = blocks.take(where) & blocks.valid
    if not reading.shift:
        return states[wanted]
    row, place = wanted.nonzero(as_tuple=True)
    behind = position[wanted] > 0  # the position before it is of its document
    opens = behind & (place % reading.block_size == 0)
    own = states[row, place - (behind & ~opens).long()]
    before = (blocks.index[wanted] - 1).clamp(min=0, max=clean.shape[1] - 1)
    return torch.where(opens[:, None], clean[row, before], own)


def _of_blocks(
    states: Tensor, blocks: Blocks, position: Tensor, length: int, block_size: int
) -> Inside:
    """The valid blocks of noisy states [B, n, H], which stand at `position` [B, n] of their
    documents."""
    row = torch.arange(len(states), device=states.device)[:, None]
    valid = blocks.valid.unflatten(1, (-1, block_size))[..., 0]
    states, place, position = (
        values.unflatten(1, (-1, block_size))[valid]
        for values in (states, row * length + blocks.index, position)
    )
    return Inside(states, place, position, None)


@contextmanager
def _read_by(trunk: Any, block: int) -> Iterator[list[Tensor]]:
    """What the trunk's block number `block` is given, in the list, once the trunk has run."""
    read: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        read.append(arguments[0] if arguments else named["hidden_states"])

    hook = trunk.layers[block].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield read
    finally:
        hook.remove()


def _clean_length(clean_ids: Tensor, block_size: int) -> int:
    """No noisy query sees the last clean block; a row of one block keeps it, as an empty pass is
    no pass."""
    return max(block_size, clean_ids.shape[1] - block_size)


def _run(
    trunk: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None
) -> Tensor:
    named: dict[str, Any] = {cache_argument(trunk): cache}
    with keys_kept(trunk):
        return trunk(
            input_ids=ids,
            attention_mask=_as_taken(trunk, mask),
            position_ids=positions,
            use_cache=False,
            **named,
        ).last_hidden_state


def _as_taken(trunk: Any, mask: Tensor) -> Any:
    """The bool `mask` as `trunk` takes it: of transformers' trunks, as their attention does.

    Raises ValueError for an attention that takes neither bool masks nor additive ones.
    """
    if getattr(trunk, "masks_are_bool", False):
        return mask
    mask = open_empty_rows(mask)
    implementation = trunk.config._attn_implementation
    if implementation == "eager":  # adds it to the scores
        zero = torch.zeros((), dtype=trunk.dtype, device=mask.device)
        return zero.masked_fill(~mask, torch.finfo(trunk.dtype).min)
    if implementation != "sdpa":
        raise ValueError(
            f"attn_implementation={implementation!r} cannot be trained with: load the model with "
            "'sdpa' or 'eager'"
        )
    return mask
