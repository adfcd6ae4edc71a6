"""Decoding: prompts in, committed tokens out.

`decoder` is the API; `prepare`, `inputs` and `tokens` check what comes in; `engine` is the block
loop over `canvas` (device state) and `cache` (keys and values), for as many requests as `memory`
allows; `request`, `text` and `results` are what comes out.
"""

from fastedit.decoding.config import DecodeConfig
from fastedit.decoding.decoder import Decoder
from fastedit.decoding.results import (
    BadLogitsError,
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
