"""Prompts that are read as they are needed: how far, what comes of them, and how it ends."""

import gc
import itertools
import weakref

import pytest
import torch
from cases import GOLDEN, MASK, PROMPTS, SCRIPTED, V, scripted
from fakes import ScriptedModel, hashed

from fastedit import DecodeConfig, Decoder
from fastedit.memory.capacity import Room
from fastedit.models.families import Family
from fastedit.results import RefusedError

OPTIONS = SCRIPTED | {"seed": 3}


class Feed:
    """Counts how many of `prompts` were read."""

    def __init__(self, prompts):
        self.prompts, self.read = iter(prompts), 0

    def __iter__(self):
        return self

    def __next__(self):
        prompt = next(self.prompts)
        self.read += 1
        return prompt


def endless():
    return (torch.tensor([i % 7, 1, 2]) for i in itertools.count())


def lengths(results):
    return {r.index: (r.sequence.tolist(), r.stats.finish_reason) for r in results}


@pytest.mark.parametrize("max_batch", [1, 3])
def test_a_feed_without_end_is_read_two_batches_ahead(max_batch):
    feed = Feed(endless())
    results = Decoder(scripted()).as_completed(feed, max_batch=max_batch, **OPTIONS)
    assert feed.read == 0
    for done, _ in enumerate(itertools.islice(results, 40)):
        assert done < feed.read <= done + 1 + 2 * max_batch + max_batch  # a step may end a batch
    read = feed.read
    results.close()
    assert feed.read == read


def test_results_of_a_feed_are_those_of_a_list(golden_model):
    decoder = Decoder(golden_model, config=DecodeConfig(**GOLDEN))
    prompts = [*PROMPTS, PROMPTS[0].tolist(), PROMPTS[1][None], {"input_ids": PROMPTS[2].tolist()}]
    want = decoder.generate(prompts)
    for feed in (iter(prompts), (p for p in prompts), map(torch.as_tensor, prompts[:7])):
        found = {r.index: r for r in decoder.as_completed(feed, max_batch=2)}
        assert sorted(found) in (list(range(len(prompts))), list(range(7)))
        for index, result in found.items():
            assert result.sequence.equal(want.sequences[index])
            assert result.stats.t2t_edits == want.stats[index].t2t_edits


def test_texts_and_chats_come_from_a_feed(tokenizer):
    model = ScriptedModel(300, hashed(300, 257, 1))
    decoder = Decoder(model, tokenizer)
    options = OPTIONS | {"mask_token_id": 257}
    chat = [{"role": "user", "content": "hi"}]
    prompts = ["one", chat, {"messages": chat}, torch.tensor([5, 6])]
    want = decoder.generate(prompts, **options)
    found = {r.index: r.text for r in decoder.as_completed(iter(prompts), **options)}
    assert [found[i] for i in range(4)] == want.texts


def test_an_iterable_class_is_a_feed_and_sets_are_not():
    class Data:
        def __iter__(self):
            return iter([[1, 2], [3]])

    decoder = Decoder(scripted())
    assert len(list(decoder.as_completed(Data(), **OPTIONS))) == 2
    assert list(decoder.as_completed(iter([]), **OPTIONS)) == []
    for bad in ({1, 2}, {(1, 2)}, 7, b"ab", None):
        with pytest.raises(TypeError, match="prompts must be text"):
            decoder.as_completed(bad, **OPTIONS)
    with pytest.raises(TypeError, match="got generator: `as_completed` reads"):
        decoder.generate((p for p in [[1]]), **OPTIONS)


