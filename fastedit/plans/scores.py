"""The scores of a correction head, from the hidden states of a step's forward."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastedit.heads import CorrectionHead, Head, NextTokenHead
from fastedit.heads.correction import PATTERNS
from fastedit.models.families import NEXT_HEAD, Family
from fastedit.models.load import TINY
from fastedit.models.weights import device_of
from fastedit.plans.call import layers_of
from fastedit.request.slots import Slots

HEADS = CorrectionHead, NextTokenHead


def stored_head(folder: str | os.PathLike[str]) -> Head:
    """The head in `folder`, or that of the embedded checkpoint, "tiny".

    Raises as `Head.from_pretrained` does, and ValueError where there are two.
    """
    place = TINY if folder == "tiny" else folder
    found = [kind for kind in HEADS if kind.is_in(place)]
    if len(found) > 1:
        names = " and ".join(kind.name for kind in found)
        raise ValueError(f"{place} holds {names}: load one and give the object as `head`")
    return (found or HEADS)[0].from_pretrained(place)


def head_for(model: Any, family: Family, head: Head | str | os.PathLike[str]) -> Head:
    """`head`, or the one in that folder in the model's dtype and on its device.

    Raises OSError for a folder without one, TypeError for what is none, and ValueError for one
    that was made for another model.
    """
    device = device_of(model)
    if isinstance(head, (str, os.PathLike)):
        head = stored_head(head).to(device, getattr(model, "dtype", None))
    if not isinstance(head, HEADS):
        raise TypeError(
            "head must be a CorrectionHead, a NextTokenHead, or the folder of one; "
            f"got {head!r:.80}"
        )
    head.check_base(getattr(model, "config", None))
    if isinstance(head, CorrectionHead):
        _check_correction(model, family, head)
    if device_of(head) != device:
        raise ValueError(
            f"the head is on {device_of(head)}, and the model on {device}: call head.to(...)"
        )
    return head


def _check_correction(model: Any, family: Family, head: CorrectionHead) -> None:
    head.config.input_of(len(layers_of(model)))
    wanted, found = PATTERNS[family.attention], head.config.attention
    if head.config.depth and found != wanted:
        raise ValueError(
            f"the head has attention={found!r}, and decoding with {family.attention} attention "
            f"shows it what attention={wanted!r} sees: train one with that"
        )


def heads_of(
    model: Any, head: Head | None, needs: frozenset[str]
) -> tuple[CorrectionHead | None, nn.Module | None]:
    """Of a policy with these needs: the head for scores, and that for the next token, which may be
    the model's own."""
    scoring = head if "score" in needs and isinstance(head, CorrectionHead) else None
    if "next_token" not in needs:
        return scoring, None
    own = getattr(model, NEXT_HEAD, None)
    return scoring, head if isinstance(head, NextTokenHead) else own


class Scorer:
    """Error probabilities of what the live rows of `slots` hold.

    looks  whether the host may read which rows are to be scored. Then those alone are; else all
           are in every forward, since what a graph does is the same in each
    """

    def __init__(self, head: CorrectionHead, slots: Slots) -> None:
        self.head, self.slots, self.looks = head, slots, False

    def of_blocks(self, hidden: Tensor, positions: Tensor, ahead: bool = False) -> Tensor:
        """[n, W] fp32, of W positions that are whole blocks; each block sees itself.

        hidden [n, W, d], positions [n, W]; ahead: some are of blocks that are not active yet.
        """
        length = self.slots.block_length

        def score(hidden: Tensor, positions: Tensor) -> Tensor:
            blocks = (each.unflatten(1, (-1, length)).flatten(0, 1) for each in (hidden, positions))
            hidden, positions = blocks
            return self.head(hidden, None, positions).view(-1, width)

        width = hidden.shape[1]
        return score(hidden, positions).sigmoid() if ahead else self._due(score, hidden, positions)

    def of_canvas(self, hidden: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        """[n, Q] fp32, where a position sees all those before `seen` [n].

        hidden [n, Q, d], positions [n, Q].
        """

        def score(hidden: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
            return self.head(hidden, (positions < seen[:, None])[:, None, None], positions)

        return self._due(score, hidden, positions, seen)

    def _due(self, score: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """`score` of the rows whose scores the decision reads; 0, no error, in all others."""
        live = self.slots.live.blocks
        due = live.policy.reads_scores(live) if self.looks else None
        if due is None or bool(due.all()):
            return score(*rows).sigmoid()
        scores = torch.zeros(rows[0].shape[:2], device=due.device)
        if bool(due.any()):
            scores[due] = score(*(each[due] for each in rows)).sigmoid()
        return scores
