"""The second head that a run begins from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fastedit.heads import NextTokenHead, NextTokenHeadConfig
from fastedit.heads.base import base_of
from fastedit.models.families import NEXT_HEAD


def next_token_head(model: Any, start: Path | None, *, whole: bool) -> NextTokenHead:
    """In fp32: the head in the folder `start`; else the model's own one; else a copy of its output
    embedding.

    whole  whether all of the model trains, in fp32. A head of its own is then the one that is
           returned, and is saved with the model, too

    Raises OSError and ValueError where there is none in `start`, or one of another model.
    """
    own = getattr(model, NEXT_HEAD, None)
    weight = model.get_output_embeddings().weight
    if start is not None:
        head = NextTokenHead.from_pretrained(start)
        head.check_base(model.config)
    elif own is not None:
        vocab, hidden = own.weight.shape
        head = NextTokenHead(NextTokenHeadConfig(hidden, vocab, base_of(model.config)))
        head.load_state_dict({"out.weight": own.weight.detach()})
    else:
        head = NextTokenHead.of(model)
    head = head.float().to(weight.device).train()
    if whole and own is not None:
        own.weight = nn.Parameter(head.out.weight.detach())
        head.out.weight = own.weight
    return head
