"""A chat to learn, and what became of it, for tests of training data."""

from __future__ import annotations

import torch

EOS, MASK, BLOCK = 0, 1, 32
CHAT = [
    {"role": "user", "content": "2 + 2 ="},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "and 3?"},
    {"role": "assistant", "content": "7"},
]


def texts(document, tokenizer):
    """What is read and what is learnt, special tokens included."""
    ids = torch.from_numpy(document.ids)
    response = torch.from_numpy(document.response)
    return tokenizer.decode(ids[~response]), tokenizer.decode(ids[response])
