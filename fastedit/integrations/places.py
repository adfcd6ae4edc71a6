"""Blocks of requests that come and go, as one `policies.State` for each decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastedit.policies import State


@dataclass
class Place:
    """Where a request's block is: row `row` of `state`."""

    state: State
    row: int


def together(places: Sequence[Place]) -> State:
    """One state that has these blocks in this order; places are moved there.

    The blocks are under one policy, but for parameters with a value per block. Only when others
    are asked for than before, or in another order, are they gathered anew.
    """
    state = places[0].state
    if len(state.ids) == len(places) and all(
        place.state is state and place.row == row for row, place in enumerate(places)
    ):
        return state
    whole = State.new(
        state.policy,
        torch.empty_like(state.ids[:1]).repeat(len(places), 1),
        state.mask_token_id,
        strict=state.strict,
    )
    whole.vocab, whole.draws = state.vocab, any(place.state.draws for place in places)
    fields = zip(whole.fields(), *(place.state.fields() for place in places), strict=True)
    for new, *old in fields:
        new.copy_(torch.stack([o[p.row] for o, p in zip(old, places, strict=True)]))
    for row, place in enumerate(places):
        place.state, place.row = whole, row
    return whole
