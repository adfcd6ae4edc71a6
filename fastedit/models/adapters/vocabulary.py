"""A vocabulary that was resized for an adapter: its rows, or an error that says what it was."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .folder import Adapter

_REMEDY = (
    "save the adapter with save_pretrained(folder, save_embedding_layers=True), or train without "
    "resizing: the vocabulary of a checkpoint is often padded beyond its tokenizer"
)


def resize_vocabulary(model: Any, adapter: Adapter, tensors: dict[str, Tensor]) -> None:
    """Give `model` as many embeddings and head rows as `tensors` (bare names) have.

    Raises ValueError where the rows of one of the two are not all there.
    """
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    size = first.weight.shape[0]
    tied = last is None or last.weight is first.weight
    names = [_name(model, module) for module in ([first] if tied else [first, last])]
    rows = {name: _rows(name, tensors) for name in names}
    ids = {name: _trained_ids(name, name == names[0], adapter.config, tensors) for name in names}
    wanted = {found for sizes in rows.values() for found in sizes.values() if found != size}
    if not wanted:
        wanted = {max(found) + 1 for found in ids.values() if found and max(found) >= size}
    if not wanted:
        return
    new = max(wanted)
    for name in names:
        whole = rows[name].get("weight") == new
        if len(wanted) > 1 or not (whole or (new > size and set(range(size, new)) <= ids[name])):
            raise ValueError(
                f"adapter {adapter.name!r}: the vocabulary was resized from {size} to {new}, and "
                f"the file does not have the rows of {name} for it; {_REMEDY}"
            )
    model.resize_token_embeddings(new, mean_resizing=False)


def check_tokenizer(model: Any, adapter: Adapter, tokenizer: Any) -> None:
    """Raise ValueError where `tokenizer` has ids that `model` has no rows for."""
    if tokenizer is None:
        return
    size, ids = model.get_input_embeddings().weight.shape[0], tokenizer.get_vocab().values()
    if ids and max(ids) >= size:
        raise ValueError(
            f"adapter {adapter.name!r}: the vocabulary was resized from {size} to "
            f"{max(ids) + 1} ids by its tokenizer, and the file has no rows for the new ones; "
            f"{_REMEDY}"
        )


def _name(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _rows(module: str, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Rows of the vocabulary in each tensor of `module` that has all of them."""
    found = {}
    for name, tensor in tensors.items():
        parts = name.removeprefix(f"{module}.").split(".")
        if not name.startswith(f"{module}.") or tensor.ndim != 2:
            continue
        if parts[0] == "lora_embedding_A":
            found[parts[0]] = tensor.shape[1]
        elif parts[0] == "lora_B":
            found[parts[0]] = tensor.shape[0]
        elif parts[-1] == "weight" and parts[0] in ("weight", "base_layer", "modules_to_save"):
            found["weight"] = tensor.shape[0]
    return found


def _trained_ids(module: str, first: bool, config: Any, tensors: dict[str, Tensor]) -> set[int]:
    """Ids whose rows of `module` are in the file one by one (peft's trainable tokens)."""
    if not any(
        name.startswith(f"{module}.") and "trainable_tokens_delta" in name for name in tensors
    ):
        return set()
    found = getattr(config, "token_indices", None) or config.trainable_token_indices
    if isinstance(found, dict):
        found = next((ids for key, ids in found.items() if f".{module}".endswith(f".{key}")), [])
    elif not first and not hasattr(config, "token_indices"):
        found = []
    return set(found)
