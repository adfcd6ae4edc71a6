"""Slots: requests that enter together, and what a request that cannot leaves behind."""

from dataclasses import replace

import pytest
import torch

from fastedit import DecodeConfig
from fastedit.memory.extents import Extent
from fastedit.memory.kv import Pool
from fastedit.policies import LowConfidence
from fastedit.request.request import Request
from fastedit.request.slots import Slots

MASK = 9


class Unbounded(LowConfidence):
    def most_forwards(self, length: int) -> int:
        return 0 if self.threshold == 0.25 else length


def request(number, **options):
    """Prompts of other lengths, with settings that differ in everything a slot has of them."""
    config = DecodeConfig(block_length=4, max_new_tokens=6 + number, **options)
    policy = Unbounded(threshold=0.5 + number / 10)
    made = Request(number, torch.arange(3 + number), config, -number, frozenset(), policy, MASK)
    made.extent = Extent(32 * number, 32)
    return made


def slots_for(first):
    pool = Pool(torch.device("cpu"))
    pool.resize(160)
    pool.ids.fill_(MASK)
    return Slots(4, first, pool, Extent(128, 32))


def state(slots):
    own = (slots.offset, slots.size, slots.start, slots.final, slots.seen, slots.origin, slots.held)
    return [tensor.clone() for tensor in (*own, *slots.blocks.fields())]


def test_requests_that_enter_together_are_as_one_after_the_other():
    sampled = {"temperature": 0.5, "top_k": 3, "top_p": 0.75}
    requests = [request(0), request(1, **sampled), request(2, temperature=0.25)]
    together, apart = slots_for(requests[0]), slots_for(requests[0])
    together.load(1, requests)
    for slot, one in enumerate(requests, 1):
        apart.load(slot, [one])
    assert all(a.equal(b) for a, b in zip(state(together), state(apart), strict=True))
    assert together.offset.tolist() == [128, 0, 32, 64]
    assert together.blocks.sampling.top_k.tolist() == [0, 0, 3, 0]
    assert together.blocks.sampling.seed.tolist()[1:] == [0, -1, -2]
    thresholds = torch.tensor([0.5, 0.6, 0.7])
    assert together.blocks.parameters.threshold[1:].equal(thresholds)


def test_a_policy_without_a_bound_leaves_the_slots_as_they_were():
    good = request(0)
    bad = replace(request(1), policy=Unbounded(threshold=0.25))
    slots = slots_for(good)
    before = state(slots)
    with pytest.raises(ValueError, match=r"most_forwards .* at least 1; got 0"):
        slots.load(0, [good, bad])
    assert all(a.equal(b) for a, b in zip(state(slots), before, strict=True))
