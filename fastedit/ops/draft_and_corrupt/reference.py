"""Draft and corrupt in plain torch: what the other back ends must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.draft_and_corrupt import EDIT, KEEP, MASK, RANDOM, UNLABELLED, DraftKey
from fastedit.ops.plain import ban_, best_, finite, heated_, inverse_cdf
from fastedit.ops.sampling import DRAFT, example_words, unit


def draft_and_corrupt(
    logits: Tensor,
    xt: Tensor,
    x0: Tensor,
    eligible: Tensor,
    key: DraftKey,
    *,
    mask_token_id: int,
    forbid: tuple[int, ...],
    temperature: float,
    mask_below: int,
    drafted_below: int,
    visible_below: int,
    region: int,
) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.draft_and_corrupt`; the fields of `Drafted` in order.

    Rows that are not drafted are computed too, and not used.
    """
    draft_word, mask_word, random_word, id_word = example_words(
        key.seed, key.epoch, key.example, key.position, key.turn, DRAFT
    )
    was_mask = eligible & (xt == mask_token_id)
    stays = was_mask & (mask_word < mask_below)
    below = torch.where(was_mask, drafted_below, visible_below)
    random = eligible & ~stays & (random_word < below)
    reads = was_mask & ~stays & ~random

    scores, bad = finite(logits)
    if temperature > 0.0:
        scores = heated_(ban_(scores, forbid), torch.tensor(temperature))
        exists = scores.amax(-1) > -torch.inf
        draft, prob = inverse_cdf(scores.softmax(-1).nan_to_num(nan=0.0), unit(draft_word))
    else:
        draft, prob, exists = best_(scores, xt, forbid)
    drafted = reads & exists

    z = torch.where(drafted, draft, xt)
    z = torch.where(random, _random_other(x0, id_word, logits.shape[-1], forbid), z)
    kinds = torch.where(was_mask, MASK, KEEP).masked_fill(drafted, EDIT)
    kinds = kinds.masked_fill(random, EDIT | RANDOM).to(torch.uint8)
    labelled = (was_mask, was_mask | random, eligible)[region]
    return (
        z,
        torch.where(labelled, x0, UNLABELLED),
        kinds,
        torch.where(drafted, prob, 0.0),
        (drafted & (draft != x0)).sum(),
        reads & (bad | ~exists),
    )


def _random_other(x0: Tensor, word: Tensor, vocab: int, forbid: tuple[int, ...]) -> Tensor:
    """A uniform id of the vocabulary that is neither x0 nor forbidden (ascending), per row.

    Drawn as a place among those ids, which then moves past each id that is left out.
    """
    place = x0 - sum((x0 > token).long() for token in forbid)  # of x0 among the allowed ids
    allowed = (x0 >= 0) & (x0 < vocab)
    for token in forbid:
        allowed = allowed & (x0 != token)
    drawn = (word * (vocab - len(forbid) - allowed.long())) >> 32
    drawn = drawn + (allowed & (drawn >= place))
    for token in forbid:
        drawn = drawn + (drawn >= token)
    return drawn
