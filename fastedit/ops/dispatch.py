"""Which back end serves which operation.

What back end B does for the operations of folder F is in `fastedit/ops/F/B.py`, under the name of
the operation. Whether B can run is said by its module in `ORDER`: `DEVICES`, the device types it
serves by default, and `why_not(device)`, which returns None where it can run on tensors there and
else the reason. The first back end in `ORDER` that serves the device, can run and has the operation
is taken; `FASTEDIT_BACKEND` or `use_backend` overrules that choice.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import torch

# Fastest first. The names are those of the design; a name without a module is reported as such.
ORDER = {
    "triton": "fastedit.ops.launch",
    "cpp": "fastedit.ops.library",
    "reference": "fastedit.ops.plain",
}
OPERATIONS = {  # and the folder of each
    "row_stats": "row_stats",
    "row_partials": "row_partials",
    "joint_threshold_step_": "joint_threshold",
    "joint_threshold_indel_step_": "joint_threshold_indel",
    "entropy_bound_step_": "entropy_bound",
    "correction_step_": "correction",
    "remask_step_": "remask",
    "draft_and_corrupt": "draft_and_corrupt",
    "contents": "contents",
    "highest": "highest",
    "within_budget": "within_budget",
    "write_blocks_": "write_blocks",
    "uniform": "uniform",
    "random_ids": "uniform",
    "levenshtein_labels": "edit_labels",
    "lcs_labels": "edit_labels",
    "rewrite_blocks": "compact",
    "compact": "compact",
    "best_outside": "best_outside",
}

_chosen: ContextVar[str | None] = ContextVar("fastedit_backend", default=None)


def implementation(op: str, device: str) -> Callable:
    """The function that serves `op` for tensors on a device of type `device`, now.

    Raises RuntimeError where a back end was demanded that cannot.
    """
    name = demanded()
    if name is None:
        return function(op, _default(op, device))
    reason = _why_not(name, op, device)
    if reason:
        raise RuntimeError(f"back end {name!r} cannot run here: {reason}")
    return function(op, name)


def serves(op: str, device: str) -> bool:
    """Whether the back end in use has `op` for tensors on a device of this type."""
    return _why_not(demanded() or _default(op, device), op, device) is None


def demanded() -> str | None:
    """The back end that `use_backend` or `FASTEDIT_BACKEND` asks for. ValueError if unknown."""
    name = _chosen.get() or os.environ.get("FASTEDIT_BACKEND") or None
    if name is not None and name not in ORDER:
        raise ValueError(_unknown(name))
    return name


def _unknown(name: str) -> str:
    return f"unknown back end {name!r}; choose one of {', '.join(ORDER)}"


class use_backend(contextlib.AbstractContextManager[None]):
    """Serve every operation from back end `name` ("reference", "cpp", "triton") from now on.

    As a context manager, inside the block only. Holds for the calling thread, or asyncio task.
    Raises ValueError for an unknown name and RuntimeError where that back end cannot run on tensors
    of `device` (default: on no kind of device that is here).
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        if name not in ORDER:
            raise ValueError(_unknown(name))
        reasons = [_why_not(name, None, kind) for kind in ([device] if device else _devices())]
        if all(reasons):
            raise RuntimeError(f"back end {name!r} cannot run here: {reasons[0]}")
        self._before = _chosen.set(name)

    def __exit__(self, *error: object) -> None:
        _chosen.reset(self._before)


def backend_report(device: str | None = None) -> dict[str, dict[str, str]]:
    """Per operation: the back end in use for tensors on `device`, and why each other one is not.

    `device`: a device type; default: the GPU where there is one, else the CPU.
    """
    device = device or _devices()[0]
    report: dict[str, dict[str, str]] = {}
    demand = demanded()
    for op in OPERATIONS:
        serving = demand or _default(op, device)
        report[op] = {}
        for name in ORDER:
            reason = _why_not(name, op, device)
            if name == demand and reason:
                reason = f"demanded, but cannot run: {reason}"
            state = "in use" if name == serving else "available, not chosen"
            report[op][name] = reason or state
    return report


@cache
def _default(op: str, device: str) -> str:
    for name, path in ORDER.items():  # the device first: no kernels are imported for another one
        if device in getattr(_module(path), "DEVICES", ()) and not _why_not(name, op, device):
            return name
    return "reference"


@cache
def _why_not(name: str, op: str | None, device: str) -> str | None:
    back_end = _module(ORDER[name])
    if isinstance(back_end, str):
        return back_end
    reason = back_end.why_not(device)
    if reason or op is None:
        return reason
    # Not imported: kernels would be, for a report.
    there = importlib.util.find_spec(_home(op, name))
    return None if there else f"does not have {op}"


@cache
def function(op: str, name: str) -> Callable:
    """What back end `name` has for `op`; ModuleNotFoundError where it has nothing or cannot run."""
    return getattr(importlib.import_module(_home(op, name)), op)


def _home(op: str, name: str) -> str:
    return f"{__package__}.{OPERATIONS[op]}.{name}"


@cache
def _module(path: str) -> ModuleType | str:
    """The module at `path`, or the reason why there is none."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        return "not part of this release" if error.name == path else f"needs {error.name}"


def _devices() -> list[str]:
    return ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
