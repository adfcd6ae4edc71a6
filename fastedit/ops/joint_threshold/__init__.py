"""The joint-threshold decision step: mask-to-token commits and token-to-token edits, in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation
from fastedit.ops.logits import check_forbid, check_logits
from fastedit.ops.sampling import Sampling


@dataclass(frozen=True)
class StepState:
    """What a batch of B blocks carries from step to step; one tensor [B] per field.

    post_steps   int32  steps that began without an editable mask
    forwards     int32  steps in which the block took part
    m2t_commits  int32  masks that became tokens
    t2t_edits    int32  tokens that became others, the mask included under strict_reference
    done         bool   the block is finished
    dirty        bool   the last step changed ids, so the KV of its forward is stale
    bad          bool   a row that was looked at had bad logits (see `row_stats`); accumulates
    """

    post_steps: Tensor
    forwards: Tensor
    m2t_commits: Tensor
    t2t_edits: Tensor
    done: Tensor
    dirty: Tensor
    bad: Tensor

    @classmethod
    def new(cls, blocks: int, device: torch.device | str = "cpu") -> StepState:
        """All zero: `blocks` fresh blocks on `device`."""
        counters = (torch.zeros(blocks, dtype=torch.int32, device=device) for _ in range(4))
        flags = (torch.zeros(blocks, dtype=torch.bool, device=device) for _ in range(3))
        return cls(*counters, *flags)

    def fields(self) -> tuple[Tensor, ...]:
        return (
            self.post_steps,
            self.forwards,
            self.m2t_commits,
            self.t2t_edits,
            self.done,
            self.dirty,
            self.bad,
        )

    def __getitem__(self, rows: slice) -> StepState:
        """A view of some blocks; steps on it show in the whole."""
        return StepState(*(field[rows] for field in self.fields()))


def joint_threshold_step_(
    ids: Tensor,
    logits: Tensor,
    editable: Tensor,
    state: StepState,
    *,
    mask_token_id: int,
    threshold: float | Tensor,
    editing_threshold: float | Tensor | None,
    max_post_steps: int | Tensor,
    num_to_transfer: int | Tensor = 1,
    forbid: Sequence[int] = (),
    strict_reference: bool = False,
    sampling: Sampling | None = None,
) -> None:
    """One decision step for a batch of blocks; `ids` and `state` change in place.

    ids                [B, L] int64, the blocks; a position that holds the mask token is undecided
    logits             [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts ids[b, i], no shift
    editable           [B, L] bool; False marks prompt and padding, which never change
    threshold          float or [B] fp32: masks with a confidence above it commit
    editing_threshold  float or [B] fp32: tokens whose rival has a confidence above it are
                       replaced; 0.0 = every change, inf or None = off
    max_post_steps     int or [B] int32: steps that a block may take once it has no mask
    num_to_transfer    int or [B] int32, >= 1: fewer commits than this, and the most confident masks
                       commit until it is reached (ties: lowest position)
    forbid             ids that are never chosen, as in `row_stats`
    strict_reference   let `mask_token_id` be chosen, as the released loop does
    sampling           rows with a temperature draw their token instead of taking the best one

    Commits and edits are judged on the same logits and the old ids; comparisons are strict.
    `mask_token_id` is never chosen, like `forbid`; greedy confidences keep both in the denominator.
    A block without editable masks adds 1 to post_steps. done: nothing changed on a mask-free
    block, or no mask is left and post_steps has reached max_post_steps. A done block, and a
    mask-free block whose budget is already spent (it becomes done), is left as it is, counters and
    dirty included. A row without a finite candidate is neither committed nor edited. `bad` looks at
    the rows that could change: editable masks, and editable tokens unless editing is off.

    Never raises for values on the device and never synchronises. Raises TypeError or ValueError for
    wrong dtypes and shapes, and for host-side thresholds or counts out of range.
    Source: the released LLaDA2.1 decoding loop; LLaDA2.1 report (arXiv 2602.08676), eq. 1-3.
    """
    blocks, length, vocab = check_logits(logits, 3)
    check_forbid(forbid, vocab)
    if ids.dtype != torch.int64 or ids.shape != (blocks, length):
        raise ValueError(
            f"ids must be int64 {[blocks, length]} to match logits; "
            f"got {ids.dtype} {list(ids.shape)}"
        )
    if ids.device != logits.device:
        raise ValueError(f"ids are on {ids.device}, logits are on {logits.device}")
    settings = step_settings(
        ids, editable, state, threshold, editing_threshold, max_post_steps, num_to_transfer
    )
    if sampling is not None:
        _check_per_block(sampling.fields(), _SAMPLING, ids)
    forbidden = {int(token) for token in forbid}
    if not strict_reference and 0 <= mask_token_id < vocab:
        forbidden.add(int(mask_token_id))
    if torch.compiler.is_compiling():
        draws = (None,) * 5 if sampling is None else sampling.fields()
        torch.ops.fastedit.joint_threshold_step_(
            ids,
            logits,
            editable,
            *state.fields(),
            int(mask_token_id),
            *settings.values(),
            sorted(forbidden),
            *draws,
        )
        return
    implementation("joint_threshold_step_", logits.device.type)(
        ids,
        logits,
        editable,
        state,
        mask_token_id=int(mask_token_id),
        **settings,
        forbid=tuple(sorted(forbidden)),
        sampling=sampling,
    )


def step_settings(
    ids: Tensor,
    editable: Tensor,
    state: StepState,
    threshold: float | Tensor,
    editing_threshold: float | Tensor | None,
    max_post_steps: int | Tensor,
    num_to_transfer: int | Tensor,
) -> dict[str, Tensor]:
    """The settings of a step as tensors [B]. Raises ValueError for what does not fit `ids`."""
    fits = editable.dtype == torch.bool and editable.shape == ids.shape
    if not fits or editable.device != ids.device:
        raise ValueError(
            f"editable must be bool {list(ids.shape)} on {ids.device}; got {editable.dtype} "
            f"{list(editable.shape)} on {editable.device}"
        )
    edits = math.inf if editing_threshold is None else editing_threshold
    settings = {
        "threshold": _threshold("threshold", threshold, state),
        "editing_threshold": _threshold("editing_threshold", edits, state),
        "max_post_steps": _count("max_post_steps", max_post_steps, 0, state),
        "num_to_transfer": _count("num_to_transfer", num_to_transfer, 1, state),
    }
    _check_per_block((*state.fields(), *settings.values()), _STEP, ids)
    return settings


def _threshold(name: str, value: float | Tensor, state: StepState) -> Tensor:
    """[B] fp32. A Python float is rounded to fp32 once, then compared in fp32."""
    if isinstance(value, Tensor):
        return value
    if not value >= 0.0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    value = value if value <= _LARGEST else math.inf
    return torch.full_like(state.post_steps, value, dtype=torch.float32)


def _count(name: str, value: int | Tensor, least: int, state: StepState) -> Tensor:
    """[B] int32, as `post_steps` is, or the check that follows says so."""
    if isinstance(value, Tensor):
        return value
    if not least <= value < 2**31:
        raise ValueError(f"{name} must be from {least} to 2**31 - 1, got {value}")
    return torch.full_like(state.post_steps, value)


_LARGEST = torch.finfo(torch.float32).max
# What a step takes per block: names as in messages, and dtypes.
_STEP = (
    ("state.post_steps", torch.int32),
    ("state.forwards", torch.int32),
    ("state.m2t_commits", torch.int32),
    ("state.t2t_edits", torch.int32),
    ("state.done", torch.bool),
    ("state.dirty", torch.bool),
    ("state.bad", torch.bool),
    ("threshold, where it is no number,", torch.float32),
    ("editing_threshold, where it is no number,", torch.float32),
    ("max_post_steps, where it is no number,", torch.int32),
    ("num_to_transfer, where it is no number,", torch.int32),
)
_SAMPLING = (
    ("sampling.temperature", torch.float32),
    ("sampling.top_k", torch.int64),
    ("sampling.top_p", torch.float32),
    ("sampling.seed", torch.int64),
    ("sampling.start", torch.int64),
)


def _check_per_block(
    values: tuple[Tensor, ...], wanted: tuple[tuple[str, torch.dtype], ...], ids: Tensor
) -> None:
    """Back ends take bare addresses: what does not fit must not reach them."""
    shape, device = ids.shape[:1], ids.device
    for value, (name, dtype) in zip(values, wanted, strict=True):
        if value.shape != shape or value.dtype != dtype or value.device != device:
            raise ValueError(
                f"{name} must be {dtype} [{shape[0]}] on {device}, one value per block of ids; "
                f"got {value.dtype} {list(value.shape)} on {value.device}"
            )
