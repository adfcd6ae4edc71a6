"""Resident memory of this process, as Linux counts it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
PEAK = Path("/proc/self/clear_refs")  # "5" written there begins the peak anew


def resident(field: str = "VmRSS") -> float:
    """MiB. field: "VmHWM" for the peak."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields[field].split()[0]) / 1024


def peak_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """(MiB that come on top of what is resident before, what the call returns)."""
    ctypes.CDLL(None).malloc_trim(0)  # freed, and kept by the allocator
    PEAK.write_text("5")
    before, result = resident(), call()
    return resident("VmHWM") - before, result
