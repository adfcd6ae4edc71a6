"""Pickling of classes that are made for a row of the table, and stand in no module."""

from __future__ import annotations

import copyreg
from typing import Any

from fastedit.models.families import row_of


class ByRow(type):
    """Metaclass of the classes of a `row` and a model type, by which pickle finds them again."""


def _reduced(made: Any) -> tuple[Any, tuple[str, str, bool]]:
    config = getattr(made, "config_class", None) or made
    return _found, (config.row.architectures[0], config.model_type, made is config)


def _found(architecture: str, kind: str, of_config: bool) -> Any:
    """Raises ValueError where no row is of that architecture."""
    from .modeling import model_class

    row = row_of({"architectures": [architecture], "model_type": kind})
    if row is None:
        raise ValueError(
            f"what was pickled is a {architecture}, which is no row of the table: add it with "
            "fastedit.models.families.register before it is read"
        )
    made = model_class(row, kind)
    return made.config_class if of_config else made


copyreg.pickle(ByRow, _reduced)  # type: ignore[arg-type]
