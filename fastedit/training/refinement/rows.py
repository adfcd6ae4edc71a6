"""Rows of ME-DLM's training: answers, their masks, and the labels of both heads.

A row holds documents, and all of it has one mask rate and one stage, those of its first document:
the mask stage, or the edit stage on drafts. Source: `EditCollator` of renhouxing/ME-DLM,
`utils/edit_trainer.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.ops.edit_labels import UNLABELLED
from fastedit.training.noise.draws import MASK, Draws


class Answers(NamedTuple):
    """What is learnt of a batch; every field [B, L].

    clean   int64  ids; behind the EOS of an answer there is padding alone
    answer  bool   the last response of a document. That of a text without a prompt begins behind
                   its first token
    opens   bool   the first token of an answer
    whole   bool   answers that have their EOS
    """

    clean: Tensor
    answer: Tensor
    opens: Tensor
    whole: Tensor


def read_answers(
    ids: Tensor,
    response: Tensor,
    positions: Tensor,
    example: Tensor,
    *,
    eos_token_id: int,
    pad_token_id: int,
) -> Answers:
    """The answers of a batch of the collator, see there; what stands before them is read alone."""
    _, document = example.unique(return_inverse=True)
    documents = int(document.max()) + 1

    def of_document(values: Tensor, reduce: str) -> Tensor:
        """A value of its document for every token."""
        found = torch.zeros(documents, dtype=torch.int64, device=ids.device)
        found.scatter_reduce_(0, document.flatten(), values.flatten(), reduce, include_self=False)
        return found[document]

    response = response & (positions > 0)
    begins = response & ~torch.nn.functional.pad(response[:, :-1], (1, 0))
    turn = begins.cumsum(1)
    answer = response & (turn == of_document(turn, "amax"))
    ends = answer & (ids == eos_token_id)
    before = ends.cumsum(1) - ends.long()  # EOS tokens to the left of each position
    behind = (before > of_document(before, "amin")) & (example >= 0)
    whole = answer & (of_document(ends.long(), "amax") > 0)
    return Answers(ids.masked_fill(behind, pad_token_id), answer, begins & answer, whole)


def masked(answers: Answers, draws: Draws, rate: Tensor, *, first: bool) -> Tensor:
    """Positions that are masked, each of an answer with the probability `rate` [B] of its row:
    bool [B, L]. first: whether its first one may be, too; in the released code it never is."""
    chosen = answers.answer & (draws.per_token(MASK, 0) < rate[:, None])
    return chosen if first else chosen & ~answers.opens


def mask_labels(clean: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of the mask stage for both heads, int64 [B, L] each.

    Of a masked position its own token; and the same of the position to its left, whose next token
    it is, which is of the same document: no answer is without a token before it.
    """
    current = torch.where(masks, clean, UNLABELLED)
    following = torch.nn.functional.pad(current[:, 1:], (0, 1), value=UNLABELLED)
    return current, following
