"""The joint-threshold step in plain torch: what the other back ends must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.joint_threshold import StepState
from fastedit.ops.plain import ban_, best_, draw_, finite
from fastedit.ops.sampling import DECODE, Sampling, uniform


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
    scores, bad = finite(logits)
    token, prob, exists = best_(scores, ids, forbid)
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

    Greedy rows are computed too and not used.
    """
    scores = ban_(finite(logits)[0], forbid)
    temperature = torch.where(sampling.temperature > 0.0, sampling.temperature, 1.0)
    position = sampling.start[:, None] + torch.arange(logits.shape[1], device=logits.device)
    u = uniform(sampling.seed[:, None], position, forward[:, None].long(), DECODE)
    per_block = (temperature, sampling.top_k, sampling.top_p)
    heat, top_k, top_p = (value[:, None].expand(u.shape) for value in per_block)
    return draw_(scores, heat, top_k, top_p, u)


def _most_confident(prob: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] highest probabilities of each block, lowest position on ties: [B, L] bool."""
    order = prob.masked_fill(~among, -1.0).sort(dim=-1, descending=True, stable=True).indices
    rank = order.argsort(-1)
    return among & (rank < count[:, None])
