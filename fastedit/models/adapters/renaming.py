"""Adapters of a model whose modules had other names where they were trained."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from .folder import Adapter
from .names import own_prefix


def renamed(
    adapter: Adapter, tensors: dict[str, Tensor], native: Callable[[str], str]
) -> tuple[Adapter, dict[str, Tensor]]:
    """An adapter under the names of this model; as it is where it has them already.

    tensors  of its file, under bare names
    native   from the name that a tensor was trained with to this model's

    Patterns of its config are about the names that it was trained with: they give way to names,
    those of the modules that the file has something of. Raises ValueError for options that cannot.
    """
    names = {name: native(name) for name in tensors}
    if all(name == new for name, new in names.items()):
        return adapter, tensors
    prefix = own_prefix(adapter.config)
    modules = dict(_modules(names, prefix))
    config = copy.deepcopy(adapter.config)
    saved = {native(name).rpartition(".")[0] for name in names if f".{prefix}" not in name}
    if getattr(config, "target_modules", None):
        config.target_modules = set(modules.values())
    if getattr(config, "modules_to_save", None):
        config.modules_to_save = sorted(saved)
    if getattr(config, "feedforward_modules", None):
        ends = dict.fromkeys(config.feedforward_modules)
        config.feedforward_modules = {new for name, new in modules.items() if _fitting(ends, name)}
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(config, option, None)
        if patterns:
            fitting = {new: _fitting(patterns, name) for name, new in modules.items()}
            setattr(config, option, {new: patterns[key[0]] for new, key in fitting.items() if key})
    for option in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if getattr(config, option, None) is not None:
            setattr(config, option, None)  # the file's own names say which modules these left
    for option in ("target_parameters", "trainable_token_indices"):
        if getattr(config, option, None):
            raise ValueError(
                f"adapter {adapter.name!r} has {option} for the names of another implementation "
                "of this model: train it on the model that fastedit loads"
            )
    return replace(adapter, config=config), {names[name]: x for name, x in tensors.items()}


def _modules(names: dict[str, str], prefix: str) -> Iterable[tuple[str, str]]:
    """(trained, own) names of the modules that an adapter is beside."""
    for name, new in names.items():
        module, own, _ = name.rpartition(f".{prefix}")
        if own:
            yield module, new.rpartition(f".{prefix}")[0]


def _fitting(patterns: dict[str, Any], name: str) -> list[str]:
    """The first of `patterns` that `name` fits, as peft reads them, in a list; none: []."""
    return [key for key in patterns if re.match(rf"(.*\.)?({key})$", name)][:1]
