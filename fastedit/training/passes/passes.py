"""Passes of the model over noisy copies beside the clean half, which is computed once or each time.

A clean state never depends on noisy tokens, so the keys and values of the clean half are the same
in every pass of a step as long as the weights are: `SharedClean` computes them once, with their
graph, and draft and supervised passes run noisy tokens only. `DoubledClean` runs both halves each
time.

| a step with k drafts and k supervised passes of L tokens | rows forward | rows backward |
|---|---|---|
| doubled | 4kL | 2kL |
| shared | (1 + 2k)L | (1 + k)L |
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from fastedit.training.passes.layout import Blocks, Tokens, clean_mask, doubled_mask, noisy_mask
from fastedit.training.passes.sharing import keys_kept


class Passes(Protocol):
    def hidden(self, ids: Tensor, where: Tensor) -> Tensor:
        """Hidden states after the final norm at the True positions of `where` [B, L].

        `ids` [B, L] is a noisy copy. Returns [N, H], in the order of `ids[where]`. Only blocks
        that hold such a position are computed.
        """


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

    def __init__(self, trunk: nn.Module, clean_ids: Tensor, rows: Tokens, block_size: int) -> None:
        self.trunk, self.rows, self.block_size = trunk, rows, block_size
        length = _clean_length(clean_ids, block_size)
        self.clean, self.keys = rows.first(length), CleanKeys()
        _run(trunk, clean_ids[:, :length], clean_mask(self.clean), self.clean.position, self.keys)

    def hidden(self, ids: Tensor, where: Tensor) -> Tensor:
        blocks = Blocks.holding(where, self.block_size)
        noisy = blocks.tokens(self.rows)
        mask = noisy_mask(noisy, self.clean)
        beside = BesideClean(self.keys)
        states = _run(self.trunk, blocks.take(ids), mask, noisy.position, beside)
        return states[blocks.take(where) & blocks.valid]


class DoubledClean:
    """Every pass runs the clean half too; valid whatever differs between the passes."""

    def __init__(self, trunk: nn.Module, clean_ids: Tensor, rows: Tokens, block_size: int) -> None:
        self.trunk, self.rows, self.block_size = trunk, rows, block_size
        length = _clean_length(clean_ids, block_size)
        self.clean, self.clean_ids = rows.first(length), clean_ids[:, :length]

    def hidden(self, ids: Tensor, where: Tensor) -> Tensor:
        blocks = Blocks.holding(where, self.block_size)
        noisy = blocks.tokens(self.rows)
        both = torch.cat([self.clean_ids, blocks.take(ids)], dim=1)
        positions = torch.cat([self.clean.position, noisy.position], dim=1)
        states = _run(self.trunk, both, doubled_mask(self.clean, noisy), positions, None)
        return states[:, self.clean_ids.shape[1] :][blocks.take(where) & blocks.valid]


def _clean_length(clean_ids: Tensor, block_size: int) -> int:
    """No noisy query sees the last clean block; a row of one block keeps it, as an empty pass is
    no pass."""
    return max(block_size, clean_ids.shape[1] - block_size)


def _run(
    trunk: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None
) -> Tensor:
    with keys_kept(trunk):
        return trunk(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=False,
        ).last_hidden_state
