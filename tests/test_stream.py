"""Streams: committed text only grows, holds back what may still change, and ends like generate."""

import pytest
import torch
from fakes import ScriptedModel, hashed, one_hot, saying
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastedit import Decoder

V, MASK, EOS = 260, 257, 256
OPTIONS = {"block_length": 4, "use_cache": False}
PROMPT = "?"


def speaker(tokenizer, text, **options):
    """(decoder, options) of a model that says `text`, then EOS."""
    said = [0, *tokenizer(text).input_ids, EOS]
    model = ScriptedModel(V, saying(said, V, then=EOS), eos_token_id=EOS)
    return Decoder(model, tokenizer), OPTIONS | {"max_new_tokens": len(said) + 3} | options


def stream(decoder, options, prompt=PROMPT, **more):
    return list(decoder.stream(prompt, **options, **more))


def pieces(events):
    return [event.text for event in events if event.kind == "commit"]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("aé€😀 b"), max_size=12), block=st.integers(1, 7))
def test_texts_joined_are_the_text_and_hold_no_half_character(tokenizer, text, block):
    decoder, options = speaker(tokenizer, text, block_length=block)
    events = stream(decoder, options)
    out = decoder.generate(PROMPT, **options)
    assert out.texts == [text] and "".join(pieces(events)) == text
    assert not any("\ufffd" in piece for piece in pieces(events))
    ids = [token for event in events if event.kind == "commit" for token in event.ids]
    assert ids == out.sequences[0].tolist() == [*tokenizer(text).input_ids, EOS]
    assert [event.kind for event in events] == ["commit"] * (len(events) - 1) + ["end"]
    assert events[-1].stats.as_dict() | {"seed": 0} == out.stats[0].as_dict() | {"seed": 0}


@settings(max_examples=25, deadline=None)
@given(
    said=st.lists(st.sampled_from([*range(250, 256), 0x61, 0x62, 130, 200]), max_size=9),
    block=st.integers(1, 5),
)
def test_texts_of_broken_characters_join_too(tokenizer, said, block):
    decoder = Decoder(ScriptedModel(V, saying([0, *said], V, then=EOS)), tokenizer)
    options = {"block_length": block, "use_cache": False, "max_new_tokens": 10}
    text = decoder.generate(PROMPT, **options).texts[0]
    assert "".join(pieces(stream(decoder, options))) == text
    assert text == tokenizer.decode(said)


