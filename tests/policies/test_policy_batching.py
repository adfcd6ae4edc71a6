"""What holds for every rule on a real model: batches, orders, seeds, streams, stops and counts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from every_policy import NOISE, RANDOM, REOPENING, RULES, VARIABLE, decoder_of, drawing

from fastedit import Decoder

MASK, LENGTH, TOKENS = 127, 8, 14
LENGTHS = (17, 1, 24)


@pytest.fixture(scope="module")
def prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(7, 90, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture(params=[name for name in RULES if name != "correction"])
def name(request) -> str:
    return request.param


@pytest.fixture
def decoder(golden_model, tokenizer, name) -> Decoder:
    return decoder_of(golden_model, tokenizer, name, max_new_tokens=TOKENS)


def results(out) -> list[tuple]:
    return [
        (ids.tolist(), text, stats.as_dict() | {"prefill_forwards": 0})  # they reuse prefixes
        for ids, text, stats in zip(out.sequences, out.texts, out.stats, strict=True)
    ]


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.filterwarnings("ignore:temperature")
def test_a_batch_gives_every_request_its_own_result(decoder, name, prompts, draws):
    """Two at a time: the third waits and takes over a used slot. A cache changes no token."""
    options = drawing(name) if draws else {}
    alone = [results(decoder.generate(prompt, **options))[0] for prompt in prompts]
    assert results(decoder.generate(prompts[::-1], max_batch=2, **options)) == alone[::-1]
    plain = decoder.generate(prompts, cache="none", **options)
    assert [ids.tolist() for ids in plain.sequences] == [ids for ids, _, _ in alone]


@pytest.mark.filterwarnings("ignore:temperature")
def test_seeds_are_of_the_request(decoder, name, prompts):
    """One seed gives one result, in whatever company; another one gives another."""
    prompt, options = prompts[0], drawing(name)
    seeds = [1, 2, 3]
    out = decoder.generate([prompt] * 3, seed=seeds, **options)
    for seed, ids, stats in zip(seeds, out.sequences, out.stats, strict=True):
        assert stats.seed == seed
        assert decoder.generate(prompt, seed=seed, **options).sequences[0].equal(ids)
    assert len({tuple(ids.tolist()) for ids in out.sequences}) > 1
    if name not in RANDOM:
        greedy = decoder.generate([prompt] * 3, seed=seeds)
        assert len({tuple(ids.tolist()) for ids in greedy.sequences}) == 1


def test_a_stream_is_what_generate_returns(decoder, prompts):
    for prompt in prompts[:2]:
        (want,) = results(decoder.generate(prompt))
        events = list(decoder.stream(prompt))
        commits = [event for event in events if event.kind == "commit"]
        ids = [token for event in commits for token in event.ids]
        text = "".join(event.text for event in commits)
        stats = events[-1].stats.as_dict() | {"prefill_forwards": 0}
        assert (ids, text, stats) == want
        assert {event.kind for event in events[:-1]} == {"commit"}
        assert events[-1].kind == "end"


def test_stop_texts(decoder, prompts):
    """The first complete one ends the text before it, and the ids with the token that holds it."""
    full = decoder.generate(prompts[0])
    text, ids = full.texts[0], full.sequences[0].tolist()
    stop = next(a + b for a, b in pairwise(text[6:]) if "\ufffd" not in (a, b))
    out = decoder.generate(prompts[0], stop=stop)
    assert out.texts[0] == text[: text.index(stop)]
    assert out.stats[0].finish_reason == "stop"
    kept = out.sequences[0].tolist()
    assert kept == ids[: len(kept)] and stop in decoder.tokenizer.decode(kept)
    assert stop not in decoder.tokenizer.decode(kept[:-1])


def test_an_eos_ends_the_ids(decoder, name, prompts):
    """Early or late, the tokens up to it are the same; early, the blocks behind it are saved."""
    if name in VARIABLE:
        pytest.skip("one block, and an EOS that the rule itself writes")
    tokens = 20  # in three blocks, of which the window of a policy may hold two
    full = decoder.generate(prompts[0], max_new_tokens=tokens)
    ids = full.sequences[0].tolist()
    assert len(ids) == tokens and full.stats[0].finish_reason == "length"
    eos = ids[LENGTH // 2]
    want = ids[: ids.index(eos) + 1]
    forwards = {}
    for early in (True, False):
        ends = {"eos_token_id": eos, "eos_early_stop": early}
        out = decoder.generate(prompts[0], max_new_tokens=tokens, **ends)
        assert out.sequences[0].tolist() == want
        assert out.stats[0].finish_reason == "eos" and out.stats[0].tokens == len(want)
        forwards[early] = out.stats[0].forwards
    assert forwards[True] < forwards[False] == full.stats[0].forwards


def test_counts_are_what_the_drafts_show(decoder, name, prompts):
    """Masks that became tokens, tokens that became masks, tokens that became other tokens. A block
    of noise does not show what it began with: there, only the changes from its second draft on.
    Drafts show the active block, and the counts are also of what it had reopened."""
    if name in VARIABLE:
        pytest.skip("texts of other lengths: tests/plans/test_varying.py")
    prompt = prompts[0]
    events = list(decoder.stream(prompt, drafts=True, cache="none"))
    stats = events[-1].stats
    head = len(prompt) % LENGTH
    before: dict[int, list[int]] = {}
    fills = edits = remasks = unknown = steps = 0
    for event in (event for event in events if event.kind == "draft"):
        steps += 1
        if event.block in before:
            old = before[event.block]
        else:
            noise = name in NOISE
            width = LENGTH - (head if event.block == len(prompt) // LENGTH else 0)
            assert len(event.ids) == width
            old = event.ids if noise else [MASK] * width
            unknown += width if noise else 0
        for a, b in zip(old, event.ids, strict=True):
            fills += a == MASK != b
            remasks += a != MASK == b
            edits += MASK not in (a, b) and a != b
        before[event.block] = event.ids
    assert steps == stats.forwards
    assert (stats.m2t_commits, stats.remasks) == (fills, remasks)
    assert edits <= stats.t2t_edits
    assert name in REOPENING or stats.t2t_edits <= edits + unknown
    assert stats.edits_per_100_tokens == pytest.approx(100 * stats.t2t_edits / stats.tokens)
    assert stats.tokens_per_forward == pytest.approx(stats.tokens / stats.forwards)


def test_nothing_is_asked_for(decoder, prompts):
    out = decoder.generate(prompts, max_new_tokens=0)
    assert [len(ids) for ids in out.sequences] == [0] * len(prompts)
    assert out.texts == [""] * len(prompts)
    assert all(stats.forwards == stats.tokens == 0 for stats in out.stats)


def test_one_token_is_asked_for(decoder, name, prompts):
    out = decoder.generate(prompts, max_new_tokens=1)
    lengths = [len(ids) for ids in out.sequences]
    assert max(lengths) == 1 and (name in VARIABLE or min(lengths) == 1)
    assert MASK not in torch.cat(out.sequences)
