"""Training state in one safetensors file, written so that a crash leaves the old or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary path)`, flush it to disk, then rename it to `path`."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_state(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    facts: dict[str, Any],
) -> None:
    """Weights, optimiser tensors and JSON-able `facts` (step, recipe) to `path`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, entry in optimizer.state_dict()["state"].items():
            for name, tensor in entry.items():
                tensors[f"optimizer.{number}.{index}.{name}"] = tensor
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_state(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Fill `model` and `optimizers`, made as they were when saved; returns the facts.

    Raises RuntimeError when the names or shapes of the weights differ.
    """
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(weights)
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            owner, _, rest = rest.partition(".")
            if kind == "optimizer" and int(owner) == number:
                index, _, entry = rest.partition(".")
                states.setdefault(int(index), {})[entry] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    return facts
