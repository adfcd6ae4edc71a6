"""Rows of the edit stage: answers as they are drafted, and the labels of both heads for them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.ops.edit_labels import UNLABELLED
from fastedit.training.data.edit_rows import edit_row, lay_out
from fastedit.training.noise.draws import ORDER, Draws
from fastedit.training.refinement.options import RefinementOptions
from fastedit.training.refinement.rollouts import Begun, Rollout
from fastedit.training.refinement.rows import Answers


class Text(NamedTuple):
    """A document as its draft begins, and what its answer should become, with the EOS: [m]."""

    begun: Begun
    target: Tensor

    @property
    def prompt(self) -> Tensor:
        return self.begun.ids[: self.begun.prompt]


@dataclass(frozen=True)
class EditStage:
    """How rows of drafts are made, on the CPU. rule: of all drafts, but for its numbers of steps.

    A row is a list of texts, and of their drafts. Answers without an EOS have no end to be taught,
    and are left out.
    """

    rule: Rollout
    mask_token_id: int
    eos_token_id: int
    options: RefinementOptions

    def begin(
        self,
        answers: Answers,
        masks: Tensor,
        draws: Draws,
        edited: Tensor,
        counts: Sequence[int],
        steps: Sequence[int],
    ) -> list[list[Text]]:
        """The texts of the rows `edited` [B].

        counts, steps  of these rows: masks that a forward fills, forwards that edit
        """
        order = draws.per_token(ORDER, 0)
        planes = (answers.clean, answers.opens, answers.whole, masks, order)
        held = [plane[edited].cpu() for plane in (*planes, draws.position, draws.example)]
        numbers = zip(counts, steps, strict=True)
        return [
            self._texts([plane[row] for plane in held], *of_row)
            for row, of_row in enumerate(numbers)
        ]

    def _texts(self, row: Sequence[Tensor], count: int, edits: int) -> list[Text]:
        clean, opens, whole, masks, order, position, example = row
        starts = ((position == 0) & (example >= 0)).nonzero()[:, 0].tolist()
        starts.append(int((example >= 0).sum()))  # padding is at the end of a row
        texts = []
        for start, end in itertools.pairwise(starts):
            if not whole[start:end].any():
                continue
            prompt = int(opens[start:end].int().argmax())
            ids, hidden = clean[start:end], masks[start:end]
            last = prompt + int((ids[prompt:] == self.eos_token_id).int().argmax())
            many, target = int(hidden.sum()), ids[prompt : last + 1]
            ids = ids.masked_fill(hidden, self.mask_token_id)
            forwards = max(1, -(-many // count))
            rule = replace(self.rule, mask_steps=forwards, edit_steps=edits, count=count)
            # Padding is dropped behind the masks, and where there are none, here.
            kept = slice(None if many else last + 1)
            begun = Begun(ids[kept], order[start:end][kept], prompt, end - start, rule)
            texts.append(Text(begun, target))
        return texts

    def rows(
        self, rows: list[list[Text]], drafts: list[list[Tensor]], length: int
    ) -> dict[str, Tensor]:
        """ids, positions, document: int64 [n, length]; where: bool, what may have a label."""
        made = [self._row(row, own, length) for row, own in zip(rows, drafts, strict=True)]
        return {name: torch.stack([row[name] for row in made]) for name in made[0]}

    def _row(self, row: list[Text], drafts: list[Tensor], length: int) -> dict[str, Tensor]:
        prompts = [text.prompt for text in row]
        ids, begins = lay_out(prompts, drafts, row_length=length, pad_token_id=self.mask_token_id)
        place, begins = torch.arange(length), begins.long()
        document = torch.bucketize(place, begins[1:], right=True)
        positions = place - begins[document]
        first = torch.tensor([*map(len, prompts), length + 1])  # padding has none
        where = positions >= first[document] - 1
        return {"ids": ids, "positions": positions, "document": document, "where": where}

    def labels(
        self, rows: list[list[Text]], drafts: list[list[Tensor]], length: int
    ) -> tuple[Tensor, Tensor]:
        """Labels of both heads, int64 [n, length] each; all rows at once, as if they were one."""
        texts, flat = [text for row in rows for text in row], [d for own in drafts for d in own]
        sizes = [
            sum(len(text.prompt) + len(draft) for text, draft in zip(row, own, strict=True))
            for row, own in zip(rows, drafts, strict=True)
        ]
        found = edit_row(
            [text.prompt for text in texts],
            flat,
            [text.target for text in texts],
            row_length=sum(sizes),
            pad_token_id=self.mask_token_id,  # no draft holds it; the padding may be EOS
            eos_token_id=self.eos_token_id,
            delete_token_id=self.rule.control_ids[0],
            **self.options.of_labels,
        )
        labels = torch.full((2, len(rows), length), UNLABELLED)
        for number, kind in enumerate(("current_labels", "next_labels")):
            for row, own in zip(labels[number], found[kind].split(sizes), strict=True):
                row[: len(own)] = own
        return labels[0], labels[1]