def test_what_is_wrong_with_a_call_is_said_before_anything_is_read():
    decoder, feed = Decoder(scripted()), Feed(endless())
    for options, words in (
        ({"max_batch": 0}, "max_batch"),
        ({"threshold": -1}, "threshold"),
        ({"attention_mask": torch.ones(1, 2)}, "attention_mask goes with"),
        ({"config": 5}, "config must be"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            decoder.as_completed(feed, **OPTIONS | options)
    assert feed.read == 0


def test_bad_prompts_of_a_feed_fail_alone_as_they_are_read():
    prompts = [[1, 2], [], [MASK], [3], None, [99]]
    results = list(Decoder(scripted()).as_completed(iter(prompts), max_batch=1, **OPTIONS))
    refused = {r.index for r in results if isinstance(r.error, RefusedError)}
    assert refused == {1, 2, 4, 5} and {r.index for r in results} == set(range(6))
    feed = Feed(itertools.repeat([]))  # and one of bad prompts alone is not read to its end
    results = Decoder(scripted()).as_completed(feed, **OPTIONS)
    assert [r.index for r in itertools.islice(results, 5)] == [0, 1, 2, 3, 4]
    assert feed.read == 5


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_a_feed_that_raises_loses_nothing_that_it_gave(after):
    def feed():
        yield from itertools.islice(endless(), after)
        raise KeyError("a page that is gone")

    results, want = (
        [],
        Decoder(scripted()).generate(list(itertools.islice(endless(), 9)), **OPTIONS),
    )
    with pytest.raises(KeyError, match="a page"):
        results.extend(Decoder(scripted()).as_completed(feed(), max_batch=2, **OPTIONS))
    assert lengths(results) == {i: (want.sequences[i].tolist(), "length") for i in range(after)}


def test_configs_are_read_along():
    def configs():
        for n in itertools.count(1):
            yield DecodeConfig(**OPTIONS | {"max_new_tokens": n % 9})

    prompts = list(itertools.islice(endless(), 12))
    results = list(Decoder(scripted()).as_completed(iter(prompts), config=configs()))
    assert {r.index: len(r.sequence) for r in results} == {i: (i + 1) % 9 for i in range(12)}
    few = Decoder(scripted()).as_completed(
        iter(prompts), config=itertools.islice(configs(), 3), max_batch=1
    )
    results = []
    with pytest.raises(ValueError, match="config has 3 entries, and there is a prompt 3"):
        results.extend(few)
    assert sorted(r.index for r in results) == [0, 1, 2]
    with pytest.raises(TypeError, match="config of prompt 1 must be a DecodeConfig"):
        list(Decoder(scripted()).as_completed(iter(prompts), config=[DecodeConfig(**OPTIONS), 5]))


def test_seeds_and_overrides_go_on_top_of_a_feed():
    prompts = list(itertools.islice(endless(), 3))
    options = OPTIONS | {"temperature": 1.0, "seed": [4, 5, 6]}
    with pytest.warns(UserWarning, match="temperature > 0 draws anew"):
        results = list(Decoder(scripted()).as_completed(iter(prompts), **options))
    assert {r.index: r.stats.seed for r in results} == {0: 4, 1: 5, 2: 6}
    with pytest.raises(ValueError, match="seed has 2 entries for at least 3 prompts"):
        list(Decoder(scripted()).as_completed(iter(prompts), **OPTIONS | {"seed": [1, 2]}))


def test_nothing_is_left_of_what_ended():
    """Prompts and results of a long feed are let go of."""
    alive: list[weakref.ref] = []

    def feed():
        for prompt in endless():
            alive.append(weakref.ref(prompt))
            yield prompt

    results = Decoder(scripted()).as_completed(feed(), max_batch=2, **OPTIONS)
    for result in itertools.islice(results, 60):
        assert result.error is None
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 3 * 2 + 2


def test_a_feed_may_decode_itself():
    """What it decodes with has an engine of its own, and its requests."""
    decoder = Decoder(scripted())

    def feed():
        for ids in ([1, 2], [3]):
            yield torch.cat([torch.tensor(ids), *decoder.generate([ids], **OPTIONS).sequences])

    second = decoder.as_completed(feed(), max_batch=2, **OPTIONS)
    want = decoder.generate(list(feed()), **OPTIONS)
    assert lengths(second) == {i: (ids.tolist(), "length") for i, ids in enumerate(want.sequences)}


def test_a_model_that_fails_ends_the_feed():
    class Failing(ScriptedModel):
        def __call__(self, **inputs):
            if len(self.calls) == 20:
                raise KeyError("a weight")
            return super().__call__(**inputs)

    feed, results = Feed(endless()), []
    with pytest.raises(KeyError, match="a weight"):
        results.extend(
            Decoder(Failing(V, hashed(V, MASK, 1))).as_completed(feed, max_batch=2, **OPTIONS)
        )
    assert results and all(r.stats.finish_reason == "length" for r in results)


def test_host_work_of_a_step_does_not_grow_with_the_call():
    """Prompts are neither prepared nor looked at before their turn, list or feed."""
    from fastedit.engine.scheduler import Scheduler

    most = 0

    class Watched(Scheduler):
        def lets_in(self, requests, positions):
            nonlocal most
            most = max(most, len(self.waiting))
            return super().lets_in(requests, positions)

    import fastedit.engine.engine as engine

    before, engine.Scheduler = engine.Scheduler, Watched
    try:
        prompts = list(itertools.islice(endless(), 50))
        for kind in (list, iter):
            list(Decoder(scripted()).as_completed(kind(prompts), max_batch=2, **OPTIONS))
    finally:
        engine.Scheduler = before
    assert most == 4


def test_room_is_for_the_widest():
    base = DecodeConfig(block_length=8)
    configs = {
        "plain": base,
        "long": base.replace(block_length=32),
        "two": base.replace(block_length=20, lookahead=True),
        "whole": base.replace(cache="none"),
    }
    family = Family()

    def of(*names):
        room = Room.of("auto", [configs[name] for name in names], family)
        return room.rows, room.whole

    assert of("plain") == (8, False) and of("plain", "long") == of("long", "plain") == (32, False)
    assert of("long", "two", "plain") == (40, False)
    assert of("whole") == (0, True) and of("whole", "plain") == (8, True)
    full = Room.of("auto", [configs["long"]], Family(attention="full"))
    assert (full.rows, full.whole) == (0, True)
