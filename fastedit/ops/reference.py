"""The operations in plain torch: what the other back ends must equal, and the fallback everywhere.

Reads like the contract, and is batch-invariant: every reduction runs within one row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.draft_and_corrupt import EDIT, KEEP, MASK, RANDOM, UNLABELLED, DraftKey
from fastedit.ops.joint_threshold import StepState
from fastedit.ops.row_stats import RowStats
from fastedit.ops.sampling import DECODE, DRAFT, Sampling, example_words, uniform, unit

DEVICES = ()  # chosen by default only where no other back end serves

_LARGEST = torch.finfo(torch.float32).max


def why_not(device: str) -> str | None:
    return None


def row_stats(
    logits: Tensor, current: Tensor, *, forbid: tuple[int, ...], temperature: float, entropy: bool
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    scores, bad = _finite(logits)
    top = scores.amax(-1)
    # Relative to the best, so that a small temperature makes no ties by overflow.
    weights = ((scores - top.clamp(min=-_LARGEST)[:, None]) / temperature).exp()
    total = _row_sum(weights)
    probs = weights / total[:, None]  # bit for bit what the decision step compares
    scaled = (top / temperature).clamp(-_LARGEST, _LARGEST)
    lse = torch.where(top == -torch.inf, top, scaled + total.log())
    token, prob, exists = _choose(scores, probs, current, forbid)
    return RowStats(
        token=token,
        prob=prob,
        prob_current=_probability_of(probs, current),
        lse=lse,
        entropy=_row_sum(torch.special.entr(probs.nan_to_num(nan=0.0))) if entropy else None,
        bad=bad | ~exists,
    )


def row_partials(logits: Tensor, *, forbid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.row_partials`; the fields in order, ids within the shard."""
    scores, bad = _finite(logits)
    top = scores.amax(-1)
    total = _row_sum((scores - top.clamp(min=-_LARGEST)[:, None]).exp())
    best, token = _ban_(scores, forbid).max(-1)
    return top, total, best, torch.where(best > -torch.inf, token, -1), bad


def joint_threshold_step_(
    ids: Tensor,
    logits: Tensor,
    editable: Tensor,
    state: StepState,
    *,
    mask_token_id: int,
    threshold: Tensor,
    editing_threshold: Tensor,
    max_post_steps: Tensor,
    num_to_transfer: Tensor,
    forbid: tuple[int, ...],
    sampling: Sampling | None,
) -> None:
    """Contract: `fastedit.ops.joint_threshold_step_`."""
    decide_(
        ids,
        _candidates(ids, logits, state, forbid, sampling),
        editable,
        state,
        mask_token_id=mask_token_id,
        threshold=threshold,
        editing_threshold=editing_threshold,
        max_post_steps=max_post_steps,
        num_to_transfer=num_to_transfer,
    )


def decide_(
    ids: Tensor,
    candidates: tuple[Tensor, ...],
    editable: Tensor,
    state: StepState,
    *,
    mask_token_id: int,
    threshold: Tensor,
    editing_threshold: Tensor,
    max_post_steps: Tensor,
    num_to_transfer: Tensor,
) -> None:
    """The rule, from what `_candidates` returns: who commits, who is edited, what is counted."""
    token, prob, candidate, bad = candidates
    masked = (ids == mask_token_id) & editable
    had_mask = masked.any(-1)
    spent = ~had_mask & (state.post_steps >= max_post_steps)
    active = ~(state.done | spent)

    # M2T: every mask above the threshold, at least `num_to_transfer` of them.
    above = masked & candidate & (prob > threshold[:, None])
    enough = above.sum(-1) >= num_to_transfer
    forced = _most_confident(prob, masked & candidate, num_to_transfer)
    commit = torch.where(enough[:, None], above, forced)

    # T2T: every token whose rival is confident enough. Judged on the old ids, like the commits.
    visible = editable & ~masked
    edit = visible & candidate & (prob > editing_threshold[:, None])

    change = (commit | edit) & (token != ids) & active[:, None]
    ids.copy_(torch.where(change, token, ids))

    changed = change.any(-1)
    mask_left = ((ids == mask_token_id) & editable).any(-1)
    state.post_steps.add_(active & ~had_mask)
    state.forwards.add_(active)
    state.m2t_commits.add_((change & masked).sum(-1, dtype=torch.int32))
    state.t2t_edits.add_((change & visible).sum(-1, dtype=torch.int32))
    state.dirty.copy_(torch.where(active, changed, state.dirty))
    looked_at = masked | (visible & (editing_threshold < torch.inf)[:, None])
    state.bad.logical_or_(active & (bad & looked_at).any(-1))
    stable = ~had_mask & ~changed
    budget_spent = ~mask_left & (state.post_steps >= max_post_steps)
    state.done.logical_or_(spent | stable | budget_spent)


