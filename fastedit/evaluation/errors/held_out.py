"""The samples that both models are judged on."""

from __future__ import annotations

import itertools
import os
from typing import Any, NamedTuple

from fastedit.files.jsonl import BadLines
from fastedit.prompts.tokens import resolve_eos, resolve_mask
from fastedit.training.data.documents import Document, row_length, tokenise
from fastedit.training.data.problems import TASK_PREFIX
from fastedit.training.data.texts import held_out_examples, read_examples


class HeldOut(NamedTuple):
    """Samples in tokens, and what the models must have in common to be asked about them."""

    documents: list[Document]
    truncated: int
    block_size: int
    mask_token_id: int
    eos_token_ids: frozenset[int]  # that end a decoding
    padding: int  # the EOS that fills a sample up to the end of a block

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """Differs where a model would be asked something else."""
        ids = tuple(document.ids.tobytes() for document in self.documents)
        return ids, self.block_size, self.mask_token_id


def read_held_out(
    source: str | os.PathLike[str],
    count: int,
    model: Any,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    on_bad_line: str = "stop",
    **fields: Any,
) -> HeldOut:
    """The first `count` held-out problems of `task:NAME`, or the first `count` lines of a file.

    max_length  tokens of a sample, whole blocks; longer ones lose their end
    on_bad_line, fields  as in training; see `BadLines` and `read_examples`

    Raises OSError, and ValueError for data or a model that does not fit.
    """
    size = getattr(getattr(model, "config", None), "block_size", None)
    if size is None or tokenizer is None:
        lacks = "block_size in its config" if size is None else "tokenizer"
        raise ValueError(f"drafts cannot be compared: this checkpoint has no {lacks}")
    eos = resolve_eos(None, model, tokenizer)
    padding = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(eos, default=-1)
    if padding < 0:
        raise ValueError("neither the tokenizer nor the model's config names an EOS token")
    max_length = row_length(max_length, model.config.max_position_embeddings, size)
    bad, source = BadLines(on_bad_line), os.fspath(source)
    if source.startswith(TASK_PREFIX):
        examples = held_out_examples(source, tokenizer, count, raw=fields.get("raw", False))
    else:
        lines = read_examples([source], tokenizer, bad, **fields)
        examples = list(itertools.islice(lines, count))
    mask = resolve_mask(None, model, tokenizer)
    found = tokenise(
        examples,
        tokenizer,
        bad,
        block_size=size,
        max_length=max_length,
        eos_token_id=padding,
        mask_token_id=mask,
    )
    if len(found.items) < 2:
        raise ValueError("intervals over samples need at least 2 of them; the data holds 1")
    return HeldOut(found.items, found.truncated, size, mask, eos, padding)
