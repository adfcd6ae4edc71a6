"""Drafts of a model and their targets -> one row that teaches it to edit, as ME-DLM is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.ops.edit_labels import UNLABELLED


def lay_out(
    prompts: Sequence[Tensor], drafts: Sequence[Tensor], *, row_length: int, pad_token_id: int
) -> tuple[Tensor, Tensor]:
    """`input_ids` and `cu_seqlens` of `edit_row`, for drafts without padding."""
    ids, starts = torch.full((row_length,), pad_token_id), [0]
    for prompt, draft in zip(prompts, drafts, strict=True):
        starts.append(starts[-1] + len(prompt) + len(draft))
        ids[starts[-2] : starts[-1]] = torch.cat((prompt, draft))
    if starts[-1] < row_length:
        starts.append(row_length)
    return ids, torch.tensor(starts, dtype=torch.int32)


def edit_row(
    prompts: Sequence[Tensor],
    drafts: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    row_length: int,
    pad_token_id: int,
    eos_token_id: int,
    delete_token_id: int,
    **options: Any,
) -> dict[str, Tensor]:
    """A packed row of `row_length` tokens with the labels of both heads.

    prompts   [p] int64 each, at least one token: the gap before a response is labelled on the token
              before it
    drafts    [n] int64 each, the responses as they were drafted; padding in them is left out
    targets   [m] int64 each, what they should be
    options   of `fastedit.ops.levenshtein_labels`

    input_ids       [row_length]  each prompt with its draft, then padding
    current_labels  [row_length]  per token: what it should be; -100 on prompts and padding
    next_labels     [row_length]  per token: what should follow it, once edited; -100 on the last
                                  token of each draft, on prompts but for their last token, and on
                                  padding
    cu_seqlens      [S + 1] int32  where the S sequences begin, the padding as one of them

    The last token of a draft is its end, whatever it is: its label is `eos_token_id`. So is the
    last one of a target. A draft of nothing but padding has no labels.
    Raises ValueError for numbers of sequences that differ, for an empty prompt, and where the
    sequences are longer than the row.
    Source: renhouxing/ME-DLM, `construct_inputs`, whose cu_seqlens also hold an empty sequence.
    """
    if not len(prompts) == len(drafts) == len(targets):
        raise ValueError(
            f"{len(prompts)} prompts, {len(drafts)} drafts and {len(targets)} targets: there must "
            f"be one of each per sequence"
        )
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {number} is empty: the gap behind it would have no token")
    drafts = [draft[draft != pad_token_id] for draft in drafts]
    targets = [target[target != pad_token_id] for target in targets]
    lengths = [len(prompt) + len(draft) for prompt, draft in zip(prompts, drafts, strict=True)]
    if sum(lengths) > row_length:
        raise ValueError(
            f"the sequences have {sum(lengths)} tokens together, more than the {row_length} of "
            f"the row: give fewer of them, or raise row_length"
        )
    noisy, noisy_cu = _packed([draft[:-1] for draft in drafts])
    current, following = ops.levenshtein_labels(
        noisy,
        noisy_cu,
        *_packed([target[:-1] for target in targets]),
        delete_token_id=delete_token_id,
        eos_token_id=eos_token_id,
        **options,
    )
    ids, begins = lay_out(prompts, drafts, row_length=row_length, pad_token_id=pad_token_id)
    row = {
        "input_ids": ids,
        "current_labels": torch.full((row_length,), UNLABELLED),
        "next_labels": torch.full((row_length,), UNLABELLED),
        "cu_seqlens": begins,
    }
    starts = begins.tolist()
    for number, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True)):
        response, end = starts[number] + len(prompt), starts[number] + lengths[number]
        if len(draft):
            of_noisy = slice(*noisy_cu[number : number + 2].tolist())
            of_gaps = slice(of_noisy.start + number, of_noisy.stop + number + 1)
            row["current_labels"][response : end - 1] = current[of_noisy]
            row["current_labels"][end - 1] = eos_token_id
            row["next_labels"][response - 1 : end - 1] = following[of_gaps]
    return row


def _packed(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts end to end, and where each begins."""
    lengths = torch.tensor([0, *map(len, texts)])
    return torch.cat([torch.empty(0, dtype=torch.int64), *texts]), lengths.cumsum(0)
