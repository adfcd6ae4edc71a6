"""LLaDA2.2's rule: joint threshold whose tokens may also be taken out, or have masks put before.

Source: the LLaDA2.2 report, sections 2.2 and 3.1; `JointThresholdInDel` of SGLang 0.5.23, whose
budget of post steps is never given back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import integer, probability, token_id
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register

LLADA2_2 = 156930, 156931  # its DELETE and its INSERT, called SPLIT in its config
MOST_POST_STEPS = 4096  # a block keeps two planes per forward that it may take


class _Decision(NamedTuple):
    """What is written where, bool and int64 [n, L], and which blocks that finishes, bool [n]."""

    write: Tensor
    token: Tensor
    final: Tensor


@register("joint_threshold_indel")
@dataclass(frozen=True)
class JointThresholdInDel(Policy):
    """Masks commit above one threshold, tokens are replaced above another; both strict.

    What is written may be DELETE, which takes the position out, or INSERT, which puts a new mask
    before it and leaves what it holds. The block keeps its length: it is cut at its end, or padded
    with new masks. These count as those that are inserted, not as those that it began with.

    threshold          masks with a higher confidence commit, and at least one more than there are
                       new masks; all of them once no mask is left that the block began with
    editing_threshold  tokens whose rival has a higher confidence are replaced; None = off, 0.0 =
                       every change
    max_post_steps     forwards that see no mask that the block began with; the last of them fills
                       all masks and writes text only
    delete_token_id, insert_token_id  None: what the model's config says (`delete_token_id`,
                       `split_token_id`), else those of LLaDA2.2

    A block that looks as it did before would take the same decision for ever: its least confident
    change is then replaced by the best id that was never written there. The mask may be chosen as
    any other id, but at masks that the block began with, and at the end. A block takes at most its
    length + `max_post_steps` forwards, and one that only writes text.
    """

    threshold: float = probability(0.7)
    editing_threshold: float | None = probability(0.5, optional=True, absent=math.inf)
    max_post_steps: int = integer(16, most=MOST_POST_STEPS, static=True)
    delete_token_id: int | None = token_id("delete_token_id")
    insert_token_id: int | None = token_id("insert_token_id", "split_token_id")

    needs = frozenset({"top_k", "outside"})
    ranks = 4  # one of them is none of mask, DELETE and INSERT
    rewrites = True
    chooses_mask = True
    needs_training = "to insert and delete tokens (LLaDA2.2)"
    buffers: ClassVar[Mapping[str, Buffer]] = {
        "post_steps": Buffer(torch.int32, per_position=False),
        # Masks that the block began with, and the tokens that they became.
        "original": Buffer(torch.bool),
        # The blocks that were seen, and what was written where; -1 is no id.
        "seen": Buffer(torch.int64, initial=-1, history=True),
        "written": Buffer(torch.int64, initial=-1, history=True),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        delete, insert = self.control_ids
        if delete == insert:
            raise ValueError(f"delete_token_id and insert_token_id are both {delete}")

    @property
    def control_ids(self) -> tuple[int, ...]:
        given = self.delete_token_id, self.insert_token_id
        return tuple(
            known if one is None else one for one, known in zip(given, LLADA2_2, strict=True)
        )

    def rule(self, stats: Stats, view: View) -> Write:
        kept, forwards = view.buffers, view.counts.forwards
        masked = view.contents().masked
        original = torch.where((forwards == 0)[:, None], masked, kept.original)
        post = kept.post_steps + ~(masked & original).any(-1)
        write, token, final = self._decide(stats, view, masked, masked & original, post)

        delete, insert = self.control_ids
        result = torch.where(write, token, view.ids)
        acts = (write & ((token == delete) | (token == insert))).any(-1)[:, None]
        keep, inserts = ~(acts & (result == delete)), acts & (result == insert)
        now = torch.arange(kept.seen.shape[1], device=forwards.device) == forwards[:, None]
        now = now[:, :, None]
        return Write(
            torch.where(keep & ~inserts, result, view.ids),
            final | ~write.any(-1),
            {
                "post_steps": post,
                "original": original,
                "seen": torch.where(now, view.ids[:, None], kept.seen),
                "written": torch.where(now, torch.where(write, token, -1)[:, None], kept.written),
            },
            keep=keep,
            insert=inserts,
        )

    def _decide(
        self, stats: Stats, view: View, masked: Tensor, first: Tensor, post: Tensor
    ) -> _Decision:
        """first: masks that the block began with, [n, L]; post: post steps so far, this included"""
        assert stats.top_tokens is not None and stats.top_probs is not None
        p, mask, ids = view.parameters, view.mask_token_id, view.ids
        token, prob = stats.token, stats.prob
        begun = first.any(-1)
        final = view.counts.forwards >= view.length + self.max_post_steps
        final = final | (post >= self.max_post_steps if self.max_post_steps else ~begun)

        # The best id that is not the mask, for masks that would stay one.
        second = (stats.top_tokens[..., :1] == mask).long()
        other, its_prob = (
            best.gather(-1, second)[..., 0] for best in (stats.top_tokens, stats.top_probs)
        )
        resolve = first & (token == mask) & ~final[:, None] & (other >= 0)
        token, prob = torch.where(resolve, other, token), torch.where(resolve, its_prob, prob)

        need = 1 + view.contents().masks - first.sum(-1)
        chosen = highest(prob, masked, need, above=p.threshold)
        if not self.max_post_steps:
            final = final | ~(first & ~chosen).any(-1)
        fill = torch.where((final | ~begun)[:, None], masked, chosen)
        edit = view.contents().tokens & (prob > p.editing_threshold[:, None])
        write = fill | (edit & (token != ids))

        token = torch.where(final[:, None], self._text(stats, view, token), token)
        changing = write & (token != ids)
        again = (view.buffers.seen == ids[:, None]).all(-1).any(-1) & ~final & changing.any(-1)
        least = highest(-prob, changing, 1) & again[:, None]
        assert stats.outside is not None
        # What was written here in each forward, and the mask where it may not stay.
        never = torch.cat((view.buffers.written, torch.where(first, mask, -1)[:, None]), 1)
        novel = stats.outside(never.transpose(1, 2), least)
        return _Decision(write, torch.where(novel >= 0, novel, token), final)

    def _text(self, stats: Stats, view: View, token: Tensor) -> Tensor:
        """`token`, or the best id that stands for itself where it does not; held ids where there is
        none."""
        assert stats.top_tokens is not None
        found, rank = self._stands_for_itself(stats.top_tokens, view).max(-1)
        best = stats.top_tokens.gather(-1, rank[..., None])[..., 0]
        text = torch.where(found, best, view.ids)
        return torch.where(self._stands_for_itself(token, view), token, text)

    def _stands_for_itself(self, ids: Tensor, view: View) -> Tensor:
        delete, insert = self.control_ids
        return (ids >= 0) & (ids != view.mask_token_id) & (ids != delete) & (ids != insert)

    def bad(self, stats: Stats, view: View) -> Tensor:
        """Also where no id that stands for itself can be chosen; without editing, nobody looks at
        tokens."""
        assert stats.top_tokens is not None
        wrong = stats.bad | ~self._stands_for_itself(stats.top_tokens, view).any(-1)
        return wrong & (view.masked() | (view.parameters.editing_threshold < torch.inf)[:, None])

    def twin(self, view: View) -> Callable[[Tensor, bool], bool] | None:
        """`ops.joint_threshold_indel_step_` on the tensors of `view`, where these are on a CPU."""
        if view.ids.device.type != "cpu":
            return None
        assert view.moves is not None
        ids, editable, p, kept = view.ids, view.editable, view.parameters, view.buffers
        source, inserted, deleted = view.moves
        state = ops.InDelState(
            **kept,
            **view.counts,
            done=view.done,
            dirty=view.dirty,
            bad=view.bad,
            source=source,
            inserted=inserted,
            deleted=deleted,
        )
        mask, (delete, insert), post = view.mask_token_id, self.control_ids, self.max_post_steps

        def step_(logits: Tensor, draws: bool) -> bool:
            if draws or not ops.serves("joint_threshold_indel_step_", "cpu"):
                return False
            ops.joint_threshold_indel_step_(
                ids,
                logits,
                editable,
                state,
                mask_token_id=mask,
                delete_token_id=delete,
                insert_token_id=insert,
                threshold=p.threshold,
                editing_threshold=p.editing_threshold,
                max_post_steps=post,
            )
            return True

        return step_

    def most_forwards(self, length: int) -> int:
        return length + self.max_post_steps + 1
