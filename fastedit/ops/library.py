"""The C++ library of the CPU (`csrc/`): loaded through its C ABI, which takes pointers and sizes.

An operation's `cpp.py` packs the argument block of `csrc/fastedit.h` that is its own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.logits import LOGIT_DTYPES

DEVICES = ("cpu",)
ABI = 10
NO_MEMORY = -2  # FE_NO_MEMORY
LIBRARY = Path(__file__).with_name(
    "libfastedit_cpu.dylib" if sys.platform == "darwin" else "libfastedit_cpu.so"
)
LOGITS = "P3qP2q"  # fe_logits, in the machine's own sizes and alignment
NUMBERS = "P2q"  # fe_integers, fe_floats
_DTYPES = {dtype: code for code, dtype in enumerate(LOGIT_DTYPES)}


def why_not(device: str = "cpu") -> str | None:
    if device not in DEVICES:
        return f"serves tensors on the CPU, not on {device}"
    if not LIBRARY.exists():
        return "not compiled: no C++ compiler was found when fastedit was installed"
    try:
        load()
    except OSError as error:
        return f"does not load: {error}"
    return None


def instruction_set() -> str:
    """The vector instructions in use: "avx512", "avx2" or "portable"."""
    return load().fe_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Use other vector instructions. Raises ValueError where processor or build lack them."""
    if load().fe_use_instruction_set(name.encode()):
        raise ValueError(f"this processor or this build of fastedit does not have {name!r}")


@cache
def load() -> ctypes.CDLL:
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


def logits_fields(logits: Tensor, forbid: tuple[int, ...]) -> tuple[int, ...]:
    """`fe_logits` of [B, L, V], or of [R, V] as one block; the last dimension is dense."""
    block, row, _ = (0, *logits.stride())[-3:]
    ids, vocab = ctypes.addressof(_id_array(forbid)), logits.shape[-1]
    return logits.data_ptr(), vocab, block, row, ids, len(forbid), _DTYPES[logits.dtype]


@cache
def _id_array(forbid: tuple[int, ...]) -> ctypes.Array:
    return (ctypes.c_int64 * len(forbid))(*forbid)


def check(status: int) -> None:
    if status == NO_MEMORY:
        raise MemoryError("not enough memory for texts of this length: give shorter ones")
    if status:
        raise RuntimeError("the C++ back end refused arguments that passed the contract's checks")


def numbers_fields(numbers: Tensor | None, length: int) -> tuple[int, int, int]:
    """fe_integers or fe_floats of a tensor [B, L], or of [B * L] whose blocks lie end to end."""
    if numbers is None:
        return 0, 0, 0
    *block, row = numbers.stride()
    return numbers.data_ptr(), block[0] if block else length * row, row


def take_step(
    name: str,
    blocks: Blocks,
    logits: Tensor,
    forbid: tuple[int, ...],
    *,
    read: Sequence[Tensor],
    numbers: Sequence[int] = (),
    written: Sequence[Tensor | None],
) -> None:
    """Call the step `name`. Behind logits and blocks its argument block has addresses of what is
    `read`, `numbers`, and addresses of what is `written`, per block or per position; None: NULL."""
    may, *settings = (tensor.contiguous() for tensor in (blocks.may, *read))
    planes = blocks.flags, blocks.counts
    flags, counts = (p if p.stride(1) == 1 else p.contiguous() for p in planes)
    ids, *others = (None if t is None else t.contiguous() for t in (blocks.ids, *written))
    assert ids is not None
    arguments = _step_arguments(len(settings), len(numbers), len(others)).pack(
        *logits_fields(logits, forbid),
        *ids.shape,
        ids.data_ptr(),
        may.data_ptr(),
        flags.data_ptr(),
        flags.stride(0),
        counts.data_ptr(),
        counts.stride(0),
        blocks.mask_token_id,
        *map(Tensor.data_ptr, settings),
        *numbers,
        *(0 if tensor is None else tensor.data_ptr() for tensor in others),
    )
    check(getattr(load(), name)(arguments, torch.get_num_threads()))
    given = blocks.ids, *planes, *written
    for tensor, dense in zip(given, (ids, flags, counts, *others), strict=True):
        if tensor is not None and dense is not None and dense is not tensor:
            tensor.copy_(dense)


@cache
def _step_arguments(read: int, numbers: int, written: int) -> Struct:
    """fe_logits, fe_blocks, and what is a step's own."""
    return Struct(f"{LOGITS}2q3PqP2q{read}P{numbers}q{written}P")
