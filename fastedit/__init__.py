"""fastedit: fast and exact token editing for diffusion language models.

    from fastedit import Decoder

    out = Decoder.from_pretrained("tiny").chat("...")

Names are resolved on first use, so importing the package pulls in neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import fastedit.integrations  # noqa: F401  (native models find their `generate` there)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastedit.config import DecodeConfig
    from fastedit.decoder import Decoder
    from fastedit.integrations.patch import patch
    from fastedit.results import BadLogitsError, DecodeStats

_HOME = {
    "BadLogitsError": "fastedit.results",
    "DecodeConfig": "fastedit.config",
    "DecodeStats": "fastedit.results",
    "Decoder": "fastedit.decoder",
    "patch": "fastedit.integrations.patch",
}
__all__ = ["BadLogitsError", "DecodeConfig", "DecodeStats", "Decoder", "__version__", "patch"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'fastedit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
