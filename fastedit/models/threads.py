"""How many CPU threads torch decodes with: by the size of the model and what the process may use.

OpenMP's threads wait for each other at every operation. For a small model that costs more than it
saves, and beside another busy process everything: a thread that is not running holds up the rest.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

Threads = int | Literal["auto"] | None
# Weights of a model that one thread decodes alone (measured: docs/scaling.md). With threads that
# sleep while they wait, as OMP_WAIT_POLICY=passive has them, two are slower up to the second size.
SMALL, SMALL_PASSIVE = 16_000_000, 100_000_000
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def checked(threads: Threads) -> Threads:
    """`threads` itself. Raises ValueError unless it is "auto", None or a positive integer."""
    number = isinstance(threads, int) and not isinstance(threads, bool) and threads > 0
    if threads is None or threads == "auto" or number:
        return threads
    raise ValueError(
        'threads must be "auto" (by size of the model and cores), None (as torch is set) or a '
        f"number of at least 1; got {threads!r}"
    )


def number_of(threads: Threads, model: Any) -> int | None:
    """Threads for `model`: a function of its size and of the process's cores, not of the load.

    "auto" never takes more than torch is set to use; None leaves that as it is.
    """
    if threads != "auto":
        return threads
    parameters = getattr(model, "parameters", None)
    size = sum(p.numel() for p in parameters()) if parameters else 0
    passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    small = SMALL_PASSIVE if passive else SMALL
    return 1 if size <= small else max(1, min(torch.get_num_threads(), cores()))


def cores() -> int:
    """Whole cores that this process may use: its affinity, and the CPU quota of its cgroup."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return min(mine, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup of version 2, or "max"
        return mine


@contextlib.contextmanager
def using(count: int | None) -> Iterator[None]:
    """Within, torch's operations take `count` threads; None leaves it as it is."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
