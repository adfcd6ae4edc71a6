"""What a rule is told of the logits: row statistics of the positions of its blocks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.rows import Rows
from fastedit.policies.state import State
from fastedit.policies.values import Stats

# So that draws of the head for the next token are others than those at the same position.
NEXT_DRAWS = 0x5DEECE66D


@contextlib.contextmanager
def without(logits: Tensor, ids: Tensor, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of which those of `ids` int64 [n, k] are -inf; and what these are, fp32 [n, L, k].

    They are those given, and put back behind it: a copy would be one more read and write of all.
    """
    vocab = logits.shape[-1]
    if not all(logits.stride()):  # one row that stands for several
        logits = logits.contiguous()
    is_id = (ids >= 0) & (ids < vocab)
    ids = torch.where(is_id, ids, torch.where(is_id, ids, -1).amax(-1, keepdim=True))
    ids = rows.of(ids[:, None])
    is_id = ids >= 0  # where there is one, others stand for it as well
    # Not gather and scatter_: the latter takes 60 ms for bfloat16 on a CPU, whatever it writes.
    where = *rows.numbers(logits.device), ids.clamp(min=0)
    held = logits[where]
    with torch.inference_mode():  # the logits may be tensors of it
        logits[where] = held.masked_fill(is_id, -torch.inf)
        try:
            yield logits, rows.back(held.float().masked_fill(~is_id, -torch.inf))
        finally:
            logits[where] = held


def statistics(
    state: State,
    logits: Tensor,
    draws: Tensor | None,
    rows: Rows,
    following: bool = False,
    shadow: bool = False,
) -> Stats:
    """Of the positions of `state`, which `rows` of the logits are of; following: of the head for
    the next token; shadow: of the rows that see a mask there."""
    policy, ids = state.policy, rows.of(state.ids)
    heat = heat_of(state)
    samples = "sample" in policy.needs
    drawn = (samples or state.draws) and draws is None
    options: dict[str, Any] = {"forbid": state.forbidden(logits.shape[-1], following)}
    if "entropy" in policy.needs:
        options["entropy"] = True
    if "top_k" in policy.needs:
        options["top_k"] = policy.ranks
    if heat is not None:
        options["temperature"] = rows.of(heat[:, None]).expand(rows.shape)
    if drawn:
        options["draws"] = _draws(state, following, rows)
    if not (policy.judges_tokens and (policy.reads_tokens or shadow)):
        options["only"] = state.mask_token_id
    current, reads = ids, policy.reads(state, following)
    if reads is not None:  # none of the ids is negative
        current, options["only"] = ids.masked_fill(rows.of(reads), -1), -1
    found = ops.row_stats(logits, current, **options)
    token, prob, sample, sample_prob = found.token, found.prob, found.sample, found.sample_prob
    if draws is not None:
        draws = rows.of(draws)
        options |= {"forbid": (), "only": None}
        sample, sample_prob = draws, ops.row_stats(logits, draws, **options).prob_current
    if sample is not None and sample_prob is not None and not samples:
        # Rows with a temperature take their draw as the best.
        takes = rows.of((state.sampling.temperature > 0.0)[:, None])
        token = torch.where(takes, sample, token)
        prob = torch.where(takes, sample_prob, prob)
        sample = sample_prob = None
    if reads is not None and not following:  # where there is nothing to choose from, what is held
        token = torch.where(token < 0, ids, token)
    logit = logit_current = None
    if "logit" in policy.needs:
        both = torch.stack((token, ids), dim=-1)
        both.clamp_(0, logits.shape[-1] - 1)  # the mask may be no id of the logits
        logit, logit_current = logits.gather(-1, both).float().unbind(-1)
    outside = None
    if "outside" in policy.needs:
        outside = functools.partial(_outside, logits, options["forbid"], rows)
    return Stats(
        token=rows.back(token),
        prob=rows.back(prob),
        prob_current=rows.back(found.prob_current),
        bad=rows.back(found.bad),
        vocab=logits.shape[-1],
        entropy=rows.back(found.entropy),
        top_tokens=rows.back(found.top_tokens),
        top_probs=rows.back(found.top_probs),
        sample=rows.back(sample),
        sample_prob=rows.back(sample_prob),
        logit=rows.back(logit),
        logit_current=rows.back(logit_current),
        outside=outside,
    )


def heat_of(state: State) -> Tensor | None:
    """Temperatures [n] that logits are divided by in this step; None: 1."""
    heat = state.policy.heat(state)
    if heat is None and state.draws:
        heat = state.sampling.temperature
        heat = torch.where(heat > 0.0, heat, 1.0)
    return heat


def _outside(
    logits: Tensor, forbid: tuple[int, ...], rows: Rows, excluded: Tensor, only: Tensor
) -> Tensor:
    """As `Stats.outside` says."""
    lists, only = rows.of(excluded), rows.of(only)
    return rows.back(ops.best_outside(logits, lists, only=only, forbid=forbid)[0])


def _draws(state: State, following: bool, rows: Rows) -> ops.RowDraws:
    """The key of every row's draw."""
    seed, top_k, top_p = map(rows.of, state.draw_keys())
    forward = rows.of(state.counts.forwards.long()[:, None]).expand(rows.shape)
    nucleus = state.policy.nucleus(state)
    if nucleus is not None:
        top_p = rows.of(nucleus[:, None]).expand(rows.shape)
    if following:
        seed = seed ^ NEXT_DRAWS
    return ops.RowDraws(seed, rows.of(state.positions()), forward, top_k, top_p)
