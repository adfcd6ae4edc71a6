"""`fastedit info`: what is installed, what this machine has, which back end serves what and why."""

from __future__ import annotations

import json as json_format
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fastedit import __version__
from fastedit.cli.errors import one_line
from fastedit.cli.terminal import stdout_console

PACKAGES = (
    *("torch", "transformers", "safetensors", "numpy", "triton"),
    *("peft", "reasoning-gym", "flash-attn", "torchao"),
)
FOREIGN = "fastedit"  # a video editor that installs under our import name
NAME_WIDTH = 24


def info_command(
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
) -> None:
    """Show versions, devices, back ends and the embedded checkpoint."""
    with one_line(RuntimeError, ValueError):
        report = collect()
    if as_json:
        typer.echo(json_format.dumps(report, indent=2))
    else:
        _print(report, stdout_console())


def collect() -> dict[str, Any]:
    """Everything `info` shows, ready for JSON. Loads no model."""
    from fastedit.evaluation import machine
    from fastedit.ops import backend_report

    return {
        "fastedit": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": machine.system(),
        "devices": machine.devices(),
        "backends": backend_report(),
        "attention": attention(),
        "checkpoint": embedded_checkpoint(),
        "warnings": _warnings(),
    }


def attention() -> dict[str, str]:
    """Which attention decodes here; see `fastedit.models.llada2.varlen.report`."""
    import torch

    from fastedit.models.llada2 import varlen

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return varlen.report(found or torch.device("cpu"))


def embedded_checkpoint() -> dict[str, Any]:
    """Whether "tiny" is in this installation, its bytes on disk and its number of parameters."""
    from fastedit.models.load import TINY

    weights = sorted(TINY.glob("*.safetensors"))
    if not weights:
        return {"present": False, "path": str(TINY)}
    files = (file for file in TINY.rglob("*") if file.is_file())
    return {
        "present": True,
        "path": str(TINY),
        "bytes": sum(file.stat().st_size for file in files),
        "parameters": sum(_parameters(file) for file in weights),
    }


def _parameters(weights: Path) -> int:
    from safetensors import safe_open

    with safe_open(weights, framework="np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _warnings() -> list[str]:
    foreign = _version(FOREIGN)
    if foreign is None:
        return []
    return [
        f"the distribution 'fastedit' {foreign} is installed too: another project with the same "
        "import name; this one is 'fastedit-dlm'. Uninstall both, then install fastedit-dlm"
    ]


def _print(report: dict[str, Any], console: Console) -> None:
    def line(name: str, value: str) -> None:
        console.print(f"{name:<{NAME_WIDTH}}{value}", soft_wrap=True, markup=False)

    line("fastedit", report["fastedit"])
    line("python", report["python"])
    for name, version in report["packages"].items():
        line(name, version or "not installed")
    system = report["system"]
    line("os", system["os"])
    line("cpu", f"{system['cpu']} ({system['cpu_capability']})")
    line("threads", f"{system['threads']} of {system['cores']} cores")
    for device in report["devices"]:
        name, *rest = device.items()
        line(name[1], ", ".join(f"{key} {value}" for key, value in rest))
    if not report["devices"]:
        line("accelerator", "none that torch can use")
    checkpoint = report["checkpoint"]
    if checkpoint["present"]:
        size = (
            f"{checkpoint['parameters'] / 1e6:.2f} M parameters, {checkpoint['bytes'] / 1e6:.1f} MB"
        )
        line("checkpoint tiny", size)
    else:
        line("checkpoint tiny", f"missing ({checkpoint['path']})")
    for operation, backends in report["backends"].items():
        serving = next((name for name, state in backends.items() if state == "in use"), "none")
        line(operation, serving)
        for name, state in backends.items():
            if state != "in use":
                line("", f"not {name}: {state}")
    # "in use" may go on with a word of the dtypes it is in use for; those come first.
    for name, state in sorted(
        report["attention"].items(), key=lambda item: item[1][:6] != "in use"
    ):
        used = state.startswith("in use")
        line(
            "attention" if used else "",
            name + state.removeprefix("in use") if used else f"not {name}: {state}",
        )
    for warning in report["warnings"]:
        typer.echo(f"fastedit: warning: {warning}", err=True)
