"""One decision: statistics of the logits, the rule, and what it changes, all on the device."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fastedit.policies.base import Policy
from fastedit.policies.declared import name_of
from fastedit.policies.fields import HEAT, checked
from fastedit.policies.registry import parse
from fastedit.policies.rows import Rows
from fastedit.policies.state import State
from fastedit.policies.statistics import statistics, without
from fastedit.policies.values import Watch
from fastedit.policies.writing import apply_


def open(
    policy: Policy | str,
    ids: Tensor,
    editable: Tensor | None = None,
    mask_token_id: int | None = None,
    seed: int = 0,
    start: int | Tensor = 0,
    *,
    temperature: float = 0.0,
    strict_reference: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
) -> State:
    """The state of blocks that somebody else's loop decodes; `step_` takes a decision on it.

    policy    an object, or `name:field=value,...`
    ids       [B, L] int64, what the blocks hold; copied
    editable  [B, L] bool; None: all of it
    mask_token_id  the id of the mask; it has no default
    seed      of the draws, where there are any; start: absolute position of the blocks' first
              tokens, one number or [B]
    temperature  0.0 is greedy
    lengths   [B], how many of the L positions each sequence has, for a policy that inserts and
              deletes; None: all

    Sequences of such a policy (`me_dlm`) shrink and grow. `state.ids` [B, W] is as wide as the
    longest of them is by now, so that of one sequence it holds exactly its ids; in general
    `state.ids[b, : state.lengths[b]]` does, and what is behind means nothing. The next logits are
    of these W positions, or packed. Each row is a whole sequence, its prompt in front.

    Raises TypeError and ValueError for wrong shapes and types, and for an unknown policy.
    """
    chosen = parse(policy) if isinstance(policy, str) else policy
    if not isinstance(chosen, Policy):
        raise TypeError(f"policy must be a policy or its text; got {policy!r}")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype != torch.int64:
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)[:80]
        raise ValueError(f"ids must be a tensor int64 [B, L]; got {found}")
    if editable is not None:
        known = isinstance(editable, Tensor)
        if not known or editable.shape != ids.shape or editable.dtype != torch.bool:
            found = f"{editable.dtype} {list(editable.shape)}" if known else f"{editable!r:.80}"
            raise ValueError(
                f"editable must be a tensor bool {list(ids.shape)}, as ids are; got {found}"
            )
    for name, value in (("mask_token_id", mask_token_id), ("seed", seed)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer; got {value!r:.80}")
    mask_token_id = int(mask_token_id)  # type: ignore[arg-type]
    first = _integers(start)
    if first is None or first.shape not in ((), ids.shape[:1]):
        raise ValueError(f"start must be one integer, or integers [{len(ids)}]; got {start!r:.80}")
    if mask_token_id in chosen.control_ids:
        raise ValueError(f"mask_token_id={mask_token_id} is a control id of policy {chosen}")
    for name, token in chosen.named_ids().items():
        if token == mask_token_id:
            raise ValueError(f"mask_token_id={token} is the {name} of policy {chosen}")
    heat = checked("temperature", temperature, HEAT)
    state = State.new(chosen, ids.clone(), mask_token_id, strict=strict_reference)
    if editable is not None:
        state.editable.copy_(editable)
    state.sampling.seed.fill_((seed + 2**63) % 2**64 - 2**63)  # as signed 64 bits
    state.sampling.start.copy_(first)
    state.sampling.temperature.fill_(heat)
    state.draws = heat > 0.0
    if chosen.variable:
        _set_lengths(state, lengths)
    elif lengths is not None:
        raise ValueError(f"lengths are for policies that insert and delete, not for {chosen}")
    return state


def _integers(value: Any) -> Tensor | None:
    """Integers of 64 bits or fewer as a tensor; None for what is none."""
    try:
        given = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):  # 2**63 is a RuntimeError
        return None
    none = given.is_floating_point() or given.is_complex() or given.dtype == torch.bool
    return None if none else given


def _set_lengths(state: State, lengths: Tensor | Sequence[int] | None) -> None:
    """How many positions each sequence has, and how many it may have."""
    assert state.lengths is not None and state.limits is not None
    blocks, width = state.ids.shape
    if lengths is not None:
        given = _integers(lengths)
        if given is None or given.shape != (blocks,):
            raise ValueError(
                f"lengths must be integers [{blocks}], one per row of ids; got {lengths!r:.80}"
            )
        if blocks and not 0 <= int(given.min()) <= int(given.max()) <= width:
            raise ValueError(f"lengths must be from 0 to {width}, as ids are; got {lengths}")
        state.lengths.copy_(given)
    most = state.policy.most_tokens
    if most is not None:
        state.limits.copy_(most - state.sampling.start)


def step_(
    state: State,
    logits: Tensor,
    scores: Tensor | None = None,
    next_logits: Tensor | None = None,
    shadow_logits: Tensor | None = None,
    draws: Tensor | None = None,
    watch: Watch | None = None,
) -> None:
    """One decision in place: `state.ids`, `state.done`, `state.counts`, `state.buffers`.

    logits         [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts ids[b, i], no shift; of a
                   policy that inserts and deletes they may be packed, [N, V]: the rows of the
                   positions that there are, sequence after sequence
    scores         [B, L] of a head, for policies that need "score": floats, read as fp32
    next_logits    of a head that predicts the next token, shaped alike, for those that need it;
                   None while no block does, as in the mask phase of `me_dlm`
    shadow_logits  [B, L, V] of rows that see a mask at their own position, for plan "shadow"
    draws          [B, L] int64: tokens to use in place of what would be drawn
    watch          is shown what the decision goes by; the tokens are the same with it

    Raises for no value of the logits, and never waits for the device but where a policy inserts
    and deletes: the width of `state.ids` follows from what it did. Logits are written to meanwhile
    where ids are left out of the softmax, and are as they were behind it. Raises ValueError for
    what the policy needs and is not given, for shapes that are not those of the state, and for what
    a rule cannot return; on a CPU also for an id that there is not.
    """
    if state.policy.control_ids and logits is not None:
        _check_control_ids(state.policy, logits.shape[-1])
    twin = state.twin
    fused = twin if twin and draws is None and logits is not None else None
    if fused and watch is None and fused(logits, state.draws):
        return  # it has checked for itself
    rows = Rows(state, logits)
    _check_given(state, rows, logits, scores, next_logits, shadow_logits, draws)
    state.may = state.may_change()
    state.now = state.contents()
    try:
        ids = state.policy.excluded(state)
        if ids is None:
            stats = statistics(state, logits, draws, rows)
        else:
            with without(logits, ids, rows) as (left, excluded):
                stats = statistics(state, left, draws, rows)
            stats.excluded = excluded
        stats.scores = scores if scores is None else scores.float()
        if shadow_logits is not None:
            stats.shadow = statistics(state, shadow_logits, None, rows, shadow=True)
        if next_logits is not None and _reads_next(state):
            stats.following = statistics(state, next_logits, None, rows, following=True)
        if watch is not None:
            watch.saw(stats)
            # What is written before tokens move, a fused step does not tell.
            if fused and not state.policy.rewrites:
                state.may = state.now = None
                if fused(logits, state.draws):
                    return
                state.may = state.may_change()
                state.now = state.contents()
        try:
            write = state.policy.decide(stats, state)
        except Exception as error:
            error.add_note(f"raised by the rule of policy {state.policy}")
            raise
        apply_(state, write, stats, watch)
    finally:
        state.may = state.now = None


def _check_given(
    state: State,
    rows: Rows,
    logits: Tensor,
    scores: Any,
    next_logits: Any,
    shadow_logits: Any,
    draws: Any,
) -> None:
    policy, shape = state.policy, state.ids.shape
    for needed, name, value in (
        (True, "logits", logits),
        ("score" in policy.needs, "scores", scores),
        (next_logits is None and _wants_next(state), "next_logits", next_logits),
        (policy.plan == "shadow", "shadow_logits", shadow_logits),
        (False, "draws", draws),
    ):
        if value is None and needed:
            raise ValueError(f"{name_of(policy)} needs {name}")
        if value is None:
            continue
        among = rows.shape if name in ("logits", "next_logits") else shape
        if not isinstance(value, Tensor) or value.shape[: len(among)] != among:
            found = list(value.shape) if isinstance(value, Tensor) else f"{value!r:.80}"
            alike = "as the ids of the state are" if among == shape else "its positions, packed"
            raise ValueError(
                f"{name} must be [{', '.join(map(str, among))}, ...], {alike}; got {found}"
            )
    for name, value in (("next_logits", next_logits), ("shadow_logits", shadow_logits)):
        if value is not None and value.shape != logits.shape:
            raise ValueError(
                f"{name} must be {list(logits.shape)}, as logits are; got {list(value.shape)}"
            )
    if draws is not None and (draws.shape != shape or draws.dtype != torch.int64):
        raise ValueError(
            f"draws must be int64 {list(shape)}; got {draws.dtype} {list(draws.shape)}"
        )
    if scores is not None and not (scores.ndim == 2 and scores.is_floating_point()):
        raise ValueError(
            f"scores must be floats {list(shape)}, larger ones worse; "
            f"got {scores.dtype} {list(scores.shape)}"
        )


def _check_control_ids(policy: Policy, vocab: int) -> None:
    beyond = [token for token in policy.control_ids if token >= vocab]
    if beyond:
        raise ValueError(
            f"policy {policy} needs id {beyond[0]}, and the logits have {vocab}: give the ids of "
            "your model"
        )


def _wants_next(state: State) -> bool:
    """Whether a block that is not done needs the head for the next token; waits for the device."""
    if "next_token" not in state.policy.needs or not state.wants_next:
        return False
    return bool((state.policy.wants_next(state) & ~state.done).any())


def _reads_next(state: State) -> bool:
    """Whether the rule looks at the head for the next token: asked where it may wait for that."""
    return state.lengths is None or bool(state.policy.wants_next(state).any())
