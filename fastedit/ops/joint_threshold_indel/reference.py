"""LLaDA2.2's decision step, block by block over lists."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastedit.ops.best_outside.reference import best_outside
from fastedit.ops.joint_threshold_indel import InDelState
from fastedit.ops.row_stats.reference import row_stats

RANKS = 4  # one of them is none of mask, DELETE and INSERT


def joint_threshold_indel_step_(
    ids: Tensor,
    logits: Tensor,
    editable: Tensor,
    state: InDelState,
    *,
    mask_token_id: int,
    delete_token_id: int,
    insert_token_id: int,
    threshold: Tensor,
    editing_threshold: Tensor,
    max_post_steps: int,
) -> None:
    """Contract: `fastedit.ops.joint_threshold_indel_step_`."""
    state.source.copy_(torch.arange(ids.shape[1]).expand(ids.shape))
    state.inserted.zero_()
    state.deleted.zero_()
    for b in (~state.done).nonzero().flatten().tolist():
        block = _Block(
            ids[b].tolist(),
            editable[b].tolist(),
            (mask_token_id, delete_token_id, insert_token_id),
            threshold[b].item(),
            editing_threshold[b].item(),
            max_post_steps,
        )
        block.decide(state, b, logits[b])
        ids[b] = torch.tensor(block.ids)


@dataclass
class _Block:
    """A block and what is to be written where, by position."""

    ids: list[int]
    free: list[bool]
    controls: tuple[int, int, int]
    threshold: float
    editing_threshold: float
    most: int
    write: dict[int, int] = field(default_factory=dict)

    def decide(self, state: InDelState, b: int, logits: Tensor) -> None:
        """One step of block `b` of `state`, on `logits` [L, V]."""
        mask, length = self.controls[0], len(self.ids)
        forwards = int(state.forwards[b])
        masked = [i for i, x in enumerate(self.ids) if self.free[i] and x == mask]
        if forwards == 0:
            state.original[b] = torch.tensor([i in masked for i in range(length)])
        first = [i for i in masked if state.original[b, i]]
        state.post_steps[b] += not first
        post = int(state.post_steps[b])
        final = forwards >= length + self.most or (post >= self.most if self.most else not first)

        stats = row_stats(
            logits,
            torch.tensor(self.ids),
            forbid=(),
            temperature=1.0,
            entropy=False,
            top_k=RANKS,
            draws=None,
            only=None,
        )
        assert stats.top_tokens is not None and stats.top_probs is not None
        token, prob = stats.token.tolist(), stats.prob.tolist()
        ranks, rank_probs = stats.top_tokens.tolist(), stats.top_probs.tolist()
        for i in first:
            other = int(ranks[i][0] == mask)
            if token[i] == mask and not final and ranks[i][other] >= 0:
                token[i], prob[i] = ranks[i][other], rank_probs[i][other]
        fill, final = self._fills(masked, first, prob, final)
        edits = [
            i
            for i in range(length)
            if self.free[i] and i not in masked
            if token[i] != self.ids[i] and prob[i] > self.editing_threshold
        ]
        self.write = {i: token[i] for i in sorted(fill + edits)}
        if final:
            for i, said in self.write.items():
                text = [t for t in (said, *ranks[i]) if t not in (*self.controls, -1)]
                self.write[i] = text[0] if text else self.ids[i]
        elif self.ids in state.seen[b, :forwards].tolist():
            self._leave_loop(state.written[b], first, prob, logits)
        if forwards < state.seen.shape[1]:
            state.seen[b, forwards] = torch.tensor(self.ids)
            now = [self.write.get(i, -1) for i in range(length)]
            state.written[b, forwards] = torch.tensor(now)
        for i in range(length):
            if self.free[i] and (i in masked or self.editing_threshold < torch.inf):
                without = set(ranks[i]) <= {*self.controls, -1}
                state.bad[b] |= stats.bad[i] | without
        state.forwards[b] += 1
        self._apply(state, b, final)

    def _fills(
        self, masked: list[int], first: list[int], prob: list[float], final: bool
    ) -> tuple[list[int], bool]:
        """Masks to fill, and whether this is the last step."""
        if final or not first:
            return masked, final
        need = 1 + len(masked) - len(first)
        chosen = [i for i in masked if prob[i] > self.threshold]
        if len(chosen) < need:
            chosen = sorted(masked, key=lambda i: (-prob[i], i))[:need]
        final = self.most == 0 and set(first) <= set(chosen)
        return (masked if final else chosen), final

    def _leave_loop(
        self, written: Tensor, first: list[int], prob: list[float], logits: Tensor
    ) -> None:
        """The least sure change becomes the best id that was never written there."""
        changing = [i for i, said in self.write.items() if said != self.ids[i]]
        if not changing:
            return
        least = min(changing, key=lambda i: (prob[i], i))
        never = [*written[:, least].tolist(), self.controls[0] if least in first else -1]
        novel = int(best_outside(logits[least][None], torch.tensor([never]), None, ())[0])
        if novel >= 0:
            self.write[least] = novel

    def _apply(self, state: InDelState, b: int, final: bool) -> None:
        """Write and count; then DELETE and INSERT act, between positions that stay."""
        mask, delete, insert = self.controls
        acts = any(said in (delete, insert) for said in self.write.values())
        out: list[tuple[int, int]] = []  # a token, and where it stood; -1 for a new mask
        dirty = False

        def end_run(end: int) -> None:
            del out[end:]
            out.extend([(mask, -1)] * (end - len(out)))

        for i, old in enumerate(self.ids):
            now = self.write.get(i, old)
            if not self.free[i]:
                end_run(i)
                out.append((old, i))
            elif acts and now == delete:
                state.deleted[b, i] = 1
            elif acts and now == insert:
                state.inserted[b, i] = 1
                out += [(mask, -1), (old, i)]
            else:
                out.append((now, i))
                if now != old:
                    dirty = True
                    kinds = state.m2t_commits, state.remasks, state.t2t_edits
                    kinds[0 if old == mask else 1 if now == mask else 2][b] += 1
        end_run(len(self.ids))
        new, source = (list(column) for column in zip(*out, strict=True))
        state.inserts[b] += state.inserted[b].sum()
        state.deletes[b] += state.deleted[b].sum()
        original = state.original[b].tolist()
        state.original[b] = torch.tensor([place >= 0 and original[place] for place in source])
        state.source[b] = torch.tensor(source)
        state.dirty[b] = dirty or new != self.ids
        left = any(free and x == mask for free, x in zip(self.free, new, strict=True))
        state.done[b] = (final or not self.write) and not left
        self.ids[:] = new
