"""What a checkpoint is and how much memory it takes, told by its config and the names of its files.

No weight is read, so a model that fits nowhere near this machine can be looked at.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastedit.models.checkpoint_files import check_folder, read_headers
from fastedit.models.families import Family, block_length, family_of
from fastedit.models.hub.strict import StrictLoading
from fastedit.models.load import checked_place, class_of
from fastedit.models.places import named

# As safetensors spells them.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class Description:
    """name: of the family; parameters: how many; dtype: as loaded; weights: bytes of them, loaded.

    position_bytes  of the keys and values of one position, where they are kept; else None
    """

    name: str
    model_type: str
    family: Family
    block_length: int | str
    layers: int
    parameters: int
    dtype: str
    weights: int
    position_bytes: int | None


def describe(path_or_id: str | os.PathLike[str], revision: str | None = None) -> Description:
    """Of a folder, an id on the Hub, of which only the config is fetched, or "tiny".

    Raises TypeError, OSError and ValueError for what cannot be loaded either.
    """
    path = checked_place(path_or_id, revision)
    with named(path, "checkpoint", OSError):
        made, row = class_of(path, revision)
        config: Any = made.config_class.from_pretrained(path, revision=revision)
    with torch.device("meta"):
        model = made(config)
    parameters = sum(p.numel() for p in model.parameters())
    dtype = config.dtype
    if Path(path).is_dir():
        found = read_headers(check_folder(Path(path)))
        if issubclass(made, StrictLoading):
            shapes = {name: stored.shape for name, stored in found.items()}
            model.check_tensors(shapes)
            second = model.second_head(shapes)
            if second is not None:  # which the config does not name
                config.next_token_head = True
                parameters += math.prod(shapes[second])
        if dtype is None:  # the first one's, as transformers takes it
            kinds = [_DTYPES[stored.dtype] for stored in found.values() if stored.dtype in _DTYPES]
            dtype = kinds[0] if kinds else None
    dtype = dtype or torch.float32
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kept = round(2 * config.num_hidden_layers * heads * size * dtype.itemsize)
    return Description(
        name=row.name,
        model_type=config.model_type,
        family=replace(row.family, policy=family_of(model).policy),
        block_length=block_length(row.family, config),
        layers=config.num_hidden_layers,
        parameters=parameters,
        dtype=str(dtype).removeprefix("torch."),
        weights=parameters * dtype.itemsize,
        position_bytes=kept if row.family.exact_cache else None,
    )
