"""The names that this module has always had; their homes are `decoder`, `config` and `results`."""

from fastedit.config import DecodeConfig
from fastedit.decoder import Decoder
from fastedit.results import (
    BadLogitsError,
    DecodeBoundError,
    DecodeMemoryError,
    DecodeOutput,
    DecodeStalledError,
    DecodeStats,
    Event,
    RefusedError,
    RequestError,
    Result,
)

__all__ = [
    "BadLogitsError",
    "DecodeBoundError",
    "DecodeConfig",
    "DecodeMemoryError",
    "DecodeOutput",
    "DecodeStalledError",
    "DecodeStats",
    "Decoder",
    "Event",
    "RefusedError",
    "RequestError",
    "Result",
]
