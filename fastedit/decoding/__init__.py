"""Decoding: prompts in, committed tokens out.

`decoder` is the API; `inputs` and `tokens` check what comes in; `engine` is the block loop over
`canvas` (device state) and `cache` (keys and values); `request`, `text` and `results` are what
comes out.
"""

from fastedit.decoding.config import DecodeConfig
from fastedit.decoding.decoder import Decoder
from fastedit.decoding.results import (
    BadLogitsError,
    DecodeOutput,
    DecodeStalledError,
    DecodeStats,
    Event,
    RequestError,
)

__all__ = [
    "BadLogitsError",
    "DecodeConfig",
    "DecodeOutput",
    "DecodeStalledError",
    "DecodeStats",
    "Decoder",
    "Event",
    "RequestError",
]
