"""Statistics and step as torch custom operators, `torch.ops.fastedit.*`, for compilers.

`torch.compile(fullgraph=True)` goes around them; each calls the back end that serves it when it
runs. Eager code takes the functions of `fastedit.ops` instead, which call the back end directly: a
trip through torch's dispatcher costs more than a small decision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fastedit.ops.dispatch import implementation
from fastedit.ops.joint_threshold import StepState
from fastedit.ops.sampling import Sampling

# Kept alive: the operators go when it goes.
_library = Library("fastedit", "DEF")
_library.define(
    "row_stats(Tensor logits, Tensor current, int[] forbid, float temperature, bool entropy)"
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


def row_stats(
    logits: Tensor, current: Tensor, forbid: list[int], temperature: float, entropy: bool
) -> tuple[Tensor, ...]:
    """Fields of `RowStats` in order; without `entropy` its place holds an empty tensor."""
    stats = implementation("row_stats", logits.device.type)(
        logits, current, forbid=tuple(forbid), temperature=temperature, entropy=entropy
    )
    return tuple(logits.new_empty(0).float() if f is None else f for f in vars(stats).values())


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


for _device in ("CPU", "CUDA"):
    _library.impl("row_stats", row_stats, _device)
    _library.impl("joint_threshold_step_", joint_threshold_step_, _device)


@register_fake("fastedit::row_stats", lib=_library)
def _(logits, current, forbid, temperature, entropy):
    def empty(dtype: torch.dtype, rows: int) -> Tensor:
        return logits.new_empty(rows, dtype=dtype)

    rows, kinds = logits.shape[0], [torch.int64, *[torch.float32] * 3]
    spread = empty(torch.float32, rows if entropy else 0)
    return (*(empty(kind, rows) for kind in kinds), spread, empty(torch.bool, rows))


@register_fake("fastedit::joint_threshold_step_", lib=_library)
def _(ids, *_) -> None:
    return None
