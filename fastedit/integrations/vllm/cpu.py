"""vLLM's engine on a CPU: what has to be so before vLLM is imported.

vLLM's model runner is written in Triton kernels, and Triton has no CPU back end of its own: its
interpreter runs them. `python -m fastedit.integrations.vllm serve MODEL` is vLLM's command line
behind `enable`; a program of one's own calls it first, before it imports vLLM.

Source: vLLM 0.32.0, `triton_utils/importing.py`.
"""

from __future__ import annotations

import os
import sys

ENVIRONMENT = {
    "TRITON_INTERPRET": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "1",
}


def enable() -> None:
    """Let vLLM find an interpreter of Triton; may be called again.

    Raises RuntimeError where vLLM is imported already, and ImportError without Triton.
    """
    if "vllm.triton_utils" in sys.modules:
        raise RuntimeError(
            "fastedit.integrations.vllm.cpu.enable() must come before the first import of vllm"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from triton.backends import Backend, backends
    except ImportError as error:
        raise ImportError(f"vLLM's model runner needs triton: pip install triton. {error}") from error
    backends.setdefault("cpu", Backend(compiler=None, driver=_Interpreter))  # type: ignore[arg-type]


class _Interpreter:
    """Stands where Triton looks for the driver of a device."""

    @staticmethod
    def is_active() -> bool:
        return True