def _candidates(
    ids: Tensor,
    logits: Tensor,
    state: StepState,
    forbid: tuple[int, ...],
    sampling: Sampling | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per position [B, L]: token, its confidence fp32, whether there is a candidate, bad logits."""
    scores, bad = _finite(logits)
    token, prob, exists = _best_(scores, ids, forbid)
    if sampling is not None:
        drawn, drawn_prob = sample(logits, sampling, state.forwards, forbid)
        draws = (sampling.temperature > 0.0)[:, None] & exists
        token = torch.where(draws, drawn, token)
        prob = torch.where(draws, drawn_prob, prob)
    return token, prob, exists, bad | ~exists


def sample(
    logits: Tensor, sampling: Sampling, forward: Tensor, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """One draw per position: token [B, L] int64 and its probability after all filters, fp32.

    Forbidden ids leave first; then temperature, top-k, top-p, softmax; then the first token whose
    running sum exceeds the uniform (inverse CDF). Greedy rows are computed too and not used.
    """
    length, vocab = logits.shape[1:]
    temperature = torch.where(sampling.temperature > 0.0, sampling.temperature, 1.0)
    scores = _heated_(_ban_(_finite(logits)[0], forbid), temperature[:, None, None])

    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    k = torch.where(sampling.top_k > 0, sampling.top_k, vocab).clamp(max=vocab)
    kth = ranked.gather(-1, (k - 1)[:, None, None].expand(-1, length, 1))
    ranked = ranked.masked_fill(ranked < kth, -torch.inf)
    mass = ranked.softmax(-1).nan_to_num(nan=0.0)
    preceding = torch.nn.functional.pad(mass.cumsum(-1)[..., :-1], (1, 0))
    top_p = torch.where(
        sampling.top_p < 1.0, sampling.top_p.clamp(min=0.0), torch.inf
    )  # sums may pass 1
    ranked = ranked.masked_fill(preceding > top_p[:, None, None], -torch.inf)
    probs = ranked.softmax(-1).nan_to_num(nan=0.0)
    probs = torch.zeros_like(probs).scatter(-1, order, probs)  # back to vocabulary order

    position = sampling.start[:, None] + torch.arange(length, device=logits.device)
    return _inverse_cdf(
        probs, uniform(sampling.seed[:, None], position, forward[:, None].long(), DECODE)
    )


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

    scores, bad = _finite(logits)
    if temperature > 0.0:
        scores = _heated_(_ban_(scores, forbid), torch.tensor(temperature))
        exists = scores.amax(-1) > -torch.inf
        draft, prob = _inverse_cdf(scores.softmax(-1).nan_to_num(nan=0.0), unit(draft_word))
    else:
        draft, prob, exists = _best_(scores, xt, forbid)
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


def _heated_(scores: Tensor, temperature: Tensor) -> Tensor:
    """Relative to the best and divided by the temperature, of which a small one makes no ties."""
    scores -= scores.amax(-1, keepdim=True)
    return scores.nan_to_num_(nan=-torch.inf, neginf=-torch.inf) / temperature


def _inverse_cdf(probs: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The first id whose running sum of `probs` [..., V] exceeds `u` [...], and its probability."""
    running = probs.cumsum(-1)
    token = (running <= u[..., None] * running[..., -1:]).sum(-1)
    # Rounding can leave no token above the uniform: then the last one with any mass.
    last = probs.shape[-1] - 1 - (probs > 0.0).flip(-1).int().argmax(-1)
    token = torch.minimum(token, last)
    return token, probs.gather(-1, token[..., None]).squeeze(-1)


def _most_confident(prob: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] highest probabilities of each block, lowest position on ties: [B, L] bool."""
    order = prob.masked_fill(~among, -1.0).sort(dim=-1, descending=True, stable=True).indices
    rank = order.argsort(-1)
    return among & (rank < count[:, None])


def _finite(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A fresh fp32 copy, NaN as -inf and +inf as the largest number; and which rows had either."""
    raw = logits.float()
    bad = ~(raw.amax(-1) < torch.inf)  # amax hands a NaN on
    return raw.nan_to_num(nan=-torch.inf, posinf=_LARGEST, neginf=-torch.inf), bad


def _choose(
    scores: Tensor, probs: Tensor, current: Tensor, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Best allowed token, its probability, and whether there is one. Overwrites `scores`."""
    best, token = _ban_(scores, forbid).max(-1)
    exists = best > -torch.inf
    token = torch.where(exists, token, current)
    return token, torch.where(exists, _probability_of(probs, token), 0.0), exists


def _best_(
    scores: Tensor, current: Tensor, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_choose`, without a second tensor of the size of the logits. Overwrites `scores`."""
    held = [scores[..., token].clone() for token in forbid]
    best, token = _ban_(scores, forbid).max(-1)
    for forbidden, score in zip(forbid, held, strict=True):
        scores[..., forbidden] = score
    top = scores.amax(-1).clamp(min=-_LARGEST)  # a row of -inf only
    total = _row_sum(scores.sub_(top[..., None]).exp_())
    exists = best > -torch.inf
    prob = torch.where(exists, (best - top).exp() / total, 0.0)
    return torch.where(exists, token, current), prob, exists


def _ban_(scores: Tensor, forbid: tuple[int, ...]) -> Tensor:
    for token in forbid:
        scores[..., token] = -torch.inf
    return scores


def _probability_of(probs: Tensor, token: Tensor) -> Tensor:
    """probs[r, token[r]], 0 where the token lies outside the vocabulary."""
    vocab = probs.shape[-1]
    inside = (token >= 0) & (token < vocab)
    picked = probs.gather(-1, token.clamp(0, vocab - 1)[..., None]).squeeze(-1)
    return torch.where(inside, picked.nan_to_num(nan=0.0), 0.0)  # only -inf: no softmax


def _row_sum(rows: Tensor) -> Tensor:
    """Sum over the last dimension, the same for a row alone: torch would split it over threads."""
    if rows.numel() != rows.shape[-1]:
        return rows.sum(-1)
    return rows.reshape(1, -1).expand(2, -1).sum(-1)[0].reshape(rows.shape[:-1])
