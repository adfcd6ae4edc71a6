"""Adapters become part of the weights: wrapped by peft, checked name by name, added in fp32."""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .folder import Adapter, shown
from .names import ADAPTER, by_bare_name, match, remedy
from .renaming import renamed
from .vocabulary import check_tokenizer, resize_vocabulary


@torch.no_grad()
def merge_adapter(model: Any, adapter: Adapter, tokenizer: Any = None) -> Any:
    """`model` with `adapter` added to its weights, in the dtype they have; `model` is used up.

    A model whose modules differ from those that adapters were trained on may offer
    `adapted_modules(tensors)`: a context in which it has them (see `experts`); one whose modules
    had other names then, `native_name(name)` (see `renaming`).
    `tokenizer` is what the model will be used with.

    Raises ValueError before any weight is changed: for a tensor without a place, a missing one, a
    wrong shape, a vocabulary of another size, and for what peft cannot merge.
    """
    tensors = by_bare_name(adapter, adapter.tensors())
    if hasattr(model, "native_name"):
        adapter, tensors = renamed(adapter, tensors, model.native_name)
    resize_vocabulary(model, adapter, tensors)
    check_tokenizer(model, adapter, tokenizer)
    kept = {name: (p.dtype, p.requires_grad) for name, p in model.named_parameters()}
    stand_in = getattr(model, "adapted_modules", None)
    modules = stand_in(tensors) if stand_in else contextlib.nullcontext()
    with modules, _refusals_of_peft(adapter, tensors):
        wrapped = _wrapped(model, adapter)
        _load(wrapped, adapter, tensors)
        merged = _merged(wrapped)
    for name, parameter in merged.named_parameters():
        dtype, requires_grad = kept[name]
        parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(requires_grad)
    return merged


def _wrapped(model: Any, adapter: Adapter) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft asks the model for a name that transformers is about to drop, looks for the patterns
        # of parameters among modules, and for targets that the file's own names have settled.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", ".*_pattern keys did not match")
        warnings.filterwarnings("ignore", ".*proceed at your own risk")
        warnings.filterwarnings("ignore", ".*no modules were excluded")
        warnings.filterwarnings("ignore", ".*were set but no (module|parameter) was matched")
        wrapped = PeftModel(model, copy.deepcopy(adapter.config), ADAPTER)
    return wrapped.eval()  # in training, some of peft's layers draw noise or refuse to be read


def _load(wrapped: Any, adapter: Adapter, tensors: dict[str, Tensor]) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    required = get_peft_model_state_dict(wrapped, adapter_name=ADAPTER, save_embedding_layers=False)
    own = {name: x for name, x in wrapped.state_dict().items() if f".{ADAPTER}" not in name}
    found = match(adapter, tensors, required, own)
    result: Any = set_peft_model_state_dict(wrapped, found, adapter_name=ADAPTER)
    # Some releases of peft draw projections anew where a file has them: that is no loss if equal.
    left = [
        name
        for name in result.unexpected_keys
        if name not in required or not torch.equal(required[name].cpu(), found[name])
    ]
    if left:
        raise ValueError(f"peft does not load {shown(left)}")


def _merged(wrapped: Any) -> Any:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers = [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        _merge_in_fp32(layer)
    merged = wrapped.base_model.unload()
    for name, module in list(merged.named_modules()):
        if isinstance(module, AuxiliaryTrainingWrapper):  # left there by some of peft's tuners
            merged.set_submodule(
                name, module.unload_and_optionally_merge_module(False, False, None)
            )
    return merged


def _merge_in_fp32(layer: Any) -> None:
    """Merge `layer` into the weights below it: in their memory, and rounded once, at the end."""
    base = layer.get_base_layer()
    stored = {name: parameter.data for name, parameter in base.named_parameters()}
    for parameter in base.parameters():
        if parameter.dtype.itemsize < 4:
            parameter.data = parameter.data.float()
    layer.merge()
    for name, parameter in layer.get_base_layer().named_parameters():
        stored[name].copy_(parameter.data)
        parameter.data = stored[name]


@contextlib.contextmanager
def _refusals_of_peft(adapter: Adapter, tensors: dict[str, Tensor]) -> Iterator[None]:
    """What peft says about a kind of adapter, as one ValueError that names it and its tensors."""
    try:
        yield
    except (RuntimeError, TypeError, AttributeError, LookupError, ValueError, re.error) as error:
        if isinstance(error, ValueError) and adapter.name in str(error):
            raise
        kind = getattr(adapter.config.peft_type, "value", adapter.config.peft_type)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"adapter {adapter.name!r} of type {kind} cannot be merged into this model: {reason}; "
            f"its file has {shown(list(tensors))}. {remedy(adapter)}"
        ) from error
