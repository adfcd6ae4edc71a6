"""Text piece by piece is the text as a whole, for every kind of tokenizer, at a linear cost."""

from __future__ import annotations

import functools
import random
import time

import pytest
import torch
from fakes import ScriptedModel, saying
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers_of_all_kinds import BOUNDED, unknown

from fastedit import Decoder
from fastedit.prompts.spelling import Spelling
from fastedit.prompts.stops import Search, Stops
from fastedit.prompts.tracker import TextTracker

KINDS = {**BOUNDED, "unknown": unknown}
tokenizer_of = functools.cache(lambda kind: KINDS[kind]())
kinds = pytest.mark.parametrize("kind", list(KINDS))
bounded = pytest.mark.parametrize("kind", list(BOUNDED))


def whole(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def streamed(tokenizer, ids, sizes, stops=()):
    """(pieces, ids kept) of blocks of these sizes, the last one repeated."""
    tracker, committed, pieces = TextTracker(tokenizer, Stops(tokenizer, list(stops))), [], []
    sizes = list(sizes)
    while len(committed) < len(ids):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        committed += ids[len(committed) : len(committed) + size]
        final = len(committed) == len(ids)
        kept = tracker.update(committed, final)
        del committed[kept if kept is not None else len(committed) :]
        pieces.append(tracker.take(final))
        if tracker.stopped:
            break
    return pieces, len(committed), tracker


def some_ids(tokenizer, shape: random.Random, length: int) -> list[int]:
    """Random ids, among them runs that spell real text, and ids that no token has."""
    count, ids = len(tokenizer), list[int]()
    while len(ids) < length:
        kind = shape.random()
        if kind < 0.4:
            text = "".join(shape.choices(["中", "文", "😀", "é", "a", " ", "the ", "x,"], k=3))
            spelt = tokenizer(text, add_special_tokens=False).input_ids
            ids += spelt[shape.randrange(2) :]
        elif kind < 0.6:  # of one neighbourhood: bytes, specials
            start = shape.randrange(count)
            ids += [min(start + shape.randrange(4), count + 2) for _ in range(shape.randrange(5))]
        else:
            ids.append(shape.randrange(count + 3))
    return ids[:length]


@kinds
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pieces_joined_are_the_whole(kind, data):
    tokenizer = tokenizer_of(kind)
    seed = data.draw(st.integers(0, 2**32))
    ids = some_ids(tokenizer, random.Random(seed), data.draw(st.integers(1, 40)))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    pieces, _, tracker = streamed(tokenizer, ids, sizes)
    assert tracker.text == whole(tokenizer, ids)
    if kind in BOUNDED:
        assert "".join(pieces) == whole(tokenizer, ids)


@bounded
def test_long_texts_join_too(kind):
    tokenizer = tokenizer_of(kind)
    ids = some_ids(tokenizer, random.Random(1), 4000)
    for sizes in ([1], [32], [7, 1, 64]):
        pieces, _, tracker = streamed(tokenizer, ids, sizes)
        assert "".join(pieces) == tracker.text == whole(tokenizer, ids)
        assert sum(map(bool, pieces)) > len(pieces) / 4  # and not all of it at the end


@pytest.mark.parametrize(
    ("kind", "tokens", "pieces"),
    [
        # a character waits for its last byte, what stands before it does not
        ("byte_level", ["a", *"ðŁĺ", "Ģ", "b"], ["a", "", "", "", "😀", "b"]),
        ("byte_level", ["ÿ", "a"], ["\ufffd", "a"]),
        # a run of bytes is text or not as a whole
        ("llama", ["<0xE4>", "<0xB8>", "<0xAD>", "▁a"], ["", "", "", "中 a"]),
        ("llama", ["<0xE4>", "<0xB8>", "<0xAD>", "<0xFF>", "a"], [*[""] * 4, "\ufffd" * 4 + "a"]),
        ("llama", ["<0xE4>", "<eos>", "<0xB8>", "<0xAD>", "a"], ["", "", "", "", "中a"]),
        # only the first token of all loses its space
        ("llama", ["▁the", "<eos>", "▁a", "▁", "x"], ["the", "", " a", " ", "x"]),
        ("metaspace", ["▁", "▁a", "<eos>", "▁a"], ["", " a", "", " a"]),
        ("metaspace", ["<eos>", "▁a", "▁a"], ["", "a", " a"]),
        ("word_piece", ["a", "##x", "<eos>", ".", "a", "n't"], ["a", "x", "", ".", " a", "n't"]),
        ("suffixed", ["the", "a</w>", "x</w>"], ["the", "a", " x"]),
        ("gemma", ["a", "<note>", "▁a"], ["a", "<note>", " a"]),
    ],
)  # fmt: skip
def test_what_waits_and_what_does_not(kind, tokens, pieces):
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert None not in ids
    shown, _, _ = streamed(tokenizer, [*ids, ids[0]], [1])
    assert shown[: len(pieces)] == pieces


@bounded
@pytest.mark.parametrize("block", [1, 5, 32])
def test_a_stream_is_what_generate_returns(kind, block):
    tokenizer = tokenizer_of(kind)
    said = [i for i in some_ids(tokenizer, random.Random(block), 60) if i < len(tokenizer)]
    mask, end = tokenizer.convert_tokens_to_ids(["<|mask|>", "<eos>"])
    said = [i for i in said if i not in (mask, end)]
    vocab = len(tokenizer)
    decoder = Decoder(ScriptedModel(vocab, saying([0, *said], vocab, then=end)), tokenizer)
    options = {"block_length": block, "use_cache": False, "max_new_tokens": len(said) + 3}
    options |= {"mask_token_id": mask}
    text = decoder.generate(torch.tensor([0]), **options).texts[0]
    assert text == whole(tokenizer, said)
    pieces = [e.text for e in decoder.stream(torch.tensor([0]), **options) if e.kind == "commit"]
    assert "".join(pieces) == text


def first_stop(tokenizer, ids, stops):
    """(ids kept, text before the stop) of the least number of ids whose text holds one."""
    for kept in range(1, len(ids) + 1):
        text = whole(tokenizer, ids[:kept])
        starts = [text.find(stop) for stop in stops if stop in text]
        if starts:
            return kept, text[: min(starts)]
    return len(ids), whole(tokenizer, ids)


@kinds
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_first_stop_text_is_found_wherever_blocks_end(kind, data):
    tokenizer = tokenizer_of(kind)
    words = ["a", "x", "the", "中", "é", "😀", ","]
    shape = random.Random(data.draw(st.integers(0, 2**32)))
    text = "".join(shape.choices(words, k=data.draw(st.integers(1, 14))))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    shown = whole(tokenizer, ids) or "a"
    places = [shape.randrange(len(shown)) for _ in range(data.draw(st.integers(1, 3)))]
    stops = [shown[p : p + shape.randrange(1, 4)] for p in places] + ["zz"]
    stops = [stop for stop in stops if stop.strip() and "\ufffd" not in stop]
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    pieces, kept, tracker = streamed(tokenizer, ids, sizes, stops)
    want = first_stop(tokenizer, ids, stops)
    assert (kept, tracker.text) == want
    assert "".join(pieces) == tracker.text


@settings(max_examples=150, deadline=None)
@given(
    text=st.text("ab", max_size=14),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 14), max_size=4),
)
@example(text="aabb", stops=["aabb", "ab"], cuts=[2])
def test_search_finds_what_comparing_all_texts_finds(text, stops, cuts):
    search, state, done, seen = Search(tuple(stops)), 0, 0, ""
    for cut in [*sorted(cuts), len(text)]:
        piece = text[done : max(cut, done)]
        state, found = search.scan(state, piece)
        starts = [
            end - len(stop)
            for end in range(done + 1, done + len(piece) + 1)
            for stop in stops
            if text[:end].endswith(stop)
        ]
        assert found == (min(starts) - done if starts else None)
        done, seen = done + len(piece), seen + piece
        ends = [
            n
            for n in range(len(seen) + 1)
            if any(s.startswith(seen[len(seen) - n :]) for s in stops)
        ]
        assert search.held[state] == max(ends)


