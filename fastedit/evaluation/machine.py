"""What this machine is: reported by `info`, and beside every measurement."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def system() -> dict[str, Any]:
    """Operating system, processor and how much of it torch uses."""
    import torch

    return {
        "os": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def devices() -> list[dict[str, Any]]:
    """Accelerators that torch can use; empty on a machine with a CPU only."""
    import torch

    if torch.cuda.is_available():
        return [_cuda_device(index) for index in range(torch.cuda.device_count())]
    if torch.accelerator.is_available():
        return [{"device": str(torch.accelerator.current_accelerator())}]
    return []


def load() -> float | None:
    """How many processes ran or waited in the last minute; None where that is not known."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def hardware(device: Any) -> str:
    """One phrase for the device that a measurement ran on."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_cpu_name()}, {torch.get_num_threads()} threads"
    return str(device)


def free_memory() -> tuple[str, int]:
    """(device that would be decoded on, bytes that are free on it)."""
    import torch

    if torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}", torch.cuda.mem_get_info()[0]
    return "cpu", int(min(_available(), _allowed()))


def _available() -> float:
    """Bytes that programs may still take, as the kernel estimates it, or that are unused."""
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _allowed() -> float:
    """Bytes that the process's cgroup (of version 2) leaves it."""
    try:
        most, used = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        return int(most) - int(used)
    except (OSError, ValueError):  # none, or "max"
        return math.inf


def _cuda_device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "device": f"cuda:{index}",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "bfloat16": torch.cuda.is_bf16_supported(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
