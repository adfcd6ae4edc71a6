"""The data of a run: documents in rows, and what it is validated on."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastedit.training.data.collator import Collator
from fastedit.training.data.documents import (
    Document,
    Documents,
    Form,
    held_out_documents,
    read_documents,
)
from fastedit.training.data.order import Turn
from fastedit.training.data.packing import pack
from fastedit.training.data.problems import TASK_PREFIX
from fastedit.training.runs.amounts import together
from fastedit.training.runs.settings import RunOptions


class RunData(NamedTuple):
    """Documents, their rows, and the validation documents behind the training documents."""

    training: Documents
    validation: list[Document]
    rows: list[list[int]]
    packed: bool
    collator: Collator
    form: Form

    @classmethod
    def read(cls, options: RunOptions, tokenizer: Any, form: Form) -> RunData:
        """Raises OSError, and ValueError for data that cannot be trained on."""
        training = read_documents(options.data, tokenizer, form, options)
        validation: list[Document] = []
        if validates(options):
            source = options.eval_data or options.data[0]
            validation = held_out_documents(
                source, options.eval_examples, tokenizer, form, options
            ).items
        lengths = [len(document.ids) for document in training.items]
        collator = Collator(
            training.items + validation,
            examples=1 + max(document.example for document in training.items),
            eos_token_id=form.eos_token_id,
            block_size=form.block_size,
        )
        rows = pack(lengths, form.max_length)
        packed = together(options, len(rows))
        if not packed:
            rows = pack(lengths, form.max_length, together=False)
        return cls(training, validation, rows, packed, collator, form)

    @property
    def example(self) -> Document | None:
        """The first document with a prompt in validation, or else in training; None: text alone."""
        documents = self.validation or self.training.items
        return next((d for d in documents if d.prompt_length), None)

    def validation_rows(self, multiple: int) -> list[Turn] | None:
        """A row per document, and empty rows up to a multiple, so that all processes take part."""
        if not self.validation:
            return None
        start = len(self.training.items)
        rows = [Turn((start + number,), 0) for number in range(len(self.validation))]
        return rows + [Turn((), 0)] * (-len(rows) % multiple)

    def describe(self) -> str:
        tokens = sum(len(document.ids) for document in self.training.items)
        return (
            f"{len(self.training.items):,} examples of {tokens:,} tokens in {len(self.rows):,} rows"
            f"; {len(self.validation)} for validation"
        )

    def cut_off(self, positions: int) -> str | None:
        """How many examples lose their end, and what would keep it; None: none does.

        positions  that the model has
        """
        cut, form = self.training.truncated, self.form
        if not cut:
            return None
        needed = -(-(self.training.longest + 1) // form.block_size) * form.block_size
        way_out = f"--max-length {needed} keeps them whole"
        if needed > positions:
            way_out = (
                f"the longest needs {needed} tokens, and the model has {positions} positions: "
                "shorten or split them"
            )
        return (
            f"{cut:,} of {len(self.training.items):,} examples are cut off at max_length="
            f"{form.max_length} and are learnt without their end: {way_out}"
        )


def validates(options: RunOptions) -> bool:
    """Whether a run has validation data."""
    given = options.eval_data or options.data[0].startswith(TASK_PREFIX)
    return bool(options.eval_examples and given)
