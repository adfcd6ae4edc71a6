"""The noisy copy of a batch before any draft: masks, random wrong tokens, labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.training.noise.draws import EDIT, MASK, RATE, SAMPLE, Draws
from fastedit.training.noise.schedule import Schedule
from fastedit.training.options import NOISE, EditOptions


@dataclass(frozen=True)
class Noisy:
    """One noisy copy of a batch; every field [B, L].

    ids       int64  what the model sees
    rate      fp32   mask rate t of the document or block
    labelled  bool   supervised positions; labels are the clean ids
    drafted   bool   response positions of samples whose masks are to be filled by drafts
    """

    ids: Tensor
    rate: Tensor
    labelled: Tensor
    drafted: Tensor


def mask_rates(draws: Draws, schedule: Schedule, turn: int, block_size: int) -> Tensor:
    """Mask rate t of every token, fp32 [B, L]: one per document, or per block of a document."""
    if schedule.per_block:
        return schedule.rates(draws.per_block(RATE, turn, block_size)[0])
    return schedule.rates(draws.per_document(RATE, turn)[0])


def draw_masks(
    draws: Draws, response: Tensor, options: EditOptions, copy: int, block_size: int
) -> tuple[Tensor, Tensor]:
    """Masked positions, bool [B, L], and their rates: each of `response` with probability t.

    With complementary masks every odd copy masks what its partner, the copy before, did not, at
    the rate 1 - t: each position of the response is masked exactly once in the two.
    """
    turn = pair(options, copy)
    rate = mask_rates(draws, Schedule.parse(options.noise or NOISE), turn, block_size)
    masked = draws.per_token(MASK, turn) < rate
    if options.complementary and copy % 2:
        masked, rate = ~masked, 1.0 - rate
    return response & masked, rate


def pair(options: EditOptions, copy: int) -> int:
    """Turn of the draws of a copy: complementary partners share theirs."""
    return copy // 2 if options.complementary else copy


def random_tokens(draws: Draws, clean: Tensor, candidates: Tensor, turn: int) -> Tensor:
    """A uniform candidate other than the clean id for every token, int64 [B, L].

    `candidates` [n], n >= 2: sorted, distinct ids. Clean ids that are no candidates get any of the
    n. The clean id is left out by an index shift, so no draw is repeated.
    """
    place = torch.searchsorted(candidates, clean).clamp_(max=len(candidates) - 1)
    excluded = candidates[place] == clean
    index = (draws.words(EDIT, turn)[1] * (len(candidates) - excluded.long())) >> 32
    return candidates[index + (excluded & (index >= place)).long()]


def corrupt(
    clean: Tensor,
    response: Tensor,
    draws: Draws,
    options: EditOptions,
    *,
    copy: int,
    block_size: int,
    mask_token_id: int,
    candidates: Tensor,
) -> Noisy:
    """Noisy copy number `copy` of `clean` ids [B, L] inside `response`, bool [B, L].

    candidates  [n] int64, sorted: ids that may be a random wrong token

    Three kinds of samples, drawn per document: a `confirm_share` stays clean; of the others the
    share of the T2T source gets wrong tokens, here if they are random, later if they are drafts;
    the rest is plain M2T.
    """
    turn = pair(options, copy)
    masked, rate = draw_masks(draws, response, options, copy, block_size)
    chance, confirm = draws.per_document(SAMPLE, turn)
    confirmed = confirm < options.confirm_share
    share = {"none": 0.0, "random": options.mix_share, "self": options.draft_share}[options.t2t]
    edited = ~confirmed & (chance < share)

    masked = masked & ~confirmed
    ids = clean.masked_fill(masked, mask_token_id)
    if options.t2t == "random":
        wrong = response & ~masked & edited & (draws.per_token(EDIT, turn) < options.r_edit)
        ids = torch.where(wrong, random_tokens(draws, clean, candidates, turn), ids)
    whole = confirmed | edited if options.turns == 1 else torch.ones_like(edited)
    drafted = response & edited if options.t2t == "self" else torch.zeros_like(response)
    if options.loss_region != "response":  # random ids of drafted samples get theirs with them
        whole = whole & ~drafted
    return Noisy(ids, rate, torch.where(whole, response, masked), drafted)
