"""transformers streamers: the prompt, then committed ids per block; drafts where wanted."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Streamed(Protocol):
    """What is streamed: a request of the engine."""

    prompt: Tensor
    committed: bool
    on_block: Any
    on_draft: Any

    @property
    def head(self) -> int: ...


def attach_streamer(streamer: Any, requests: list[Any]) -> None:
    """Feed `streamer` (`put`, `end`, optionally `put_draft`) from the one request there is.

    Provisional ids go through `put_draft` only; a streamer with `_takes_logits` gets the block's
    logits there instead of its ids. Raises ValueError for more than one request.
    """
    if len(requests) != 1:
        raise ValueError(f"a streamer takes one prompt at a time, got {len(requests)}")
    streamer.put(requests[0].prompt[None])

    def on_block(request: Streamed, ids: list[int]) -> None:
        if ids:
            streamer.put(torch.tensor(ids))

    def on_draft(request: Streamed, ids: Tensor, logits: Tensor) -> None:
        if request.committed:
            return
        if getattr(streamer, "_takes_logits", False):
            streamer.put_draft(logits=logits[request.head :].float().cpu()[None])
        else:
            streamer.put_draft(value=ids[request.head :].cpu()[None])

    requests[0].on_block = on_block
    if hasattr(streamer, "put_draft"):
        requests[0].on_draft = on_draft
