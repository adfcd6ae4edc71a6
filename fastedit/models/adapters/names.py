"""Which tensor of an adapter's file is which tensor of the adapted model: all of them, or none."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .folder import Adapter, shown

ROOT = "base_model.model."  # what peft puts before the names of the model it wraps
ADAPTER = "default"  # what the adapter is called inside peft
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def bare(name: str) -> str:
    """`name` as the model itself has it, without what peft, compile or FSDP put before it."""
    return _WRAPPERS.sub("", name).removeprefix("module.").removeprefix(ROOT)


def by_bare_name(adapter: Adapter, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under bare names. Raises ValueError where two become one."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if bare(name) in found:
            raise ValueError(f"adapter {adapter.name!r} has {bare(name)} twice, again as {name}")
        found[bare(name)] = tensor
    return found


def match(
    adapter: Adapter,
    tensors: dict[str, Tensor],
    required: dict[str, Tensor],
    own: dict[str, Tensor],
) -> dict[str, Tensor]:
    """`tensors` (bare names) under the names that peft loads.

    required  what peft would save of this adapter on this model
    own       the model's tensors inside peft, which a file may hold too (resized embeddings)

    Raises ValueError that names every tensor that has no place, another shape, or is missing. Kinds
    of modules that the config targets and the file does not know at all are left as they are, with
    a warning.
    """
    prefix = own_prefix(adapter.config)
    found: dict[str, Tensor] = {}
    unused, shapes = [], []
    for name, tensor in tensors.items():
        known = [c for c in _candidates(name, prefix) if c in required or c in own]
        if known and known[0] in found and torch.equal(found[known[0]], tensor):
            continue  # peft saves resized embeddings that are modules_to_save twice
        if not known or known[0] in found:
            unused.append(name)
            continue
        expected = required.get(known[0], own.get(known[0]))
        assert expected is not None
        if tensor.shape != expected.shape:
            shapes.append(f"{name} is {list(tensor.shape)}, here {list(expected.shape)}")
        found[known[0]] = tensor
    missing = [name for name in required if name not in found]
    absent = _absent_kinds(missing, found, prefix) if found else set()
    if isinstance(getattr(adapter.config, "init_lora_weights", True), str):
        absent = set()  # some of these change the weights they are put beside
    missing = [name for name in missing if _kind(name, prefix) not in absent]
    _raise_for(adapter, len(tensors), unused, shapes, [bare(name) for name in missing])
    if absent:
        warnings.warn(
            f"adapter {adapter.name!r} targets {shown(sorted(absent))} too, of which its file has "
            "nothing: they stay as they are",
            stacklevel=4,
        )
    return found


def _raise_for(
    adapter: Adapter, total: int, unused: list[str], shapes: list[str], missing: list[str]
) -> None:
    problems = []
    if unused:
        problems.append(
            f"{len(unused)} of its {total} tensors have no place in it: {shown(unused)}"
        )
    if shapes:
        problems.append(f"wrong shape: {shown(shapes)}")
    if missing:
        problems.append(f"missing: {shown(missing)}")
    if problems:
        raise ValueError(
            f"adapter {adapter.name!r} does not fit this model; {'; '.join(problems)}. "
            + remedy(adapter)
        )


def remedy(adapter: Adapter) -> str:
    """What to do where an adapter is one of another model, or a file is not whole."""
    base = getattr(adapter.config, "base_model_name_or_path", None)
    trained = f"on {base!r}, says its config" if base else "on"
    return f"Load it with the checkpoint it was trained {trained}, or save it again with peft"


def own_prefix(config: Any) -> str:
    """What the names of an adapter's own tensors begin with, such as "lora_"."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "lora_")


def _candidates(name: str, prefix: str) -> Iterable[str]:
    """Names that peft may know the tensor `name` by, the likeliest first.

    Files differ in whether they name the adapter (`lora_A.default.weight`), the head's trunk
    (`model.`), and the wrapper around a weight that is replaced.
    """
    variants = [name]
    unnamed = re.sub(rf"(\.{prefix}\w+)\.[^.]+(?=\.weight$|$)", r"\1", name)
    variants += [unnamed, unnamed.removesuffix(".weight")]
    variants.append(re.sub(r"\.modules_to_save\.([^.]+\.)?(?=[^.]+$)", ".", name))
    module, _, last = name.rpartition(".")
    variants.append(f"{module}.base_layer.{last}")
    for variant in variants:
        yield from (variant, ROOT + variant, f"{ROOT}model.{variant}")


def _kind(name: str, prefix: str) -> str:
    """The module that a tensor belongs to, without numbers; the name where it is no adapter's."""
    module, own, _ = bare(name).rpartition(f".{prefix}")
    return re.sub(r"\.\d+(?=\.)", "", module) if own else name


def _absent_kinds(missing: list[str], found: dict[str, Tensor], prefix: str) -> set[str]:
    kinds = {_kind(name, prefix) for name in missing if f".{prefix}" in name}
    return kinds - {_kind(name, prefix) for name in found}
