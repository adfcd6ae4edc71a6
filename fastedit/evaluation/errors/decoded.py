"""Tokens held while decoding; those that were edited, remasked or deleted are the errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastedit import ops
from fastedit.config import DecodeConfig
from fastedit.engine.engine import Engine
from fastedit.evaluation.errors.held_out import HeldOut
from fastedit.evaluation.errors.rules import Rules
from fastedit.evaluation.errors.written import Written, nearest_visible
from fastedit.memory.capacity import Room, capacity
from fastedit.models.families import Family, family_of
from fastedit.request.prepare import as_requests
from fastedit.request.request import Request
from fastedit.training.data.documents import Document

# Decoding is with editing in every family; others than LLaDA2.x were released without.
QUALITY = "joint_threshold"


class Write(NamedTuple):
    """A token as it is written: its probability then, what was in sight, and its neighbours."""

    token: int
    prob: float
    distance: int  # to the nearest token in sight before the step, 0: there is none
    left: int  # ids after the step, -1: there is none
    behind: int


class Decoded(NamedTuple):
    """Tokens that a model held, and how often it replaced, deleted and inserted, in all."""

    written: Written
    edits: dict[str, int]


class Watch:
    """Follows one request through the steps of the engine, as its `on_draft`.

    A token is followed where inserts and deletes before it move it to.
    """

    def __init__(self, sample: int, mask_token_id: int) -> None:
        self.sample, self.mask_token_id = sample, mask_token_id
        self.writes: dict[int, list[Write]] = defaultdict(list)  # by position, in order
        # Of tokens that are gone: where they stood, and whether they were deleted or, by an insert,
        # lost at the end of their block.
        self.gone: list[tuple[int, bool, list[Write]]] = []
        self.start = -1  # of the block that is followed
        self.restarts = 0  # of the request, when that block began
        self.ids: list[int] = []  # of that block, as the step before left it
        self.left = -1  # the last id before it

    def __call__(self, request: Request, ids: Tensor, logits: Tensor) -> None:
        """ids [L] after a step, logits [L, V] of it."""
        if request.committed:  # a forward that only refreshes keys decides nothing
            return
        if (request.start, request.restarts) != (self.start, self.restarts):
            self._open(request)
        old, new = self.ids, ids.tolist()
        source = self._moved(request)
        # A mask that has come in was not there before.
        written = [(i, at) for i, at in enumerate(source) if at >= 0 and new[i] != old[at]]
        if written:
            tokens = torch.tensor([new[i] for i, _ in written], device=logits.device)
            rows = logits[[at for _, at in written]].contiguous()
            prob = ops.row_stats(rows, tokens).prob_current.tolist()
            visible = np.asarray(old)[None] != self.mask_token_id
            distance = nearest_visible(visible, np.asarray([self.start > 0]))[0].tolist()
            around = [self.left, *new, -1]
            for (i, at), p in zip(written, prob, strict=True):
                if new[i] != self.mask_token_id:
                    write = Write(new[i], p, distance[at], around[i], around[i + 2])
                    self.writes[self.start + i].append(write)
        self.ids = new

    def _moved(self, request: Request) -> list[int]:
        """Where in the block each position stood before the step, -1 for a new mask; what was
        written there has moved with it."""
        places = list(range(len(self.ids)))
        if request.moves is None:
            return places
        source, _, deleted = request.moves.tolist()
        if source == places:
            return places
        popped = ((place, self.writes.pop(self.start + place, [])) for place in places)
        before = {place: writes for place, writes in popped if writes}
        stay = [(i, at) for i, at in enumerate(source) if at in before]
        self.writes |= {self.start + i: before.pop(at) for i, at in stay}
        self.gone += [(self.start + at, bool(deleted[at]), w) for at, w in before.items()]
        return source

    def _open(self, request: Request) -> None:
        known = request.prompt[request.start :].tolist()
        if request.start != self.start:
            before = self.ids or request.prompt[: request.start].tolist()
            self.left = before[-1] if before else -1
        for position in [p for p in self.writes if p >= request.start]:  # it begins again
            del self.writes[position]
        self.gone = [entry for entry in self.gone if entry[0] < request.start]
        self.ids = known + [self.mask_token_id] * (request.block_length - len(known))
        self.start, self.restarts = request.start, request.restarts

    def rows(self, prompt: int, block_length: int, rules: Rules) -> list[tuple]:
        """Rows of `Written`. A token that another one followed is an error in place of that one; so
        is one that was deleted, in place of none."""
        response = self.start + block_length - prompt
        found: list[tuple] = []
        held = [(position, False, writes) for position, writes in self.writes.items()]
        for position, deleted, writes in held + self.gone:
            relative = (position - prompt) / response
            for write, following in zip(writes, [*writes[1:], None], strict=True):
                kind = -1
                if following is not None and following.token == write.token:
                    continue  # remasked, and the same again
                if following is not None:
                    kind = rules.kind(write.token, following.token, write.left, write.behind)
                elif deleted:
                    kind = rules.surplus(write.token, write.left, write.behind)
                where = (self.sample, 0, position, relative, write.distance)
                found.append((*where, write.prob, kind >= 0, kind))
        return found


def decoded(
    model: Any,
    held: HeldOut,
    rules: Rules,
    *,
    policy: str = QUALITY,
    on_done: Callable[[int], None] = lambda samples: None,
) -> Decoded:
    """What `model` writes when it decodes the prompts of the samples, greedily, by `policy`.

    A row is a token in a place, with its probability when it was written there. It is wrong where
    it was edited, remasked and replaced, or deleted, later; behind an EOS in the last block too.
    A sample gets the blocks that its own first response takes, no more; one without a prompt is
    left out. Raises `RequestError` where the logits are bad, ValueError for a policy that does
    not go with `model`.
    """
    family = family_of(model)
    config = DecodeConfig(
        policy=policy,
        block_length=held.block_size,
        mask_token_id=held.mask_token_id,
        eos_token_id=sorted(held.eos_token_ids) or None,
        seed=0,
    )
    asked = [(n, d) for n, d in enumerate(held.documents) if d.prompt_length]
    prompts = [torch.from_numpy(d.ids[: d.prompt_length]).long() for _, d in asked]
    configs = [config.replace(max_new_tokens=_room(d, held.block_size, family)) for _, d in asked]
    requests = list(as_requests(prompts, configs, model, None, family))
    watches = [Watch(sample, held.mask_token_id) for sample, _ in asked]
    for request, watch in zip(requests, watches, strict=True):
        request.on_draft = watch
    device = next(model.parameters()).device
    room = Room.of("auto", configs or [config], family)
    for finished in Engine(model, device, capacity(room, model, device)).run(requests):
        for request in finished:
            if request.error is not None:
                raise request.error
        on_done(len(finished))
    pairs = zip(watches, requests, strict=True)
    rows = [r for w, q in pairs for r in w.rows(len(q.prompt), held.block_size, rules)]
    written = Written.of_columns(*(zip(*rows, strict=True) if rows else [()] * 8))
    stats = [request.stats for request in requests]
    return Decoded(
        written,
        {
            "replaced": sum(each.t2t_edits for each in stats),
            "deleted": sum(each.deletes for each in stats),
            "inserted": sum(each.inserts for each in stats),
        },
    )


def _room(document: Document, block_size: int, family: Family) -> int:
    """Positions from the first response to the end of its last block."""
    if family.blocks == "after_prompt":
        return -(-document.answer_length // block_size) * block_size
    end = document.prompt_length + document.answer_length
    return -(-end // block_size) * block_size - document.prompt_length
