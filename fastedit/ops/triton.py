"""The operations as Triton kernels: CUDA and ROCm devices, or a CPU under Triton's interpreter."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastedit.ops import reference
from fastedit.ops.draft_and_corrupt import DraftKey
from fastedit.ops.joint_threshold import StepState
from fastedit.ops.row_stats import RowStats
from fastedit.ops.sampling import Sampling

DEVICES = ("cuda",)  # ROCm devices have this type too


def why_not(device_type: str | None = None) -> str | None:
    """Why the kernels cannot serve tensors on `device_type` (None: on any device), or None.

    With TRITON_INTERPRET=1 they run on every device, very slowly: for tests of their logic.
    """
    for package in ("triton", "fastedit_kernels"):
        if importlib.util.find_spec(package) is None:
            return f"needs {package}"
    import triton

    if triton.knobs.runtime.interpret:
        old = (
            triton.__version__.startswith("3.6") and np.lib.NumpyVersion(np.__version__) >= "2.4.0"
        )
        return "the interpreter of Triton 3.6 needs numpy below 2.4" if old else None
    if not torch.cuda.is_available():
        return "no CUDA or ROCm device (TRITON_INTERPRET=1 interprets the kernels on a CPU)"
    if device_type not in (None, *DEVICES):
        return f"the kernels run on CUDA and ROCm devices, not on {device_type}"
    return None


@functools.cache
def _kernels():
    import fastedit_kernels.draft_and_corrupt
    import fastedit_kernels.joint_threshold
    import fastedit_kernels.row_partials
    import fastedit_kernels.row_stats

    return fastedit_kernels


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, wherever its arguments are."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def row_stats(
    logits: Tensor, current: Tensor, *, forbid: tuple[int, ...], temperature: float, entropy: bool
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    with _on(logits.device):
        return RowStats(
            *_kernels().row_stats.row_stats(logits, current, forbid, temperature, entropy)
        )


def row_partials(logits: Tensor, *, forbid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.row_partials`; the fields in order, ids within the shard."""
    with _on(logits.device):
        return _kernels().row_partials.row_partials(logits, forbid)


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
    if ids.numel() == 0:  # blocks without positions still count their steps
        reference.joint_threshold_step_(
            ids,
            logits,
            editable,
            state,
            mask_token_id=mask_token_id,
            threshold=threshold,
            editing_threshold=editing_threshold,
            max_post_steps=max_post_steps,
            num_to_transfer=num_to_transfer,
            forbid=forbid,
            sampling=sampling,
        )
        return
    fields = [field.contiguous() for field in state.fields()]
    with _on(logits.device):
        _kernels().joint_threshold.joint_threshold_step_(
            ids,
            logits,
            editable,
            fields,
            mask_token_id,
            threshold.contiguous(),
            editing_threshold.contiguous(),
            max_post_steps.contiguous(),
            num_to_transfer.contiguous(),
            forbid,
            sampling and [value.contiguous() for value in vars(sampling).values()],
        )
    for field, new in zip(state.fields(), fields, strict=True):
        if new is not field:  # it was strided
            field.copy_(new)


def draft_and_corrupt(
    logits: Tensor,
    xt: Tensor,
    x0: Tensor,
    eligible: Tensor,
    key: DraftKey,
    **settings: Any,
) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.draft_and_corrupt`; the fields of `Drafted` in order."""
    rows = (tensor.contiguous() for tensor in (xt, x0, eligible, key.example, key.position))
    with _on(logits.device):
        return _kernels().draft_and_corrupt.draft_and_corrupt(
            logits, *rows, seed=key.seed, epoch=key.epoch, turn=key.turn, **settings
        )