def ratio(work, other) -> float:
    """Of the processor's time for both, the least of several turns, which others disturb least."""
    times = {work: [], other: []}
    for _ in range(5):
        for each, taken in times.items():
            began = time.process_time()
            each()
            taken.append(time.process_time() - began)
    return min(times[work]) / min(times[other])


def blocks(tokenizer, ids, stops, stream):
    """What a request of blocks of 32 does."""
    known = Stops(tokenizer, stops)

    def work():
        tracker, committed = TextTracker(tokenizer, known), []
        for start in range(0, len(ids), 32):
            committed += ids[start : start + 32]
            assert tracker.update(committed, final=False) is None
            if stream:
                tracker.take(False)
        assert tracker.text

    return work


@pytest.mark.parametrize("kind", ["byte_level", "llama", "word_piece"])
@pytest.mark.parametrize("way", ["whole", "streamed", "stops"])
def test_twice_the_tokens_cost_twice(kind, way):
    tokenizer = tokenizer_of(kind)
    ids = some_ids(tokenizer, random.Random(2), 4096)
    stops = ["zz" * 7 + str(i) for i in range(5000)] if way == "stops" else []
    half = blocks(tokenizer, ids[:2048], stops, way == "streamed")
    all_of_it = blocks(tokenizer, ids, stops, way == "streamed")
    assert ratio(all_of_it, half) < 3.2


