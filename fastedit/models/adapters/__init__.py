"""Adapters of peft: every tensor of the file ends up in the weights, or an error names it."""

from .control_tokens import save_control_tokens, tell_control_tokens
from .folder import Adapter, read_adapter
from .merging import merge_adapter
from .tokenizer import adapted_tokenizer

__all__ = [
    "Adapter",
    "adapted_tokenizer",
    "merge_adapter",
    "read_adapter",
    "save_control_tokens",
    "tell_control_tokens",
]
