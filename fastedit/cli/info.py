"""`fastedit info`: what is installed, what this machine has, which back end serves what and why.

With a checkpoint: what that is, and whether this machine has the memory for it.
"""

from __future__ import annotations

import json as json_format
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from fastedit import __version__
from fastedit.cli.errors import one_line
from fastedit.cli.terminal import in_columns, tell

PACKAGES = (
    *("torch", "transformers", "safetensors", "numpy", "triton"),
    *("peft", "reasoning-gym", "flash-attn", "torchao"),
)
FOREIGN = "fastedit"  # a video editor that installs under our import name
NAME_WIDTH = 24


def info_command(
    checkpoint: Annotated[
        str | None,
        typer.Argument(help='A folder, a Hub id or "tiny": what it is, and whether it fits here.'),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a checkpoint on the Hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
) -> None:
    """Show versions, devices, back ends and the embedded checkpoint; or what a checkpoint is."""
    with one_line(RuntimeError, ValueError, OSError):
        report = collect() if checkpoint is None else of_checkpoint(checkpoint, revision)
    if as_json:
        typer.echo(json_format.dumps(report, indent=2))
    elif checkpoint is None:
        _print(report)
    else:
        for name, value in _checkpoint_lines(report).items():
            typer.echo(in_columns(f"{name:<{NAME_WIDTH}}{value}", NAME_WIDTH))


def of_checkpoint(checkpoint: str, revision: str | None = None) -> dict[str, Any]:
    """What `info` shows of a checkpoint, ready for JSON. Reads no weights.

    Bytes in memory; `kv_bytes_per_1000` is null where no keys and values are kept.
    """
    from fastedit.evaluation import machine
    from fastedit.models.described import describe
    from fastedit.models.load import checked_place

    found = describe(checkpoint, revision)
    device, free = machine.free_memory()
    per_position = found.position_bytes
    return {
        "checkpoint": checkpoint,
        "family": found.name,
        "model_type": found.model_type,
        "attention": found.family.attention,
        "shift": found.family.shift,
        "policy": found.family.policy,
        "block_length": found.block_length,
        "layers": found.layers,
        "parameters": found.parameters,
        "dtype": found.dtype,
        "weights_bytes": found.weights,
        "kv_bytes_per_1000": None if per_position is None else 1000 * per_position,
        "device": device,
        "free_bytes": free,
        "fits": found.weights + 1000 * (per_position or 0) <= free,
        "head": head_of(checked_place(checkpoint, revision)),
    }


def head_of(place: str) -> dict[str, Any] | None:
    """What the correction head in a folder is; None where there is none. Raises OSError for one
    that is damaged."""
    from fastedit.heads import CorrectionHead
    from fastedit.models.checkpoint_files import read_headers

    if not CorrectionHead.is_in(place):
        return None
    config = CorrectionHead.read_config(Path(place))
    stored = read_headers([Path(place) / f"{CorrectionHead.name}.safetensors"])
    sizes = {name: getattr(config, name) for name in ("depth", "width", "layer", "attention")}
    return sizes | {"parameters": sum(math.prod(tensor.shape) for tensor in stored.values())}


def _checkpoint_lines(report: dict[str, Any]) -> dict[str, str]:
    """A line per name."""
    kept = report["kv_bytes_per_1000"]
    rows = "the token of its own position" if report["shift"] == 0 else "the next token"
    answer = "fits" if report["fits"] else "does not fit"
    head = report["head"]
    last = {}
    if head is not None:
        last["correction head"] = (
            f"{head['parameters']:,} parameters in {head['depth']} blocks of width "
            f"{head['width']}, on hidden state {head['layer']}"
        )
    return {
        "checkpoint": report["checkpoint"],
        "family": f"{report['family']} ({report['model_type']})",
        "attention": f"{report['attention']}; a row predicts {rows}",
        "rule": report["policy"],
        "block length": str(report["block_length"]),
        "parameters": f"{report['parameters']:,} in {report['layers']} layers",
        "weights": f"{_size(report['weights_bytes'])} in {report['dtype']}",
        "keys and values": (
            "none are kept: no cache of this family is exact"
            if kept is None
            else f"{_size(kept)} per 1,000 positions of a request"
        ),
        "here": f"{answer}: {_size(report['free_bytes'])} are free on {report['device']}",
        **last,
    }


def _size(count: int) -> str:
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:.2f} {name}"


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

    weights = sorted(TINY.glob("model*.safetensors"))
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


def _print(report: dict[str, Any]) -> None:
    def line(name: str, value: str) -> None:
        typer.echo(in_columns(f"{name:<{NAME_WIDTH}}{value}", NAME_WIDTH))

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
    # Operations that are served alike stand together.
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for operation, backends in report["backends"].items():
        alike.setdefault(tuple(backends.items()), []).append(operation)
    for states, operations in alike.items():
        serving = next((name for name, state in states if state == "in use"), "none")
        line("operations", f"{serving} for {', '.join(operations)}")
        for name, state in states:
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
        tell(f"warning: {warning}")
