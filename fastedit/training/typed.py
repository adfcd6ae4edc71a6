"""Option values as their fields declare them, also where YAML reads another type."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

_MUST_BE = {
    "int": "an integer, such as 8",
    "float": "a number, such as 0.5",
    "bool": "true or false",
    "str": "a text",
    "tuple[str, ...]": "a list of texts, such as [a, b]",
    "tuple[int, ...]": "a list of integers, such as [7, 8]",
}


def set_types(options: Any) -> None:
    """Convert the fields of a dataclass in place: 1e-4 read as a text, off as False, a path.

    A field is of a type above, or of one and None. Raises ValueError that names the option, the
    value and what it must be.
    """
    for field in fields(options):
        kind, _, optional = str(field.type).partition(" | ")
        value = getattr(options, field.name)
        if kind not in _MUST_BE or (optional and value is None):
            continue
        try:
            value = _typed(kind, value)
        except (TypeError, ValueError):
            raise ValueError(f"{field.name}={value!r} must be {_MUST_BE[kind]}") from None
        object.__setattr__(options, field.name, value)  # it is frozen


def _typed(kind: str, value: Any) -> Any:
    flag, text = isinstance(value, bool), isinstance(value, str)
    number = isinstance(value, (int, float)) and not flag
    if kind == "bool" and flag:
        return value
    if kind == "int" and number and not isinstance(value, float):
        return value
    if kind == "float" and (number or text):
        return float(value)
    if isinstance(value, os.PathLike):
        value, text = os.fspath(value), True
    if kind == "str" and (text or number):
        return str(value)
    if kind == "str" and flag:
        return "on" if value else "off"
    if kind == "tuple[str, ...]" and text:
        return (value,)
    if kind.startswith("tuple") and isinstance(value, (list, tuple)):
        return tuple(_typed(kind[len("tuple[") : -len(", ...]")], item) for item in value)
    raise TypeError
