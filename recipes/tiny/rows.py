"""Problems as rows of ids: prompt, worked solution, EOS up to the end of its block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastedit.prompts.messages import as_chat
from fastedit.prompts.template import render
from fastedit.tasks import Problem, Task


class Rows(NamedTuple):
    """Clean ids [B, L] and the maskable positions of each row, bool [B, L]."""

    clean: Tensor
    response: Tensor


def build_rows(
    task: Task, problems: Sequence[Problem], raw: Sequence[bool], tokenizer: Any, block_size: int
) -> Rows:
    """Rows padded with EOS to the longest, rounded up to whole blocks.

    `raw[i]`: the bare question in place of the chat. The response ends with the block in which its
    EOS falls: decoding stops there, so the EOS run that is supervised is shorter than a block.
    """
    prompts = [
        problem.question if bare else render(as_chat(task.messages(problem.question)), tokenizer)
        for problem, bare in zip(problems, raw, strict=True)
    ]
    # Apart, since generation appends tokens to those of the prompt.
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer([problem.solution for problem in problems], add_special_tokens=False)
    eos = tokenizer.eos_token_id
    rows = [head + tail + [eos] for head, tail in zip(heads, tails["input_ids"], strict=True)]
    ends = torch.tensor([-(-len(row) // block_size) * block_size for row in rows])
    length = int(ends.max())
    clean = torch.tensor([row + [eos] * (length - len(row)) for row in rows])
    starts = torch.tensor([len(head) for head in heads])
    positions = torch.arange(length)
    return Rows(clean, (positions >= starts[:, None]) & (positions < ends[:, None]))