@pytest.mark.parametrize(
    ("kind", "token"),
    [("llama", "<0xE4>"), ("llama", "<eos>"), ("byte_level", "ÿ"), ("metaspace", "<eos>")],
)
def test_a_run_that_settles_nothing_is_no_exception(kind, token, monkeypatch):
    """Ids that a tokenizer decodes, over all blocks: not their number for every block."""
    tokenizer, decoded = tokenizer_of(kind), []
    ids = tokenizer.convert_tokens_to_ids(["a"]) + [tokenizer.convert_tokens_to_ids(token)] * 2048
    decode = type(tokenizer).decode
    monkeypatch.setattr(
        type(tokenizer),
        "decode",
        lambda self, ids, **options: decoded.append(len(ids)) or decode(self, ids, **options),
    )
    pieces, _, tracker = streamed(tokenizer, ids, [32])
    assert "".join(pieces) == tracker.text
    assert sum(decoded) < 6 * len(ids)


def test_nothing_is_decoded_before_somebody_asks(monkeypatch):
    tokenizer, calls = tokenizer_of("llama"), []
    decode = type(tokenizer).decode
    monkeypatch.setattr(
        type(tokenizer), "decode", lambda self, *a, **o: calls.append(a) or decode(self, *a, **o)
    )
    tracker, ids = TextTracker(tokenizer, Stops(tokenizer, ["<eos>"])), []
    for _ in range(20):
        ids += tokenizer.convert_tokens_to_ids(["a", "x"])
        assert tracker.update(ids) is None
    assert calls == []
    assert tracker.text == "ax" * 20 and len(calls) == 1


def test_ids_that_were_taken_back_are_not_in_the_text():
    tokenizer = tokenizer_of("byte_level")
    tracker = TextTracker(tokenizer, Stops(tokenizer, ["c"]))
    ids = tokenizer("ab").input_ids
    tracker.update(ids)
    assert tracker.update(ids + tokenizer("c").input_ids) == 3
    assert tracker.update(ids) is None and tracker.text == "ab"


def test_every_kind_of_decoder_is_known_or_not():
    known = {kind: Spelling(tokenizer_of(kind)).kind for kind in KINDS}
    assert known.pop("byte_level") == Spelling.BYTES
    assert known.pop("unknown") == Spelling.WHOLE
    assert set(known.values()) == {Spelling.TOKENS}
