"""ME-DLM's decoding with lists, one sequence at a time: what the rule is compared with.

Logits are rows of a sequence, [n][V] of each head. Ids: PAD 0, MASK 1, DEL 2, EOS 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from two_heads import DEL, EOS, MASK, PAD

Heads = Callable[[list[int]], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Sequence1:
    """One sequence: ids, and of each whether it may change. trace: ids after every forward."""

    ids: list[int]
    may: list[bool]
    trace: list[list[int]] = field(default_factory=list)
    done_step: int = 0


def best(row: Sequence[float], banned: set[int]) -> int:
    """The lowest id on ties."""
    return max((v for v in range(len(row)) if v not in banned), key=lambda v: (row[v], -v))


def decode(
    sequence: Sequence1,
    heads: Heads,
    mask_steps: int,
    edit_steps: int,
    max_length: int,
    per_step: int | None = None,
) -> Sequence1:
    ids, may = sequence.ids, sequence.may
    masks = sum(i == MASK and m for i, m in zip(ids, may, strict=True))
    for step in range(mask_steps if masks else 0):
        fill(ids, may, heads(ids)[0], masks // mask_steps + (step < masks % mask_steps))
        if step == mask_steps - 1:
            gone = [j for j in range(len(ids)) if may[j] and ids[j] == PAD]
            for j in reversed(gone):
                del ids[j], may[j]
            if edit_steps and any(may):
                ids[max(j for j in range(len(ids)) if may[j])] = EOS
        sequence.trace.append(list(ids))
    sequence.done_step = edit_steps
    for step in range(edit_steps):
        settled = edit(ids, may, heads(ids), max_length, per_step)
        if settled and sequence.done_step == edit_steps:
            sequence.done_step = step + 1
        sequence.trace.append(list(ids))
    return sequence


def fill(ids: list[int], may: list[bool], logits: torch.Tensor, count: int) -> None:
    wanted = {}
    for j, i in enumerate(ids):
        if i == MASK and may[j]:
            row = logits[j].double()
            token = best(row.tolist(), {MASK, DEL})
            row[[DEL, PAD]] = -torch.inf
            wanted[j] = token, 0.0 if token == PAD else float(row.softmax(0)[token])
    for j in sorted(wanted, key=lambda j: (-wanted[j][1], j))[:count]:
        ids[j] = wanted[j][0]


def edit(
    ids: list[int],
    may: list[bool],
    heads: tuple[torch.Tensor, torch.Tensor],
    max_length: int,
    per_step: int | None,
) -> bool:
    """One edit step in place; whether both heads want every token as it is."""
    first, second = (head.double() for head in heads)
    cur, want, events = list(ids), list(ids), []
    for j in range(len(ids)):
        if not may[j]:
            continue
        cur[j] = best(first[j].tolist(), {MASK, PAD})
        want[j] = best(second[j - 1].tolist(), {MASK, PAD, DEL}) if j else cur[j]
        if cur[j] != ids[j]:
            events.append((-float(first[j].softmax(0)[cur[j]]), j, "change"))
        if cur[j] != DEL and want[j] != cur[j]:
            events.append((-float(second[j - 1].softmax(0)[want[j]]), j, "insert"))
    settled = cur == ids == want
    taken = {(j, kind) for _, j, kind in sorted(events)[:per_step]}
    for j, held in enumerate(ids):
        if cur[j] != held and (j, "change") not in taken:
            cur[j] = held
    inserts = [(j, "insert") in taken and want[j] != cur[j] for j in range(len(ids))]
    kept = [c != DEL or not m for c, m in zip(cur, may, strict=True)]
    room = max(max_length - sum(kept), 0)
    new: list[tuple[int, bool]] = []
    for j in range(len(ids)):
        if inserts[j] and room:
            new.append((want[j], True))
            room -= 1
        if kept[j]:
            new.append((cur[j], may[j]))
    ids[:], may[:] = [i for i, _ in new], [m for _, m in new]
    return settled
