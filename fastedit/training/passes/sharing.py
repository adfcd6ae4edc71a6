"""When the clean half may be computed once for all passes of a step, and the draft's own mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.modeling_layers import GradientCheckpointingLayer

from fastedit.training.options import EditOptions


def why_not_shared(model: nn.Module, options: EditOptions) -> str | None:
    """The reason why passes need a clean half each, or None where they may share one."""
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        return "FSDP frees a layer's weights before the gradient of its shared keys comes back"
    drafts = options.t2t == "self" or options.turns != 1
    if drafts and options.draft_adapter == "off":
        return 'draft_adapter="off" drafts with other weights than those in training'
    if any(module.training for module in _dropouts(model)):
        return "dropout is on, and the passes must not differ: set it to 0"
    for layer in _checkpointed(model):
        if not hasattr(layer, "_can_checkpoint_with_cache"):
            return "this transformers drops the keys under gradient checkpointing: upgrade it"
        if getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant", True):
            return (
                "reentrant gradient checkpointing cuts the gradient of shared keys: pass "
                'gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
    return None


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout off inside, everything else as it was."""
    active = [module for module in _dropouts(model) if module.training]
    for module in active:
        module.training = False
    try:
        yield
    finally:
        for module in active:
            module.training = True


@contextlib.contextmanager
def keys_kept(model: nn.Module) -> Iterator[None]:
    """Checkpointed layers take the shared keys: writing those a second time changes nothing.

    transformers would otherwise call a checkpointed layer without a cache.
    """
    layers = _checkpointed(model)
    for layer in layers:
        layer._can_checkpoint_with_cache = True
    try:
        yield
    finally:
        for layer in layers:
            del layer._can_checkpoint_with_cache


def _dropouts(model: nn.Module) -> list[nn.Dropout]:
    return [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0]


def _checkpointed(model: nn.Module) -> list[Any]:
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    return [m for m in layers if m.gradient_checkpointing and m.training]
