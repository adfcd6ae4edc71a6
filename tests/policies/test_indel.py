"""LLaDA2.2's rule decides what SGLang's code did and what its oracle does, state by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from indel_oracle import InDelBlock
from policy_cases import cases
from test_policy_rules import CLOSE

from fastedit import policies
from fastedit.policies import Buffer, JointThresholdInDel, Policy, Write


def released(case: dict, top: list[list[int]]) -> torch.Tensor:
    """Logits [1, L, V]: those that are listed, and others far below, in units of 1/256."""
    places, ids = torch.arange(len(top))[:, None], torch.arange(case["vocab"])
    logits = -(2560 + (37 * ids + 11 * places) % 64).float()
    for i, listed in enumerate(top):
        logits[i, listed[::2]] = torch.tensor(listed[1::2]).float()
    return logits[None] / 256


def policy_of(case: dict) -> JointThresholdInDel:
    params = case["params"]
    return JointThresholdInDel(
        threshold=params["threshold"],
        editing_threshold=params["edit_threshold"],
        max_post_steps=params["max_post_edit_steps"],
        delete_token_id=case["delete_id"],
        insert_token_id=case["split_id"],
    )


@pytest.mark.parametrize("fused", [False, True])
def test_every_state_is_that_of_the_released_code(fused):
    """A final step that changed ids is followed by a forward for keys and values. It makes no
    difference whether the mask may be chosen elsewhere."""
    for case in cases("joint_indel"):
        ids, mask = torch.tensor([case["ids"]]), case["mask_id"]
        editable = torch.tensor([[bit == "0" for bit in case["prompt_mask"]]])
        state = policies.open(
            policy_of(case), ids, editable, mask_token_id=mask, strict_reference=fused
        )
        state.twin = state.twin if fused else None
        for step in case["steps"]:
            if step.get("commit"):
                assert state.done and state.dirty and state.ids[0].tolist() == step["ids"]
                continue
            policies.step_(state, released(case, step["top"]))
            kept, done = state.buffers, step["finished"]
            original = "".join("01"[bit] for bit in kept.original[0].tolist())
            found = (state.ids[0].tolist(), state.done.item(), kept.post_steps.item(), original)
            assert found == (step["ids"], done, step["post"], step["orig"]), case["id"]
            assert done is False or step["done"] is not state.dirty.item(), case["id"]
        assert state.ids[0].tolist() == case["output"]


def hot(token: int, vocab: int, height: float = 9.0) -> np.ndarray:
    return np.eye(vocab)[token] * height


class Script:
    """Blocks and the logits of each of their forwards, in eighths, so that ids and positions tie.

    The last three ids are INSERT, DELETE and the mask. `kind` is what the logits lean to: nothing,
    one of these, or one of two ids in turn, by what the position holds.
    """

    def __init__(self, seed: int, blocks: int, width: int, text: int, kind: str) -> None:
        self.random, self.kind, self.vocab = np.random.default_rng(seed), kind, text + 3
        self.insert, self.delete, self.mask = text, text + 1, text + 2
        self.ids = self.random.integers(0, text, (blocks, width))
        self.ids[self.random.random(self.ids.shape) < 0.7] = self.mask
        self.free = np.ones_like(self.ids, dtype=bool)
        for row in self.free:
            row[: self.random.integers(width)] = False
            if self.random.random() < 0.3:  # text inside that is kept
                row[self.random.random(width) < 0.2] = False
        literal = ~self.free & (self.random.random(self.ids.shape) < 0.3)
        self.ids[literal] = self.random.integers(0, self.vocab, self.ids.shape)[literal]

    def logits(self, ids: list[list[int]]) -> np.ndarray:
        shape = (*self.ids.shape, self.vocab)
        logits = np.round(self.random.normal(size=shape) * 16) / 8
        copies = self.random.random(self.ids.shape) < 0.2
        logits[copies] = logits[:, :1].repeat(shape[1], 1)[copies]
        if self.kind == "controls":
            logits[..., -3:] += self.random.choice([0.0, 4.0], size=(*self.ids.shape, 3))
        elif self.kind == "flips":
            other = np.where(np.array(ids) == 0, 1, 0)
            logits = hot(other, self.vocab) + np.round(logits * 8 * 0.1) / 8
        elif self.kind != "random":
            logits = hot(getattr(self, self.kind), self.vocab) + logits * 0.25
        return logits


OPTIONS = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([0.0, 0.3, 0.7, 1.0]),
        "editing_threshold": st.sampled_from([None, 0.0, 0.3, 0.9]),
        "max_post_steps": st.sampled_from([0, 1, 2, 5, 16]),
    }
)
SCRIPTS = {
    "seed": st.integers(0, 2**32 - 1),
    "blocks": st.integers(1, 3),
    "width": st.sampled_from([1, 2, 5, 8]),
    "text": st.sampled_from([2, 5, 30]),
    "kind": st.sampled_from(["random", "controls", "flips", "insert", "delete", "mask"]),
}


@settings(max_examples=150, deadline=None)
@given(script=st.builds(Script, **SCRIPTS), options=OPTIONS, fused=st.booleans())
def test_steps_equal_the_oracle(script, options, fused):
    controls = {"delete_token_id": script.delete, "insert_token_id": script.insert}
    policy = JointThresholdInDel(**options, **controls)
    ids, free = torch.tensor(script.ids), torch.tensor(script.free)
    state = policies.open(policy, ids, free, mask_token_id=script.mask)
    state.twin = state.twin if fused else None
    names = (script.mask, script.delete, script.insert)
    cells = zip(script.ids.tolist(), script.free.tolist(), strict=True)
    blocks = [InDelBlock(*cell, *names, **options) for cell in cells]
    for _ in range(policy.most_forwards(ids.shape[1])):
        logits = script.logits(state.ids.tolist())
        policies.step_(state, torch.tensor(logits).float())
        for block, z in zip(blocks, logits.tolist(), strict=True):
            block.step(z)
        if min(block.near for block in blocks) < CLOSE:
            return
        assert state.ids.tolist() == [block.ids for block in blocks]
        assert state.done.tolist() == [block.done for block in blocks]
        assert state.buffers.original.tolist() == [block.original for block in blocks]
        counts = state.counts
        assert torch.stack(list(counts.values()), -1).tolist() == [
            [b.forwards, b.fills, b.edits, b.remasks, b.inserts, b.deletes] for b in blocks
        ]
    assert state.done.all()
    for ids, free in zip(state.ids, state.editable, strict=True):
        assert not set(ids[free].tolist()) & set(names)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_vocabulary_is_read_in_parts(seed):
    """Controls and mask stand in several of them, and what is chosen in their place in any."""
    vocab, mask, places, generator = 40_000, 17_000, 12, torch.Generator().manual_seed(seed)
    policy = JointThresholdInDel(0.2, 0.2, 3, delete_token_id=5, insert_token_id=39_000)
    turns = torch.randint(64, (3, 1, places, vocab), generator=generator) / 8.0
    listed = torch.tensor([mask, 5, 39_000, 7, 16_383, 16_384, 32_768, vocab - 1])
    heights = torch.randint(72, 160, (3, 1, places, len(listed)), generator=generator) / 8.0
    turns[..., listed] = heights
    both = [policies.open(policy, torch.full((1, places), mask), mask_token_id=mask) for _ in "ab"]
    both[1].twin = None
    for step in range(policy.most_forwards(places)):
        for state in both:
            policies.step_(state, turns[step % 3])
        fused, plain = both
        assert fused.ids.equal(plain.ids) and fused.done.equal(plain.done)
        assert all(fused.buffers[name].equal(plain.buffers[name]) for name in policy.buffers)
        assert fused.count_rows.equal(plain.count_rows)
    assert fused.done.all() and fused.counts.inserts > 0 and fused.counts.deletes > 0


@pytest.mark.parametrize("fused", [False, True])
def test_a_confidence_at_the_threshold_is_not_above_it(fused):
    """Two ids at exactly one half: of equal masks the first commits alone, with the lower id."""
    half = [0.0, 0.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf]
    logits = torch.tensor([[half] * 4])
    for threshold, editing, ids in (
        (0.49, 0.49, [0, 0, 0, 0]),
        (0.5, 0.49, [0, 5, 5, 0]),
        (0.49, 0.5, [0, 0, 0, 2]),
    ):
        policy = JointThresholdInDel(threshold, editing, delete_token_id=3, insert_token_id=4)
        state = policies.open(policy, torch.tensor([[5, 5, 5, 2]]), mask_token_id=5)
        state.twin = state.twin if fused else None
        policies.step_(state, logits)
        assert state.ids[0].tolist() == ids


@pytest.mark.parametrize("fused", [False, True])
def test_a_loop_is_left_at_the_first_of_equal_positions(fused):
    """Both go from 0 to 1 and back, and then one to the id that is third in both."""
    policy = JointThresholdInDel(0.3, 0.3, delete_token_id=3, insert_token_id=4)
    state = policies.open(policy, torch.tensor([[0, 0]]), mask_token_id=5)
    state.twin = state.twin if fused else None
    for said, ids in ((1, [1, 1]), (0, [0, 0]), (1, [2, 1])):
        logits = torch.tensor([8.0, 8.0, 7.0, 1.0, 1.0, 1.0])
        logits[said] += 2.0
        policies.step_(state, logits.expand(1, 2, 6).contiguous())
        assert state.ids[0].tolist() == ids


@dataclass(frozen=True)
class Moves(Policy):
    """Says done at once, and deletes and inserts as told, also where it may not."""

    buffers: ClassVar[Mapping[str, Buffer]] = {
        "age": Buffer(torch.int32, initial=-7),
        "told": Buffer(torch.int64, per_position=False),
        "past": Buffer(torch.int64, history=True),
    }
    rewrites = True

    def rule(self, stats, view):
        ids = torch.where(view.ids == 9, 1, view.ids)
        age = torch.arange(view.length).expand(view.ids.shape)
        past = torch.where(view.ids[:, None] >= 0, view.counts.forwards[:, None, None] + 1, 0)
        past = past.expand(view.buffers.past.shape)
        write = {"age": age.int(), "told": view.counts.forwards + 5, "past": past}
        done = torch.ones_like(view.done)
        return Write(ids, done, write, keep=view.ids != 2, insert=view.ids == 3)

    def most_forwards(self, length: int) -> int:
        return 3


def test_the_core_moves_what_is_kept_of_a_position_and_counts():
    """A block that gets a mask is not done; what may not change stays; done blocks are left."""
    rows = [[2, 9, 3, 4, 5, 2], [3, 4, 5, 6, 3, 6], [9, 9, 9, 9, 9, 9], [2, 3, 2, 3, 2, 3]]
    free = torch.tensor([[0, 1, 1, 1, 0, 1], [1] * 6, [1] * 6, [1] * 6]).bool()
    state = policies.open(Moves(), torch.tensor(rows), free, mask_token_id=9)
    state.done[3] = True
    policies.step_(state, torch.zeros(4, 6, 10))
    assert state.ids.tolist() == [[2, 1, 9, 3, 5, 9], [9, 3, 4, 5, 6, 9], [1] * 6, rows[3]]
    assert state.buffers.age.tolist() == [
        [0, 1, -7, 2, 4, -7],
        [-7, 0, 1, 2, 3, -7],
        [0, 1, 2, 3, 4, 5],
        [-7] * 6,
    ]
    assert state.done.tolist() == [False, False, True, True]
    assert state.dirty.tolist() == [True, True, True, False]
    assert state.buffers.told.tolist() == [5, 5, 5, 0]
    assert [plane.unique().tolist() for plane in state.buffers.past] == [[1], [1], [1], [0]]
    counts = state.counts
    assert counts.m2t_commits.tolist() == [1, 0, 6, 0]
    assert counts.inserts.tolist() == [1, 2, 0, 0] and counts.deletes.tolist() == [1, 0, 0, 0]
    state.reset(torch.tensor([True, False, False, False]))
    assert state.buffers.past[0].eq(0).all() and state.buffers.past[1].eq(1).all()


def test_rules_may_rewrite_nothing_or_must_say_that_they_rewrite():
    @dataclass(frozen=True)
    class Half(Moves):
        """Inserts alone."""

        def rule(self, stats, view):
            return super().rule(stats, view)._replace(keep=None)

    @dataclass(frozen=True)
    class Silent(Half):
        rewrites = False

    state = policies.open(Half(), torch.tensor([[2, 3, 4]]), mask_token_id=9)
    policies.step_(state, torch.zeros(1, 3, 10))
    assert state.ids.tolist() == [[2, 9, 3]] and state.moves[:, 0].tolist() == [
        [0, -1, 1],
        [0, 1, 0],
        [0, 0, 0],
    ]
    state = policies.open(Silent(), torch.tensor([[2, 3, 4]]), mask_token_id=9)
    with pytest.raises(ValueError, match="policy Silent inserts or deletes: say so"):
        policies.step_(state, torch.zeros(1, 3, 10))


@pytest.mark.parametrize("fault", [{"wide": True}, {"plan": "window"}])
def test_blocks_that_are_not_final_one_by_one_are_not_rewritten(fault):
    kind = type("Wide", (Moves,), fault)
    with pytest.raises(ValueError, match="inserts and deletes, so its blocks must be final"):
        policies.open(kind(), torch.tensor([[1, 9]]), mask_token_id=9)


def test_ids_that_the_logits_do_not_have_are_named():
    state = policies.open("joint_threshold_indel", torch.full((1, 4), 9), mask_token_id=9)
    with pytest.raises(ValueError, match=r"needs id 156930, and the logits have 10"):
        policies.step_(state, torch.zeros(1, 4, 10))
