"""Triton: where its kernels run, CUDA and ROCm devices or a CPU under Triton's interpreter."""

from __future__ import annotations

import contextlib
import importlib.util

import numpy as np
import torch

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


def on(device: torch.device) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, wherever its arguments are."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)
