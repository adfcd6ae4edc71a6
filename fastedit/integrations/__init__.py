"""Doors into other projects: one thin file each, imported only when it is used."""

from __future__ import annotations

from typing import Any

from fastedit.models.generation import register


def _generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    from fastedit.integrations.styles import generate

    return generate(model, *args, **kwargs)


register(_generate)
