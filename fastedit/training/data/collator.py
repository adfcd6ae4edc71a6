"""Rows of documents -> the batch that a training step takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastedit.training.data.documents import Document
from fastedit.training.data.order import Turn


class Collator:
    """Makes batches of rows; `L` is the length of the longest row, at least a block.

    input_ids [B, L] int64   clean ids, EOS in row padding
    response  [B, L] bool    maskable positions
    positions [B, L] int64   position within the document, 0 in row padding
    example   [B, L] int64   index of the example, -1 in row padding; where a row is repeated, plus
                             a multiple of `examples`, so that its noise is another
    epoch     int            the epoch of all rows

    `examples` is beyond every index of an example whose rows are repeated: of training alone, as
    its noise would else follow from what is validated on.
    """

    def __init__(
        self, documents: Sequence[Document], *, examples: int, eos_token_id: int, block_size: int
    ) -> None:
        self.documents, self.examples = documents, examples
        self.eos_token_id, self.block_size = eos_token_id, block_size

    def __call__(self, turns: Sequence[Turn]) -> dict[str, Any]:
        rows = [[self.documents[number] for number in turn.documents] for turn in turns]
        lengths = [sum(len(document.ids) for document in row) for row in rows]
        shape = len(rows), max(self.block_size, *lengths)
        batch: dict[str, Tensor] = {
            "input_ids": torch.full(shape, self.eos_token_id),
            "response": torch.zeros(shape, dtype=torch.bool),
            "positions": torch.zeros(shape, dtype=torch.int64),
            "example": torch.full(shape, -1),
        }
        for number, (row, turn) in enumerate(zip(rows, turns, strict=True)):
            start = 0
            for document in row:
                place = number, slice(start, start + len(document.ids))
                batch["input_ids"][place] = torch.from_numpy(document.ids).long()
                batch["response"][place] = torch.from_numpy(document.response)
                batch["positions"][place] = torch.arange(len(document.ids))
                batch["example"][place] = document.example + turn.repeat * self.examples
                start += len(document.ids)
        return {**batch, "epoch": turns[0].epoch}
