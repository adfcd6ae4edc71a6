"""Policies that may write all generated blocks: requests end, come back and mix as others do."""

from __future__ import annotations

import pytest
import torch
from cases import GOLDEN, PROMPTS, results
from scripted import ScriptedLogits

from fastedit import DecodeConfig, Decoder
from fastedit.engine import engine
from fastedit.models import Family
from fastedit.policies import Saber

VOCAB, LENGTH = 48, 4
RULES = ["saber", "proseco:threshold=.4,scope=generated"]
pytestmark = pytest.mark.parametrize("policy", RULES)


def decoder_of(policy: str, shift: int = 0, **options) -> Decoder:
    model = ScriptedLogits(seed=7, vocab=VOCAB, gain=9000, keep=1024)
    family = Family(
        attention="full",
        shift=shift,
        blocks="after_prompt",
        mask_token_id=model.mask,
        block_length=LENGTH,
    )
    given = {"max_new_tokens": 14, "eos_token_id": [], "seed": 3} | options
    return Decoder(model, config=DecodeConfig(policy=policy, **given), family=family)


PROMPT = torch.tensor([3, 9, 27])
OTHERS = [torch.tensor([n] * n) for n in (1, 2, 6)]


def test_an_eos_ends_it_where_a_block_ends_with_one(policy):
    """One further inside does not: the blocks to come may replace it. The ids are cut behind the
    first one in either case."""
    decoder = decoder_of(policy)
    full = decoder.generate(PROMPT)
    whole, calls = full.sequences[0].tolist(), decoder.model.calls
    seen: set[bool] = set()
    for eos in {*whole[::3], *whole[LENGTH - 1 :: LENGTH]}:
        for early_stop in (True, False):
            out = decoder_of(policy, eos_token_id=eos, eos_early_stop=early_stop).generate(PROMPT)
            ids, stats = out.sequences[0].tolist(), out.stats[0]
            assert stats.finish_reason == "eos" and stats.tokens == len(ids)
            early = stats.forwards < full.stats[0].forwards
            seen.add(early)
            held = whole
            if early:
                assert early_stop
                held = calls[stats.forwards][0, len(PROMPT) :].tolist()
                held = held[: held.index(VOCAB - 1)]  # the next block is masks
                assert len(held) % LENGTH == 0 and held[-1] == eos
            assert ids == held[: held.index(eos) + 1]
    assert seen == {True, False}


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.filterwarnings("ignore:block_length")
def test_requests_of_other_lengths_and_settings_beside_it_change_nothing(
    policy, delay, monkeypatch
):
    """Lengths are lanes of their own; the device may be a step ahead of the host."""
    decoder = decoder_of(policy)
    configs = [
        decoder.config.replace(max_new_tokens=new, block_length=length, cache="none")
        for new, length in ((14, 4), (5, 4), (16, 4), (14, 3))
    ]
    prompts = [PROMPT, *OTHERS]
    alone = [
        decoder.generate(prompt, config=config)
        for prompt, config in zip(prompts, configs, strict=True)
    ]
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    out = decoder_of(policy).generate(prompts, config=configs, max_batch=3)
    assert results(out) == [results(one)[0] for one in alone]


def test_one_that_comes_back_begins_with_its_first_block(policy):
    """What is kept of earlier blocks was on the device: a result is that of an undisturbed one."""
    (want,) = results(decoder_of(policy).generate(PROMPT))
    for steps in (1, 5, 9):
        with decoder_of(policy).engine() as living:
            living.add(PROMPT)
            events = [event for _ in range(steps) for event in living.step()]
            assert not events
            living.reset()
            while not living.idle:
                events += living.step()
        commits = [event for event in events if event.kind == "commit"]
        stats = events[-1].stats
        assert len(commits) == 1  # nothing is final before all is
        assert (commits[0].ids, stats.forwards, stats.remasks) == (
            want[0],
            want[1].forwards,
            want[1].remasks,
        )


def test_a_shift_a_draft_and_a_model_that_sees_no_block_ahead(policy):
    shifted = decoder_of(policy, shift=1).generate([PROMPT, *OTHERS])
    for ids, stats in zip(shifted.sequences, shifted.stats, strict=True):
        assert len(ids) == 14 and VOCAB - 1 not in ids.tolist() and stats.forwards > 0
    decoder = decoder_of(policy)
    kept = torch.tensor([5, VOCAB - 1, 7, VOCAB - 1, VOCAB - 1, 11])
    out = decoder.generate(PROMPT, draft=kept, keep_draft=True, max_new_tokens=6)
    ids = out.sequences[0]
    assert ids[[0, 2, 5]].tolist() == [5, 7, 11] and VOCAB - 1 not in ids.tolist()


def test_keys_of_earlier_blocks_may_not_be_cached(golden_model, policy):
    wanted = policy if "scope" in policy else f"{policy}:scope=generated"
    options = {key: value for key, value in GOLDEN.items() if key != "max_post_steps"}
    config = DecodeConfig(policy=wanted, **options | {"max_new_tokens": 20})
    decoder = Decoder(golden_model, config=config)
    with pytest.raises(ValueError, match=r'cached: set cache="none" or scope="block"'):
        decoder.generate(PROMPTS[1])
    together = results(decoder.generate(PROMPTS[:3], cache="none"))
    assert together == [results(decoder.generate(p, cache="none"))[0] for p in PROMPTS[:3]]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_nor_kept_as_they_were(policy, cache):
    """Where the scope is left open, it is that of a block then."""
    wanted = policy if "scope" in policy else f"{policy}:scope=generated"
    with pytest.raises(ValueError, match=r'cached: set cache="none" or scope="block"'):
        decoder_of(wanted, cache=cache).generate(PROMPT)
    assert not Saber().within(full=False).wide and Saber().within(full=True).wide