def first_stop(text, stops):
    """(text before the stop, characters up to its end) of the stop that is complete first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], end
    return None


@settings(max_examples=80, deadline=None)
@given(
    text=st.text("ab", max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    block=st.integers(1, 6),
    early=st.booleans(),
)
@example(text="aabb", stops=["aabb", "ab"], block=5, early=True)
def test_the_first_complete_stop_text_ends_everything(tokenizer, text, stops, block, early):
    decoder, options = speaker(
        tokenizer, text, block_length=block, stop=stops, eos_early_stop=early
    )
    out = decoder.generate(PROMPT, **options)
    found = first_stop(text, stops)
    kept, length, reason = (*found, "stop") if found else (text, len(text) + 1, "eos")
    said = [*tokenizer(text).input_ids, EOS]
    assert out.texts == [kept] and out.stats[0].finish_reason == reason
    assert out.sequences[0].tolist() == said[:length]
    assert out.stats[0].tokens == length
    shown = pieces(stream(decoder, options))
    assert "".join(shown) == kept
    for i in range(len(shown)):  # nothing is shown that may still become a stop text
        assert kept.startswith("".join(shown[: i + 1]))


def test_a_possible_stop_text_is_held_back_until_it_is_not(tokenizer):
    decoder, options = speaker(tokenizer, "xy€nd. z", stop=["€nd!"])
    assert pieces(stream(decoder, options))[0] == "xy"  # P = 1: blocks of 3, 4, 4 bytes
    assert "".join(pieces(stream(decoder, options))) == "xy€nd. z"
    decoder, options = speaker(tokenizer, "xy€nd! z", stop="€nd!")
    assert "".join(pieces(stream(decoder, options))) == "xy"


@pytest.mark.parametrize("special", ["<eos>", "<|role_end|>"])
def test_a_stop_that_is_a_special_token_ends_by_its_id(tokenizer, special):
    said = [*tokenizer("ab").input_ids, tokenizer.convert_tokens_to_ids(special)]
    model = ScriptedModel(V, saying([0, *said, 70, 70], V, then=70))
    decoder = Decoder(model, tokenizer)
    options = OPTIONS | {"stop": [special, "zz"], "eos_token_id": [], "max_new_tokens": 12}
    out = decoder.generate(PROMPT, mask_token_id=MASK, **options)
    assert (out.texts, out.sequences[0].tolist()) == (["ab"], said)
    assert out.stats[0].finish_reason == "stop"


def test_a_stop_text_ends_before_an_eos_and_not_behind_it(tokenizer):
    decoder, options = speaker(tokenizer, "abc", stop="c", block_length=8)
    out = decoder.generate(PROMPT, **options)
    assert (out.texts, out.stats[0].finish_reason, out.stats[0].tokens) == (["ab"], "stop", 3)
    said = [0, 70, EOS, *tokenizer("c").input_ids]
    decoder = Decoder(ScriptedModel(V, saying(said, V, then=EOS)), tokenizer)
    out = decoder.generate(PROMPT, **options)
    assert (out.stats[0].finish_reason, out.sequences[0].tolist()) == ("eos", [70, EOS])


def test_a_stop_text_saves_the_blocks_behind_it_whatever_an_eos_does(tokenizer):
    decoder, options = speaker(tokenizer, "abcdefghij", stop="d", eos_early_stop=False)
    decoder.generate(PROMPT, **options)
    assert {len(call[0]) for call in decoder.model.calls} == {4, 8}


def test_a_stop_text_ends_one_request_of_a_batch(tokenizer):
    decoder, options = speaker(tokenizer, "abcdefghij", stop="d")
    out = decoder.generate(["?", "???", "?" * 10], **options)
    assert out.texts == ["abc", "c", "j"]
    assert [stats.finish_reason for stats in out.stats] == ["stop", "stop", "eos"]


def test_drafts_come_only_when_asked_one_for_each_step(tokenizer):
    decoder, options = speaker(tokenizer, "abcdefg")
    quiet = stream(decoder, options)
    assert {event.kind for event in quiet} == {"commit", "end"}
    events = stream(decoder, options, drafts=True)
    drafts = [event for event in events if event.kind == "draft"]
    assert len(drafts) == events[-1].stats.forwards
    assert pieces(events) == pieces(quiet)
    for block in {event.block for event in drafts}:
        mine = [event for event in drafts if event.block == block]
        assert [event.step for event in mine] == list(range(1, len(mine) + 1))
        commit = next(e for e in events if e.kind == "commit" and e.block == block)
        assert mine[-1].ids[: len(commit.ids)] == commit.ids
    assert drafts[0].ids == tokenizer("abc").input_ids and drafts[0].text == "abc"


def test_drafts_show_what_is_still_masked_and_what_is_edited(tokenizer):
    """Position 1 is first 70, then 71; the others commit one by one."""

    def rule(seen, i):
        if i == 1:
            return one_hot(70 if seen[1] == MASK else 71, V)
        return one_hot(80 + i, V, height=5.0)

    decoder = Decoder(ScriptedModel(V, rule), tokenizer)
    options = OPTIONS | {"max_new_tokens": 3, "mask_token_id": MASK, "eos_token_id": []}
    events = stream(decoder, options, prompt=torch.tensor([5]), drafts=True)
    drafts = [event.ids for event in events if event.kind == "draft"]
    assert drafts == [[70, MASK, MASK], [71, 82, MASK], [71, 82, 83], [71, 82, 83]]
    assert MASK not in next(event.ids for event in events if event.kind == "commit")


def test_a_stream_works_without_a_tokenizer():
    decoder = Decoder(ScriptedModel(9, hashed(9, 8, 1)))
    options = OPTIONS | {"mask_token_id": 8, "eos_token_id": [], "max_new_tokens": 6}
    events = stream(decoder, options, prompt=torch.tensor([1]))
    ids = decoder.generate(torch.tensor([1]), **options).sequences[0].tolist()
    assert [token for event in events for token in event.ids] == ids
    assert set(pieces(events)) == {""}


def test_a_stream_refuses_several_prompts_at_once(tokenizer):
    decoder, options = speaker(tokenizer, "a")
    with pytest.raises(ValueError, match="2"):
        decoder.stream(["a", "b"], **options)  # when called, not at the first event
    assert decoder.model.calls == []


def test_an_empty_stream_has_an_end(tokenizer):
    decoder, options = speaker(tokenizer, "a", max_new_tokens=0)
    (event,) = stream(decoder, options)
    assert event.kind == "end" and event.stats.tokens == 0


def test_two_streams_of_one_decoder_do_not_mix(tokenizer):
    decoder, options = speaker(tokenizer, "abcdefghijkl")
    one, two = decoder.stream("?", **options), decoder.stream("???", **options)
    pairs = list(zip(one, two, strict=True))
    assert "".join(event.text for event, _ in pairs) == "abcdefghijkl"
    assert "".join(event.text for _, event in pairs) == "cdefghijkl"


def test_generate_returns_no_texts_without_a_tokenizer():
    decoder = Decoder(ScriptedModel(9, hashed(9, 8)))
    out = decoder.generate(torch.tensor([1]), mask_id=8, gen_length=3, **OPTIONS)
    assert out.texts is None and len(out.sequences) == 1
    assert out.sequences[0].dtype == torch.int64
