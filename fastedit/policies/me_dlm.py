"""ME-DLM: masks are filled in parallel, then tokens are replaced, deleted and inserted.

Source: arXiv 2605.09603; `get_answer`, `mask_diffusion` and `edit_diffusion` of the released
`test.py` (renhouxing/ME-DLM). What differs from it on purpose is listed in docs/policies.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import integer, token_id
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("me_dlm")
@dataclass(frozen=True)
class MEDLM(Policy):
    """Fills masks evenly over `mask_steps`, then refines the text for up to `edit_steps`.

    mask_steps  forwards that fill the masks, the surest first; as many as there are masks suffice
    edit_steps  forwards that edit at most; a sequence that one leaves as it was is done
    max_length  tokens that prompt and response may have together before inserts are refused; None:
                as many as the masks had room for
    per_step    edits and inserts of a forward at most, those with the highest probability; None:
                all
    delete_token_id, pad_token_id, eos_token_id  None: what the model's config or the tokenizer has;
                where they have none, nothing is deleted, no padding dropped, no end written

    In the mask phase the model's first head fills. Behind it, padding is dropped, and the last
    token becomes the EOS. In the edit phase the first head says of each token what it should be, or
    that it should go, and the second head, which predicts the next token, says what should stand
    behind the token before it: where that is something else, it is inserted. Each gap takes one
    insert per forward, and nothing can be inserted behind the last token. A text without a mask
    starts with the edit phase.
    """

    mask_steps: int = integer(48, least=1)
    edit_steps: int = integer(16)
    max_length: int | None = integer(None, least=1, optional=True)
    per_step: int | None = integer(None, least=1, optional=True, static=True)
    delete_token_id: int | None = token_id("delete_token_id", text="<|del|>")
    pad_token_id: int | None = token_id("pad_token_id")
    eos_token_id: int | None = token_id("eos_token_id")

    needs: ClassVar[frozenset[str]] = frozenset({"logit", "next_token"})
    needs_training = "with a second head for the next token, to edit (ME-DLM)"
    variable = rewrites = True
    buffers: ClassVar[Mapping[str, Buffer]] = {
        # Masks that the sequence began with; known from its first forward on.
        "masks": Buffer(torch.int32, per_position=False),
        # Edit step at which it was as both heads want it, from 1 on; else how many there were.
        "done_step": Buffer(torch.int32, per_position=False),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, token in (("pad", self.pad_token_id), ("eos", self.eos_token_id)):
            if token is not None and token == self.delete_token_id:
                raise ValueError(
                    f"delete_token_id and {name}_token_id are both {token}: what deletes a token "
                    "stands for no text, so give delete_token_id an id of its own"
                )

    @property
    def most_tokens(self) -> int | None:
        return self.max_length

    @property
    def padding(self) -> int | None:  # type: ignore[override]
        return self.pad_token_id

    @property
    def control_ids(self) -> tuple[int, ...]:
        return () if self.delete_token_id is None else (self.delete_token_id,)

    @property
    def never_next(self) -> tuple[int, ...]:
        return tuple({i for i in (self._no_text(), self.delete_token_id) if i is not None})

    def _no_text(self) -> int | None:
        """The padding, unless it is also what ends a text."""
        return None if self.pad_token_id == self.eos_token_id else self.pad_token_id

    def sized(self, masks: int, most: int) -> MEDLM:
        """More mask steps than masks would do nothing."""
        steps = max(min(self.mask_steps, masks), 1)
        return dataclasses.replace(self, mask_steps=steps, max_length=most)

    def drafted(self, draft: Tensor) -> Tensor:
        """With an EOS behind it: without one, nothing could be inserted behind its last token."""
        eos = self.eos_token_id
        if eos is None or draft[-1] == eos:
            return draft
        return torch.cat((draft, draft.new_tensor([eos])))

    def _masks(self, view: View) -> Tensor:
        begun = view.counts.forwards > 0
        return torch.where(begun, view.buffers.masks, view.contents().masks.int())

    def _filling(self, view: View) -> Tensor:
        return (self._masks(view) > 0) & (view.counts.forwards < view.parameters.mask_steps)

    def wants_next(self, view: View) -> Tensor:
        return ~self._filling(view)

    def reads(self, view: View, following: bool) -> Tensor:
        editing, (masked, tokens, _, _) = ~self._filling(view)[:, None], view.contents()
        if following:  # of what stands to the left of a position that may change
            return torch.nn.functional.pad((masked | tokens)[:, 1:], (0, 1)) & editing
        return masked | tokens & editing

    def excluded(self, view: View) -> Tensor | None:
        """The padding always, so that it can be weighed apart; what deletes in the mask phase."""
        pad, no_text, delete = (
            -1 if i is None else i
            for i in (self.pad_token_id, self._no_text(), self.delete_token_id)
        )
        if pad == delete == -1:
            return None
        filling = self._filling(view)
        each = torch.where(filling, pad, no_text), torch.where(filling, delete, -1)
        return torch.stack(each, dim=-1)

    def bad(self, stats: Stats, view: View) -> Tensor:
        bad = stats.bad
        if stats.excluded is not None:
            bad = bad | ~(stats.excluded < torch.inf).all(-1) & self.reads(view, False)
        if stats.following is not None:
            bad = bad | _from_left(stats.following.bad, False)
        return bad

    def rule(self, stats: Stats, view: View) -> Write:
        filling, masks = self._filling(view), self._masks(view)
        filled = self._fill(stats, view, masks, filling)
        if stats.following is None:  # no block that is not done edits
            return filled
        edited = self._edit(stats, view, masks)

        def either(a: Tensor | None, b: Tensor | None) -> Tensor:
            assert a is not None and b is not None
            return torch.where(filling if a.ndim == 1 else filling[:, None], a, b)

        return Write(
            either(filled.ids, edited.ids),
            either(filled.done, edited.done),
            {
                "masks": masks,
                "done_step": either(filled.buffers["done_step"], edited.buffers["done_step"]),
            },
            keep=either(filled.keep, edited.keep),
            insert=either(torch.zeros_like(filled.ids, dtype=torch.bool), edited.insert),
            inserted=edited.inserted,
            padding=filling,
        )

    def _fill(self, stats: Stats, view: View, masks: Tensor, filling: Tensor) -> Write:
        p, step, (masked, tokens, _, _) = view.parameters, view.counts.forwards, view.contents()
        token, score = stats.token, stats.prob
        if self.pad_token_id is not None:
            assert stats.excluded is not None and stats.logit is not None
            pads = stats.excluded[..., 0]
            first = (pads == stats.logit) & (token > self.pad_token_id)  # the lowest id on ties
            pad = (pads > stats.logit) | first
            token, score = torch.where(pad, self.pad_token_id, token), score.masked_fill(pad, 0.0)
        ids = torch.where(self.filled(score, masks, view), token, view.ids)

        last = (step + 1 >= p.mask_steps) & filling
        keep = (masked | tokens) & last[:, None]
        if self.pad_token_id is not None:
            keep = keep & (ids != self.pad_token_id)
        if self.eos_token_id is not None:
            behind = keep.flip(-1).cumsum(-1).flip(-1)
            end = keep & (behind == 1) & (p.edit_steps > 0)[:, None]
            ids = torch.where(end, self.eos_token_id, ids)
        empty = ~keep.any(-1)
        done = last & (empty | (p.edit_steps == 0))
        done_step = torch.where(done & empty, p.edit_steps.clamp(max=1), 0)
        buffers = {"masks": masks, "done_step": done_step}
        return Write(ids, done, buffers, keep=keep | ~last[:, None], padding=filling)

    def filled(self, score: Tensor, masks: Tensor, view: View) -> Tensor:
        """Masks [n, L] that this forward fills: of `masks` [n] at the start an even share, those
        with the highest `score` [n, L]."""
        steps = view.parameters.mask_steps
        count = masks // steps + (view.counts.forwards < masks % steps)
        return highest(score, view.contents().masked, count)

    def _edit(self, stats: Stats, view: View, masks: Tensor) -> Write:
        p, ids, (masked, tokens, _, _) = view.parameters, view.ids, view.contents()
        step = view.counts.forwards - p.mask_steps * (masks > 0)
        may = (masked | tokens) & (step < p.edit_steps)[:, None]
        wanted = torch.where(may, stats.token, ids)
        deletes = torch.zeros_like(may)
        if self.delete_token_id is not None:
            deletes = may & (wanted == self.delete_token_id)
        assert stats.following is not None
        left = _from_left(stats.following.token, -1)
        inserted = torch.where(may & (left >= 0), left, wanted)
        changes, inserts = wanted != ids, (inserted != wanted) & ~deletes
        settled = ~((wanted != ids) | (inserted != ids)).any(-1)

        if self.per_step is not None:
            changes, inserts = self._surest(stats, view, changes, inserts)
        wanted, deletes = torch.where(changes, wanted, ids), deletes & changes
        # An insert whose neighbour is not replaced after all may be what stands there already.
        inserts = inserts & (inserted != wanted)
        assert view.lengths is not None and view.limits is not None
        room = view.limits - view.lengths + deletes.sum(-1)
        inserts = inserts & (inserts.cumsum(-1) <= room[:, None])

        unchanged = ~(changes | inserts).any(-1) & (view.sampling.temperature == 0.0)
        left_over = ((masked | tokens) & ~deletes).any(-1)
        done = unchanged | ~left_over | (step + 1 >= p.edit_steps)
        # A sequence that has become empty would be settled in the next step.
        at = torch.where(settled, step + 1, torch.where(left_over, p.edit_steps, step + 2))
        done_step = torch.where(done, torch.minimum(at, p.edit_steps), 0)
        return Write(
            torch.where(deletes, ids, wanted),
            done,
            {"done_step": done_step},
            keep=~deletes,
            insert=inserts,
            inserted=inserted,
        )

    def _surest(
        self, stats: Stats, view: View, changes: Tensor, inserts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of changes and inserts [n, L], the `per_step` with the highest probability; of equal ones
        the first, and a change before an insert."""
        prob = stats.prob
        if self._no_text() is not None:  # it has been left out, and here it counts
            assert stats.excluded is not None and stats.logit is not None
            prob = 1.0 / (1.0 / prob + (stats.excluded[..., 0] - stats.logit).exp())
        assert stats.following is not None
        next_prob = _from_left(stats.following.prob, 0.0)
        scores = torch.stack((prob, next_prob), dim=-1).flatten(1)
        among = torch.stack((changes, inserts), dim=-1)
        assert self.per_step is not None
        best = highest(scores, among.flatten(1), self.per_step)
        changes, inserts = best.view_as(among).unbind(-1)
        return changes, inserts

    def most_forwards(self, length: int) -> int:
        return self.mask_steps + self.edit_steps


def _from_left(values: Tensor, first: float) -> Tensor:
    """What the position to the left has, [n, L]; the first position gets `first`."""
    return torch.nn.functional.pad(values[:, :-1], (1, 0), value=first)
