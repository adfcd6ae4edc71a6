"""A config for every prompt of a call, with the block length that the model has."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastedit.config import DecodeConfig
from fastedit.models.families import WHOLE, Family, named_block_length


def one_per_prompt(
    config: DecodeConfig | Iterable[DecodeConfig],
    overrides: dict[str, Any],
    count: int,
    model: Any,
    family: Family,
) -> list[DecodeConfig]:
    """A config for each of `count` prompts, overrides applied and the block length filled in.

    Raises TypeError and ValueError where they, or their number, are wrong.
    """
    if isinstance(config, DecodeConfig):
        return with_block_length([config.replace(**overrides)], model, family) * count
    if not isinstance(config, Sequence):
        raise TypeError(f"config must be a DecodeConfig or a list of them; got {config!r:.80}")
    for index, one in enumerate(config):
        _check_config(one, index)
    if len(config) != count:
        raise ValueError(f"config has {len(config)} entries for {count} prompts: give one each")
    return with_block_length([one.replace(**overrides) for one in config], model, family)


def configs_on_demand(
    config: DecodeConfig | Iterable[DecodeConfig],
    overrides: dict[str, Any],
    model: Any,
    family: Family,
) -> Iterator[DecodeConfig]:
    """The same for prompts that are read as they are needed; configs are read along with them.

    The iterator raises ValueError where there are fewer configs than are asked for.
    """
    if isinstance(config, DecodeConfig):
        return itertools.repeat(*one_per_prompt(config, overrides, 1, model, family))
    if not isinstance(config, Iterable):
        raise TypeError(f"config must be a DecodeConfig or several; got {config!r:.80}")

    def each() -> Iterator[DecodeConfig]:
        count = 0
        for count, one in enumerate(config, 1):
            _check_config(one, count - 1)
            yield from with_block_length([one.replace(**overrides)], model, family)
        raise ValueError(
            f"config has {count} entries, and there is a prompt {count}: give one each"
        )

    return each()


def _check_config(config: Any, index: int) -> None:
    if not isinstance(config, DecodeConfig):
        raise TypeError(f"config of prompt {index} must be a DecodeConfig; got {config!r:.80}")


def with_block_length(
    configs: Sequence[DecodeConfig], model: Any, family: Family
) -> list[DecodeConfig]:
    """`configs` with the block length of `model` where they leave it open; warns of another one.

    Raises ValueError for one that the model has no positions for.
    """
    sizes = getattr(model, "config", None)
    given = [config.block_length for config in configs if config.gives("block_length")]
    positions = getattr(sizes, "max_position_embeddings", None)
    if positions is not None and max(given, default=0) > positions:
        raise ValueError(
            f"block_length={max(given)} is longer than the model's {positions} positions: give a "
            "shorter one, or leave it out"
        )
    trained: Any = named_block_length(family, sizes)
    if trained is None:
        return list(configs)
    if trained == WHOLE:
        return [
            config
            if config.gives("block_length")
            else config.replace(block_length=max(config.max_new_tokens, 1))
            for config in configs
        ]
    asked = set(given) - {trained}
    # With full attention no length is trained; ours has a default of its own.
    blockwise = family.attention == "block_causal"
    if asked and blockwise and getattr(sizes, "trained_block_size", trained):
        warnings.warn(
            f"block_length={', '.join(map(str, sorted(asked)))}, but the model's config has "
            f"block_size={trained}: drafts may be worse in blocks that it was not trained with",
            stacklevel=5,
        )
    return [
        config if config.gives("block_length") else config.replace(block_length=trained)
        for config in configs
    ]
