"""The samples that both models are judged on."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastedit.prompts.tokens import resolve_eos
from fastedit.training.data.documents import Document, Form, held_out_documents


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


def read_held_out(survey: Any, model: Any, tokenizer: Any) -> HeldOut:
    """The samples of a `Survey` for one model.

    Raises OSError, and ValueError for data or a model that does not fit.
    """
    form = Form.of(model, tokenizer, survey.max_length)
    found = held_out_documents(survey.source, survey.samples, tokenizer, form, survey)
    if len(found.items) < 2:
        raise ValueError("intervals over samples need at least 2 of them; the data holds 1")
    return HeldOut(
        found.items,
        found.truncated,
        form.block_size,
        form.mask_token_id,
        resolve_eos(None, model, tokenizer),
        form.eos_token_id,
    )
