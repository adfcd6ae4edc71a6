"""The operations as torch custom operators, `torch.ops.fastedit.*`, for compilers.

`torch.compile(fullgraph=True)` goes around them; each calls the back end that serves it when it
runs. Eager code takes the functions of `fastedit.ops` instead, which call the back end directly: a
trip through torch's dispatcher costs more than a small decision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fastedit.ops.compact import compact as compact_now
from fastedit.ops.compact import rewrite_blocks as rewrite_blocks_now
from fastedit.ops.dispatch import implementation
from fastedit.ops.draft_and_corrupt import DraftKey
from fastedit.ops.joint_threshold import StepState
from fastedit.ops.sampling import RowDraws, Sampling

_FIELDS = {  # of `RowStats`
    "token": torch.int64,
    "prob": torch.float32,
    "prob_current": torch.float32,
    "lse": torch.float32,
    "entropy": torch.float32,
    "bad": torch.bool,
    "top_tokens": torch.int64,
    "top_probs": torch.float32,
    "sample": torch.int64,
    "sample_prob": torch.float32,
}

# Kept alive: the operators go when it goes.
_library = Library("fastedit", "DEF")
_library.define(
    "row_stats(Tensor logits, Tensor current, int[] forbid, float temperature, bool entropy,"
    " Tensor? temperatures=None, int top_k=0, Tensor? seed=None, Tensor? position=None,"
    " Tensor? forward=None, Tensor? draw_top_k=None, Tensor? top_p=None, int purpose=0,"
    " int? only=None)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "row_partials(Tensor logits, int[] forbid) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "draft_and_corrupt(Tensor logits, Tensor xt, Tensor x0, Tensor eligible, Tensor example,"
    " Tensor position, int seed, int epoch, int turn, int mask_token_id, int[] forbid,"
    " float temperature, int mask_below, int drafted_below, int visible_below, int region)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "joint_threshold_step_(Tensor(a!) ids, Tensor logits, Tensor editable,"
    " Tensor(b!) post_steps, Tensor(c!) forwards, Tensor(d!) m2t_commits, Tensor(e!) t2t_edits,"
    " Tensor(f!) done, Tensor(g!) dirty, Tensor(h!) bad,"
    " int mask_token_id, Tensor threshold, Tensor editing_threshold, Tensor max_post_steps,"
    " Tensor num_to_transfer, int[] forbid, Tensor? temperature, Tensor? top_k, Tensor? top_p,"
    " Tensor? seed, Tensor? start) -> ()"
)
_library.define(
    "best_outside(Tensor logits, Tensor excluded, Tensor? only, int[] forbid) -> (Tensor, Tensor)"
)
_library.define(
    "rewrite_blocks(Tensor ids, Tensor keep, Tensor insert, int fill, Tensor[] planes,"
    " Scalar[] blanks, Tensor? fixed=None) -> Tensor[]"
)
_library.define(
    "compact(Tensor ids, Tensor cu_seqlens, Tensor keep, Tensor insert, Tensor[] planes,"
    " Scalar[] blanks, int capacity, int fill, Tensor? room) -> Tensor[]"
)


def row_stats(
    logits: Tensor,
    current: Tensor,
    forbid: list[int],
    temperature: float,
    entropy: bool,
    temperatures: Tensor | None = None,
    top_k: int = 0,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    forward: Tensor | None = None,
    draw_top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    purpose: int = 0,
    only: int | None = None,
) -> tuple[Tensor, ...]:
    """Fields of `RowStats` in order; the place of what was not asked for holds an empty tensor."""
    keys = (seed, position, forward, draw_top_k, top_p)
    stats = implementation("row_stats", logits.device.type)(
        logits,
        current,
        forbid=tuple(forbid),
        temperature=temperature if temperatures is None else temperatures,
        entropy=entropy,
        top_k=top_k,
        draws=None if seed is None else RowDraws(*keys, purpose),  # type: ignore[arg-type]
        only=only,
    )
    kinds = _FIELDS.values()
    return tuple(
        logits.new_empty(0, dtype=kind) if field is None else field
        for field, kind in zip(vars(stats).values(), kinds, strict=True)
    )


def row_partials(logits: Tensor, forbid: list[int]) -> tuple[Tensor, ...]:
    """Fields of `RowPartials` in order, ids within the shard."""
    return implementation("row_partials", logits.device.type)(logits, forbid=tuple(forbid))


def draft_and_corrupt(
    logits: Tensor,
    xt: Tensor,
    x0: Tensor,
    eligible: Tensor,
    example: Tensor,
    position: Tensor,
    seed: int,
    epoch: int,
    turn: int,
    mask_token_id: int,
    forbid: list[int],
    temperature: float,
    mask_below: int,
    drafted_below: int,
    visible_below: int,
    region: int,
) -> tuple[Tensor, ...]:
    """Fields of `Drafted` in order; the settings are those of `DraftOptions.settings`."""
    return implementation("draft_and_corrupt", logits.device.type)(
        logits,
        xt,
        x0,
        eligible,
        DraftKey(seed, epoch, example, position, turn),
        mask_token_id=mask_token_id,
        forbid=tuple(forbid),
        temperature=temperature,
        mask_below=mask_below,
        drafted_below=drafted_below,
        visible_below=visible_below,
        region=region,
    )


def joint_threshold_step_(
    ids: Tensor,
    logits: Tensor,
    editable: Tensor,
    post_steps: Tensor,
    forwards: Tensor,
    m2t_commits: Tensor,
    t2t_edits: Tensor,
    done: Tensor,
    dirty: Tensor,
    bad: Tensor,
    mask_token_id: int,
    threshold: Tensor,
    editing_threshold: Tensor,
    max_post_steps: Tensor,
    num_to_transfer: Tensor,
    forbid: list[int],
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    seed: Tensor | None,
    start: Tensor | None,
) -> None:
    draws = (temperature, top_k, top_p, seed, start)
    implementation("joint_threshold_step_", logits.device.type)(
        ids,
        logits,
        editable,
        StepState(post_steps, forwards, m2t_commits, t2t_edits, done, dirty, bad),
        mask_token_id=mask_token_id,
        threshold=threshold,
        editing_threshold=editing_threshold,
        max_post_steps=max_post_steps,
        num_to_transfer=num_to_transfer,
        forbid=tuple(forbid),
        sampling=None if temperature is None else Sampling(*draws),  # type: ignore[arg-type]
    )


def best_outside(
    logits: Tensor, excluded: Tensor, only: Tensor | None, forbid: list[int]
) -> tuple[Tensor, Tensor]:
    return implementation("best_outside", logits.device.type)(logits, excluded, only, tuple(forbid))


def rewrite_blocks(
    ids: Tensor,
    keep: Tensor,
    insert: Tensor,
    fill: int,
    planes: list[Tensor],
    blanks: list[float],
    fixed: Tensor | None = None,
) -> list[Tensor]:
    """The ids, then the planes; the arguments are checked when it runs."""
    new, moved = rewrite_blocks_now(ids, keep, insert, fill, planes, blanks, fixed=fixed)
    return [new, *moved]


def compact(
    ids: Tensor,
    cu_seqlens: Tensor,
    keep: Tensor,
    insert: Tensor,
    planes: list[Tensor],
    blanks: list[float],
    capacity: int,
    fill: int,
    room: Tensor | None,
) -> list[Tensor]:
    """The ids, the planes, cu_seqlens; the arguments are checked when it runs."""
    new, moved, lengths = compact_now(
        ids, cu_seqlens, keep, insert, planes, blanks, capacity=capacity, fill=fill, room=room
    )
    return [new, *moved, lengths]


for _device in ("CPU", "CUDA"):
    for _op in (
        row_stats,
        row_partials,
        joint_threshold_step_,
        draft_and_corrupt,
        best_outside,
        rewrite_blocks,
        compact,
    ):
        _library.impl(_op.__name__, _op, _device)


def _per_row(logits: Tensor, *kinds: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(logits.new_empty(logits.shape[0], dtype=kind) for kind in kinds)


@register_fake("fastedit::row_stats", lib=_library)
def _(logits, current, forbid, temperature, entropy, temperatures=None, top_k=0, seed=None, *_):
    rows = tuple(current.shape)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_FIELDS, rows)
    shapes["entropy"] = rows if entropy else (0,)
    shapes["top_tokens"] = shapes["top_probs"] = (*rows, top_k) if top_k else (0,)
    shapes["sample"] = shapes["sample_prob"] = (0,) if seed is None else rows
    return tuple(logits.new_empty(shapes[name], dtype=kind) for name, kind in _FIELDS.items())


@register_fake("fastedit::row_partials", lib=_library)
def _(logits, forbid):
    return _per_row(logits, *[torch.float32] * 3, torch.int64, torch.bool)


@register_fake("fastedit::draft_and_corrupt", lib=_library)
def _(logits, *_):
    kinds = (torch.int64, torch.int64, torch.uint8, torch.float32, torch.bool)
    *fields, bad = _per_row(logits, *kinds)
    return *fields, logits.new_empty((), dtype=torch.int64), bad


@register_fake("fastedit::joint_threshold_step_", lib=_library)
def _(ids, *_) -> None:
    return None


@register_fake("fastedit::best_outside", lib=_library)
def _(logits, excluded, *_):
    kinds = (torch.int64, torch.float32)
    return tuple(logits.new_empty(excluded.shape[:-1], dtype=kind) for kind in kinds)


@register_fake("fastedit::rewrite_blocks", lib=_library)
def _(ids, keep, insert, fill, planes, *_):
    return [plane.new_empty(plane.shape) for plane in (ids, *planes)]


@register_fake("fastedit::compact", lib=_library)
def _(ids, cu_seqlens, keep, insert, planes, blanks, capacity, *_):
    lengths = cu_seqlens.new_empty(cu_seqlens.shape)
    return [*(plane.new_empty(capacity) for plane in (ids, *planes)), lengths]
