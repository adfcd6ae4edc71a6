"""One decision: statistics of the logits, the rule, and what it changes, all on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Policy, Stats, Write
from fastedit.policies.fields import checked, real
from fastedit.policies.registry import parse
from fastedit.policies.state import State


def open(
    policy: Policy | str,
    ids: Tensor,
    editable: Tensor | None = None,
    *,
    mask_token_id: int,
    seed: int = 0,
    start: int | Tensor = 0,
    temperature: float = 0.0,
    strict_reference: bool = False,
) -> State:
    """The state of blocks that somebody else's loop decodes; `step_` takes a decision on it.

    policy    an object, or `name:field=value,...`
    ids       [B, L] int64, what the blocks hold; copied
    editable  [B, L] bool; None: all of it
    seed      of the draws, where there are any; start: absolute position of the blocks' first
              tokens, one number or [B]
    temperature  0.0 is greedy

    Raises TypeError and ValueError for wrong shapes and types, and for an unknown policy.
    """
    chosen = parse(policy) if isinstance(policy, str) else policy
    if not isinstance(chosen, Policy):
        raise TypeError(f"policy must be a policy or its text; got {policy!r}")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype != torch.int64:
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)[:80]
        raise ValueError(f"ids must be a tensor int64 [B, L]; got {found}")
    if editable is not None and (editable.shape != ids.shape or editable.dtype != torch.bool):
        raise ValueError(
            f"editable must be bool {list(ids.shape)}, as ids are; "
            f"got {editable.dtype} {list(editable.shape)}"
        )
    heat = checked("temperature", temperature, real(0.0, 1e6, "a number of at least 0"))
    state = State.new(chosen, ids.clone(), int(mask_token_id), strict=strict_reference)
    if editable is not None:
        state.editable.copy_(editable)
    state.sampling.seed.fill_((seed + 2**63) % 2**64 - 2**63)  # as signed 64 bits
    state.sampling.start.copy_(torch.as_tensor(start))
    state.sampling.temperature.fill_(heat)
    state.draws = heat > 0.0
    return state


def step_(
    state: State,
    logits: Tensor,
    scores: Tensor | None = None,
    next_logits: Tensor | None = None,
    shadow_logits: Tensor | None = None,
    draws: Tensor | None = None,
) -> None:
    """One decision in place: `state.ids`, `state.done`, `state.counts`, `state.buffers`.

    logits         [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts ids[b, i], no shift
    scores         [B, L] fp32 of a head, for policies that need "score"
    next_logits    [B, L, V] of a head that predicts the next token, for those that need it
    shadow_logits  [B, L, V] of rows that see a mask at their own position, for plan "shadow"
    draws          [B, L] int64: tokens to use in place of what would be drawn

    Never raises for values and never waits for the device. Raises ValueError for what the policy
    needs and is not given, and for shapes that are not those of the state.
    """
    if state.twin is not None and draws is None and logits is not None:  # it checks for itself
        state.twin(logits, state.draws)
        return
    _check_given(state, logits, scores, next_logits, shadow_logits, draws)
    stats = _statistics(state, logits, draws)
    stats.scores = scores
    if shadow_logits is not None:
        stats.shadow = _statistics(state, shadow_logits, None)
    if next_logits is not None:
        stats.following = _statistics(state, next_logits, None)
    state.now = state.contents()
    try:
        _apply(state, state.policy.decide(stats, state), stats)
    finally:
        state.now = None


def _check_given(
    state: State, logits: Tensor, scores: Any, next_logits: Any, shadow_logits: Any, draws: Any
) -> None:
    policy, shape = state.policy, state.ids.shape
    for needed, name, value in (
        (True, "logits", logits),
        ("score" in policy.needs, "scores", scores),
        ("next_token" in policy.needs, "next_logits", next_logits),
        (policy.plan == "shadow", "shadow_logits", shadow_logits),
        (False, "draws", draws),
    ):
        if value is None and needed:
            raise ValueError(f"{policy.name or type(policy).__name__} needs {name}")
        if value is not None and value.shape[:2] != shape:
            raise ValueError(
                f"{name} must be [{shape[0]}, {shape[1]}, ...] as the ids of the state are; "
                f"got {list(value.shape)}"
            )


def _statistics(state: State, logits: Tensor, draws: Tensor | None) -> Stats:
    policy, shape = state.policy, state.ids.shape
    heat = policy.heat(state)
    samples = "sample" in policy.needs
    drawn = (samples or state.draws) and draws is None
    options: dict[str, Any] = {"forbid": state.forbidden(logits.shape[-1])}
    if "entropy" in policy.needs:
        options["entropy"] = True
    if "top_k" in policy.needs:
        options["top_k"] = 2
    if heat is None and state.draws:
        heat = state.sampling.temperature
        heat = torch.where(heat > 0.0, heat, 1.0)
    if heat is not None:
        options["temperature"] = heat[:, None].expand(shape)
    if drawn:
        options["draws"] = _draws(state)
    if not (policy.judges_tokens and policy.reads_tokens):
        options["only"] = state.mask_token_id
    rows = ops.row_stats(logits, state.ids, **options)
    token, prob, sample, sample_prob = rows.token, rows.prob, rows.sample, rows.sample_prob
    if draws is not None:
        options |= {"forbid": (), "only": None}
        sample, sample_prob = draws, ops.row_stats(logits, draws, **options).prob_current
    if sample is not None and sample_prob is not None and not samples:
        # Rows with a temperature take their draw as the best.
        takes = (state.sampling.temperature > 0.0)[:, None]
        token = torch.where(takes, sample, token)
        prob = torch.where(takes, sample_prob, prob)
        sample = sample_prob = None
    logit = logit_current = None
    if "logit" in policy.needs:
        ids = torch.stack((token, state.ids), dim=-1)
        ids.clamp_(0, logits.shape[-1] - 1)  # the mask may be no id of the logits
        logit, logit_current = logits.gather(-1, ids).float().unbind(-1)
    return Stats(
        token=token,
        prob=prob,
        prob_current=rows.prob_current,
        bad=rows.bad,
        vocab=logits.shape[-1],
        entropy=rows.entropy,
        top_tokens=rows.top_tokens,
        top_probs=rows.top_probs,
        sample=sample,
        sample_prob=sample_prob,
        logit=logit,
        logit_current=logit_current,
    )


def _draws(state: State) -> ops.RowDraws:
    """The key of every position's draw."""
    draws, shape = state.sampling, state.ids.shape
    forward = state.counts["forwards"].long()
    nucleus = state.policy.nucleus(state)
    if nucleus is None:
        nucleus = draws.top_p
    seed, forward, top_k, top_p = (
        each[:, None].expand(shape) for each in (draws.seed, forward, draws.top_k, nucleus)
    )
    return ops.RowDraws(seed, state.positions(), forward, top_k, top_p)


def _apply(state: State, write: Write, stats: Stats) -> None:
    """Write what may be written, and count what has changed; blocks that are done keep theirs."""
    policy = state.policy
    bounded = policy.may_reach_bound
    ops.write_blocks_(
        state.ids,
        write.ids,
        state.may_change(),
        write.done,
        policy.bad(stats, state),
        state.flags,
        state.count_rows,
        mask_token_id=state.mask_token_id,
        judges_tokens=policy.judges_tokens,
        buffers=[_fitted(state.buffers[name], now) for name, now in write.buffers.items()],
        limit=state.limit if bounded else None,
        fallback=stats.token if bounded else None,
    )
    if write.reopen is not None:
        # Keys and values of a forward in which blocks saw those behind them are stale in any case.
        state.dirty.logical_or_(state.reopened)
        state.reopened.logical_or_(write.reopen & ~state.done)


def _fitted(buffer: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """A buffer and its new content, as a tensor of the same kind."""
    if now.dtype != buffer.dtype:
        now = now.to(buffer.dtype)
    return buffer, now if now.shape == buffer.shape else now.expand_as(buffer)
