"""The C++ back end for tensors on the CPU: loads `csrc/` through its C ABI and passes pointers."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.draft_and_corrupt import DraftKey
from fastedit.ops.joint_threshold import StepState
from fastedit.ops.row_stats import LOGIT_DTYPES, RowStats
from fastedit.ops.sampling import Sampling

DEVICES = ("cpu",)
ABI = 3
LIBRARY = Path(__file__).with_name(
    "libfastedit_cpu.dylib" if sys.platform == "darwin" else "libfastedit_cpu.so"
)
_DTYPES = {dtype: code for code, dtype in enumerate(LOGIT_DTYPES)}


# The argument blocks of csrc/fastedit.h, field by field, in the machine's own sizes and alignment.
_LOGITS = "P3qP2q"
_ROW_STATS = Struct(_LOGITS + "qPd6P")
_ROW_PARTIALS = Struct(_LOGITS + "q5P")
_STEP = Struct(_LOGITS + "2q2Pq11P5P")
_DRAFTS = Struct(_LOGITS + "q5P8qf6P")
_NO_DRAWS = (0,) * 5  # every row is greedy


def why_not(device: str = "cpu") -> str | None:
    if device not in DEVICES:
        return f"serves tensors on the CPU, not on {device}"
    if not LIBRARY.exists():
        return "not compiled: no C++ compiler was found when fastedit was installed"
    try:
        _library()
    except OSError as error:
        return f"does not load: {error}"
    return None


def instruction_set() -> str:
    """The vector instructions in use: "avx512", "avx2" or "portable"."""
    return _library().fe_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Use other vector instructions. Raises ValueError where processor or build lack them."""
    if _library().fe_use_instruction_set(name.encode()):
        raise ValueError(f"this processor or this build of fastedit does not have {name!r}")


def row_stats(
    logits: Tensor, current: Tensor, *, forbid: tuple[int, ...], temperature: float, entropy: bool
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    rows = logits.shape[0]
    current = current.contiguous()
    token = torch.empty_like(current)
    prob = logits.new_empty(rows, dtype=torch.float32)
    prob_current, lse = torch.empty_like(prob), torch.empty_like(prob)
    spread = torch.empty_like(prob) if entropy else None
    bad = torch.empty_like(token, dtype=torch.bool)
    arguments = _ROW_STATS.pack(
        *_logits(logits, forbid),
        rows,
        current.data_ptr(),
        temperature,
        token.data_ptr(),
        prob.data_ptr(),
        prob_current.data_ptr(),
        lse.data_ptr(),
        0 if spread is None else spread.data_ptr(),
        bad.data_ptr(),
    )
    _check(_library().fe_row_stats(arguments, torch.get_num_threads()))
    return RowStats(token, prob, prob_current, lse, spread, bad)


def row_partials(logits: Tensor, *, forbid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.row_partials`; the fields in order, ids within the shard."""
    rows = logits.shape[0]
    kinds = (*[torch.float32] * 3, torch.int64, torch.bool)
    fields = tuple(logits.new_empty(rows, dtype=kind) for kind in kinds)
    pointers = [field.data_ptr() for field in fields]
    arguments = _ROW_PARTIALS.pack(*_logits(logits, forbid), rows, *pointers)
    _check(_library().fe_row_partials(arguments, torch.get_num_threads()))
    return fields


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
    written = (ids, *state.fields())
    settings = (threshold, editing_threshold, max_post_steps, num_to_transfer)
    draws = () if sampling is None else sampling.fields()
    read = (editable, *settings, *draws)
    if all(map(Tensor.is_contiguous, written + read)):
        _step(logits, forbid, mask_token_id, written, read)
        return
    dense = tuple(map(Tensor.contiguous, written))
    _step(logits, forbid, mask_token_id, dense, tuple(map(Tensor.contiguous, read)))
    for tensor, new in zip(written, dense, strict=True):
        if new is not tensor:
            tensor.copy_(new)


def _step(
    logits: Tensor,
    forbid: tuple[int, ...],
    mask_token_id: int,
    written: tuple[Tensor, ...],
    read: tuple[Tensor, ...],
) -> None:
    """`written`: ids and the fields of a state; `read`: the other tensors; all are dense."""
    ids, *state = map(Tensor.data_ptr, written)
    editable, *settings = map(Tensor.data_ptr, read)
    arguments = _STEP.pack(
        *_logits(logits, forbid),
        *written[0].shape,
        ids,
        editable,
        mask_token_id,
        *settings[:4],
        *state,
        *(settings[4:] or _NO_DRAWS),
    )
    _check(_library().fe_joint_threshold_step(arguments, torch.get_num_threads()))


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
    """Contract: `fastedit.ops.draft_and_corrupt`; the fields of `Drafted` in order."""
    rows = logits.shape[0]
    read = [tensor.contiguous() for tensor in (xt, x0, eligible, key.example, key.position)]
    fields = (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.uint8),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty((), dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.bool),
    )
    arguments = _DRAFTS.pack(
        *_logits(logits, forbid),
        rows,
        *[tensor.data_ptr() for tensor in read],
        key.seed,
        key.epoch,
        key.turn,
        mask_token_id,
        mask_below,
        drafted_below,
        visible_below,
        region,
        temperature,
        *[field.data_ptr() for field in fields],
    )
    _check(_library().fe_draft_and_corrupt(arguments, torch.get_num_threads()))
    return fields


def _logits(logits: Tensor, forbid: tuple[int, ...]) -> tuple[int, ...]:
    """`fe_logits` of [B, L, V], or of [R, V] as one block; the last dimension is dense."""
    block, row, _ = (0, *logits.stride())[-3:]
    ids, vocab = ctypes.addressof(_id_array(forbid)), logits.shape[-1]
    return logits.data_ptr(), vocab, block, row, ids, len(forbid), _DTYPES[logits.dtype]


@cache
def _id_array(forbid: tuple[int, ...]) -> ctypes.Array:
    return (ctypes.c_int64 * len(forbid))(*forbid)


def _check(status: int) -> None:
    if status:
        raise RuntimeError("the C++ back end refused arguments that passed the contract's checks")


@cache
def _library() -> ctypes.CDLL:
    """Raises OSError where it cannot be loaded or is that of another release."""
    library = ctypes.CDLL(str(LIBRARY))
    if library.fe_abi_version() != ABI:
        raise OSError(f"{LIBRARY.name} is of another release: install fastedit again")
    library.fe_instruction_set.restype = ctypes.c_char_p
    library.fe_philox.restype = ctypes.c_uint32
    library.fe_philox.argtypes = [ctypes.c_uint64, *[ctypes.c_uint32] * 4]
    library.fe_use_openmp(ctypes.c_void_p(_openmp()))
    return library


def _openmp() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch itself runs on, if it has one."""
    suffix = LIBRARY.suffix
    try:
        # A look-up in a library goes on in those it was linked with.
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu{suffix}"))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None
