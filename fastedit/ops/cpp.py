"""The C++ back end for tensors on the CPU: loads `csrc/` through its C ABI and passes pointers."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

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


class _Logits(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("vocab", "block_stride", "row_stride")),
        ("forbid", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("forbid_count", "dtype")),
    )


class _RowStats(ctypes.Structure):
    _fields_ = (
        ("logits", _Logits),
        ("rows", ctypes.c_int64),
        ("current", ctypes.c_void_p),
        ("temperature", ctypes.c_double),
        *((n, ctypes.c_void_p) for n in "token prob prob_current lse entropy bad".split()),
    )


class _RowPartials(ctypes.Structure):
    _fields_ = (
        ("logits", _Logits),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in "max sum best token bad".split()),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("logits", _Logits),
        *((name, ctypes.c_int64) for name in ("blocks", "length")),
        *((name, ctypes.c_void_p) for name in ("ids", "editable")),
        ("mask_token_id", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "threshold editing_threshold max_post_steps num_to_transfer "
                "post_steps forwards m2t_commits t2t_edits done dirty bad "
                "temperature top_k top_p seed start"
            ).split()
        ),
    )


class _Drafts(ctypes.Structure):
    _fields_ = (
        ("logits", _Logits),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in "xt x0 eligible example position".split()),
        *((name, ctypes.c_int64) for name in "seed epoch turn mask_token_id".split()),
        *((n, ctypes.c_int64) for n in "mask_below drafted_below visible_below region".split()),
        ("temperature", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in "z labels kinds p_draft n_err bad".split()),
    )


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
    rows = len(logits)
    current = current.contiguous()
    token = torch.empty(rows, dtype=torch.int64)
    prob, prob_current, lse = (torch.empty(rows, dtype=torch.float32) for _ in range(3))
    spread = torch.empty(rows, dtype=torch.float32) if entropy else None
    bad = torch.empty(rows, dtype=torch.bool)
    arguments = _RowStats(
        _logits(logits[None], forbid),
        rows,
        current.data_ptr(),
        temperature,
        token.data_ptr(),
        prob.data_ptr(),
        prob_current.data_ptr(),
        lse.data_ptr(),
        None if spread is None else spread.data_ptr(),
        bad.data_ptr(),
    )
    _check(_library().fe_row_stats(ctypes.byref(arguments), torch.get_num_threads()))
    return RowStats(token, prob, prob_current, lse, spread, bad)


def row_partials(logits: Tensor, *, forbid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.row_partials`; the fields in order, ids within the shard."""
    rows = len(logits)
    kinds = (*[torch.float32] * 3, torch.int64, torch.bool)
    fields = tuple(torch.empty(rows, dtype=kind) for kind in kinds)
    pointers = [field.data_ptr() for field in fields]
    arguments = _RowPartials(_logits(logits[None], forbid), rows, *pointers)
    _check(_library().fe_row_partials(ctypes.byref(arguments), torch.get_num_threads()))
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
    dense = [tensor.contiguous() for tensor in written]
    read = [editable, threshold, editing_threshold, max_post_steps, num_to_transfer]
    if sampling is not None:
        read += sampling.fields()
    read = [tensor.contiguous() for tensor in read]  # kept alive until the call is over
    pointers = [tensor.data_ptr() for tensor in read]
    arguments = _Step(
        _logits(logits, forbid),
        *ids.shape,
        dense[0].data_ptr(),
        pointers[0],
        mask_token_id,
        *pointers[1:5],
        *[tensor.data_ptr() for tensor in dense[1:]],
        *pointers[5:],
    )
    _check(_library().fe_joint_threshold_step(ctypes.byref(arguments), torch.get_num_threads()))
    for target, source in zip(written, dense, strict=True):
        if target is not source:
            target.copy_(source)


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
    rows = len(logits)
    read = [tensor.contiguous() for tensor in (xt, x0, eligible, key.example, key.position)]
    fields = (
        torch.empty(rows, dtype=torch.int64),
        torch.empty(rows, dtype=torch.int64),
        torch.empty(rows, dtype=torch.uint8),
        torch.empty(rows, dtype=torch.float32),
        torch.empty((), dtype=torch.int64),
        torch.empty(rows, dtype=torch.bool),
    )
    arguments = _Drafts(
        _logits(logits[None], forbid),
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
    _check(_library().fe_draft_and_corrupt(ctypes.byref(arguments), torch.get_num_threads()))
    return fields


def _logits(logits: Tensor, forbid: tuple[int, ...]) -> _Logits:
    """[B, L, V] with a dense last dimension."""
    block, row, _ = logits.stride()
    vocab = logits.shape[-1]
    return _Logits(
        logits.data_ptr(), vocab, block, row, _ids(forbid), len(forbid), _DTYPES[logits.dtype]
    )


@cache
def _id_array(forbid: tuple[int, ...]) -> ctypes.Array:
    return (ctypes.c_int64 * len(forbid))(*forbid)


def _ids(forbid: tuple[int, ...]) -> int:
    return ctypes.addressof(_id_array(forbid))


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
