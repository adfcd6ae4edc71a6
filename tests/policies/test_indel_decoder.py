"""LLaDA2.2's rule through a Decoder: what its oracle decodes, and never an id that is no text."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from fakes import ScriptedModel
from hypothesis import given, settings
from hypothesis import strategies as st
from indel_oracle import InDelBlock
from test_policy_rules import CLOSE

from fastedit import DecodeConfig, Decoder, policies

V, EOS, INSERT, DELETE, MASK = 12, 8, 9, 10, 11
CONTROLS = {MASK, DELETE, INSERT}
NAMED = {"delete_token_id": DELETE, "insert_token_id": INSERT}
IDS = {"mask_token_id": MASK, "eos_token_id": EOS}


def leaning(seed: int, lean: float):
    """Pseudo-random logits of what is visible, from which the last three ids are `lean` above the
    others, now one, now another."""

    @cache
    def rule(seen: tuple[int, ...], position: int) -> np.ndarray:
        random = np.random.default_rng([seed, position, *seen])
        logits = random.normal(size=V) * 2.0
        logits[random.integers(V - 3, V)] += lean
        return logits.astype(np.float32)

    return rule


def by_hand(rule, prompt, draft, keep, length, size, options):
    """Blocks one after the other: ids, their oracles, and the steps of all of them."""
    end = len(prompt) + length
    ids = [*prompt, *draft, *[MASK] * (-(-end // size) * size - len(prompt) - len(draft))]
    free = [i >= len(prompt) for i in range(len(ids))]
    for i, token in enumerate(draft, len(prompt)):
        free[i] = not keep or token == MASK
    blocks, near = [], np.inf
    for start in range(len(prompt) // size * size, end, size):
        span = slice(start, start + size)
        block = InDelBlock(ids[span], free[span], MASK, DELETE, INSERT, **options)
        while not block.done:
            ids[span] = block.ids
            seen = tuple(ids[: start + size])
            block.step([rule(seen, start + i).tolist() for i in range(size)])
            near = min(near, block.near)
        ids[span] = block.ids
        blocks.append(block)
    return ids[len(prompt) : end], blocks, near


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lean=st.sampled_from([0.0, 3.0, 9.0]),
    prompt=st.lists(st.integers(0, V - 2), min_size=1, max_size=7),
    draft=st.lists(st.sampled_from([0, 1, 2, MASK, MASK]), max_size=9),
    keep=st.booleans(),
    size=st.sampled_from([1, 3, 6]),
    options=st.fixed_dictionaries(
        {
            "threshold": st.sampled_from([0.0, 0.5, 1.0]),
            "editing_threshold": st.sampled_from([None, 0.0, 0.4]),
            "max_post_steps": st.sampled_from([0, 1, 3]),
        }
    ),
)
def test_a_text_is_what_the_oracle_decodes(seed, lean, prompt, draft, keep, size, options):
    """Prompts may hold what stands for no text; what is kept of a draft stays where it is."""
    rule, length = leaning(seed, lean), len(draft) + 4
    ids, blocks, near = by_hand(rule, prompt, draft, keep, length, size, options)
    decoder = Decoder(ScriptedModel(V, rule, **NAMED))
    given = {"draft": draft, "keep_draft": keep} if draft else {}
    config = IDS | {"eos_token_id": [], "block_length": size, "max_new_tokens": length}
    policy = "joint_threshold_indel"
    out = decoder.generate([prompt], policy=policy, use_cache=False, **given, **config, **options)
    sequence, stats = out.sequences[0].tolist(), out.stats[0]
    assert not CONTROLS & set(sequence)
    assert stats.forwards <= len(blocks) * (size + options["max_post_steps"] + 1)
    if keep:
        kept = zip(sequence, draft, strict=False)
        assert all(now == then for now, then in kept if then != MASK)
    if near < CLOSE:
        return
    assert sequence == ids
    counts = (stats.forwards, stats.m2t_commits, stats.t2t_edits, stats.remasks)
    assert (*counts, stats.inserts, stats.deletes) == tuple(
        sum(getattr(block, name) for block in blocks)
        for name in ("forwards", "fills", "edits", "remasks", "inserts", "deletes")
    )


def test_drafts_tell_what_moves():
    rule = leaning(3, 4.0)
    config = DecodeConfig(
        policy="joint_threshold_indel",
        threshold=0.3,
        max_post_steps=4,
        block_length=6,
        max_new_tokens=30,
        use_cache=False,
        **IDS | {"eos_token_id": []},
    )
    decoder = Decoder(ScriptedModel(V, rule, **NAMED), config=config)
    prompt = torch.tensor([1, 2, DELETE])
    *events, end = decoder.stream(prompt, drafts=True)
    inserts = deletes = 0
    before: dict[int, list[int]] = {}
    for event in (event for event in events if event.kind == "draft"):
        width = len(event.ids)
        old = before.get(event.block, [MASK] * width)
        inserts, deletes = inserts + len(event.inserted), deletes + len(event.deleted)
        emitted = []
        for place in range(width):
            emitted += [-1] * (place in event.inserted)
            emitted += [place] * (place not in event.deleted)
        assert event.moved == (emitted + [-1] * width)[:width]
        for place, now in zip(event.moved, event.ids, strict=True):
            assert place >= 0 or now == MASK
            assert place not in event.inserted or now == old[place]
        before[event.block] = event.ids
    assert (inserts, deletes) == (end.stats.inserts, end.stats.deletes)
    assert inserts > 3 and deletes > 3
    plain = decoder.stream(prompt, policy="joint_threshold", drafts=True)
    assert all(event.moved is None for event in plain)


def test_ids_are_those_of_the_model():
    def uses(policy="joint_threshold_indel", **config):
        model = ScriptedModel(V, leaning(0, 0.0), **config)
        decoder = Decoder(model, config=DecodeConfig(policy=policy, use_cache=False, **IDS))
        return decoder.generate([[1]], max_new_tokens=4, block_length=4).stats[0]

    assert uses(**NAMED).forwards and uses(delete_token_id=9, split_token_id=10).forwards
    explicit = "joint_threshold_indel:delete_token_id=10,insert_token_id=9"
    assert uses(explicit, delete_token_id=99).forwards
    assert policies.JointThresholdInDel().control_ids == (156930, 156931)
    with pytest.raises(ValueError, match=r"trained to insert and delete.*12 ids.*no 156930.*give"):
        uses()
    with pytest.raises(ValueError, match="are both 10"):
        uses(delete_token_id=10, insert_token_id=10)
    with pytest.raises(ValueError, match="both the mask token and"):
        uses(delete_token_id=MASK, insert_token_id=10)
    with pytest.raises(ValueError, match="max_post_steps must be an integer from 0 to 4096"):
        uses("joint_threshold_indel:max_post_steps=4097", **NAMED)
    with pytest.raises(ValueError, match="mask_token_id=10 is a control id"):
        policies.open(explicit, torch.tensor([[1, 10]]), mask_token_id=10)
    model = ScriptedModel(V, leaning(0, 0.0), **NAMED)
    with pytest.raises(ValueError, match="draft of prompt 0 holds id 10"):
        Decoder(model).generate([[1]], draft=[1, DELETE], policy="joint_threshold_indel", **IDS)


def test_bad_logits_are_those_that_leave_nothing_to_write():
    """Where all but the ids that stand for no text are out of reach, no output could be right."""

    def rule(seen, place):
        logits = np.full(V, -np.inf, dtype=np.float32)
        logits[[DELETE, INSERT, MASK]] = 1.0, 0.0, 2.0
        return logits if place == 2 else np.eye(V, dtype=np.float32)[1] * 9

    model = ScriptedModel(V, rule, **NAMED)
    options = IDS | {"policy": "joint_threshold_indel", "block_length": 4, "max_new_tokens": 6}
    out = Decoder(model).generate([[1]], errors="return", use_cache=False, **options)
    assert "position 2" in str(out.errors[0])
