"""Which back end serves which operation.

A back end is a module with functions named like the operations and one `why_not()`, which returns
None where the back end can run and else the reason. The first back end in `ORDER` that can run and
has the operation serves it; `FASTEDIT_BACKEND` or `use_backend` overrules that choice.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType

# Fastest first. The names are those of the design; a name without a module is reported as such.
ORDER = {
    "triton": "fastedit.ops.triton",
    "cpp": "fastedit.ops.cpp",
    "reference": "fastedit.ops.reference",
}
OPERATIONS = ("row_stats", "joint_threshold_step_")

_chosen: ContextVar[str | None] = ContextVar("fastedit_backend", default=None)


def implementation(op: str) -> Callable:
    """The function that serves `op` now. Raises RuntimeError where the demanded back end cannot."""
    name = _chosen.get() or os.environ.get("FASTEDIT_BACKEND")
    if name:
        _check(name)
        return getattr(_modules()[name], op)
    for name in ORDER:
        module = _modules()[name]
        if isinstance(module, ModuleType) and hasattr(module, op):
            return getattr(module, op)
    raise AssertionError("the reference serves every operation")


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every operation from back end `name` ("reference", "cpp", "triton") inside the block.

    Raises ValueError for an unknown name and RuntimeError where that back end cannot run.
    """
    _check(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def backend_report() -> dict[str, dict[str, str]]:
    """Per operation: the back end in use, and for each other one why it does not serve here."""
    report = {}
    for op in OPERATIONS:
        serving = implementation(op).__module__
        report[op] = {
            name: "in use" if ORDER[name] == serving else _reason(name, op) for name in ORDER
        }
    return report


def _reason(name: str, op: str) -> str:
    module = _modules()[name]
    if isinstance(module, str):
        return module
    return "available, not chosen" if hasattr(module, op) else f"does not have {op}"


def _check(name: str) -> None:
    if name not in ORDER:
        raise ValueError(f"unknown back end {name!r}; choose one of {', '.join(ORDER)}")
    module = _modules()[name]
    if isinstance(module, str):
        raise RuntimeError(f"back end {name!r} cannot run here: {module}")


_loaded: dict[str, ModuleType | str] = {}


def _modules() -> dict[str, ModuleType | str]:
    """Back end name -> its module, or the reason why it cannot run. Looked up once."""
    if not _loaded:
        for name, path in ORDER.items():
            try:
                module = importlib.import_module(path)
                _loaded[name] = module.why_not() or module
            except ModuleNotFoundError as error:
                missing = (
                    "not part of this release" if error.name == path else f"needs {error.name}"
                )
                _loaded[name] = missing
    return _loaded
