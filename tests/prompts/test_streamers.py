"""transformers' own streamers on `Decoder.generate`."""

import re

import pytest
import torch
from cases import GOLDEN
from fakes import ScriptedModel, one_hot, saying
from transformers import TextDiffusionStreamer, TextIteratorStreamer, TextStreamer

from fastedit import Decoder

V, MASK, EOS = 260, 257, 256
TEXT = "one two, größer: 😀 end"
OPTIONS = {"block_length": 4, "use_cache": False, "max_new_tokens": 40}
DRAFT = re.compile(r"\x1b7\x1b\[33m(.*?)\x1b\[0m\x1b8\x1b\[J", re.S)


@pytest.fixture
def decoder(tokenizer):
    said = [0, *tokenizer(TEXT).input_ids, EOS]
    return Decoder(ScriptedModel(V, saying(said, V, then=EOS)), tokenizer)


@pytest.mark.parametrize("skip", [True, False])
def test_a_text_streamer_prints_the_prompt_and_the_text(decoder, tokenizer, capsys, skip):
    streamer = TextStreamer(tokenizer, skip_prompt=skip, skip_special_tokens=True)
    out = decoder.generate("?", streamer=streamer, **OPTIONS)
    assert out.texts == [TEXT]
    assert capsys.readouterr().out == ("" if skip else "?") + TEXT + "\n"


def test_a_diffusion_streamer_prints_drafts_and_leaves_the_text(decoder, tokenizer, capsys):
    streamer = TextDiffusionStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    out = decoder.generate("?", streamer=streamer, **OPTIONS)
    printed = capsys.readouterr().out
    assert len(DRAFT.findall(printed)) == out.stats[0].forwards
    assert "one" in DRAFT.findall(printed)
    assert DRAFT.sub("", printed) == TEXT + "\n"


def test_a_streamer_that_takes_logits_gets_those_of_the_generated_positions(decoder):
    class Logits:
        _takes_logits = True

        def __init__(self):
            self.shapes, self.best, self.final = [], [], []

        def put(self, value):
            self.final.append(value.tolist())

        def put_draft(self, logits):
            self.shapes.append(tuple(logits.shape))
            self.best.append(logits.argmax(-1)[0].tolist())

        def end(self):
            self.ended = True

    streamer = Logits()
    out = decoder.generate("?", streamer=streamer, **(OPTIONS | {"max_new_tokens": 7}))
    assert streamer.shapes == [(1, 3, V)] * 2 + [(1, 4, V)] * 2
    assert streamer.final[1:] == [streamer.best[0], streamer.best[2]]
    assert [*streamer.final[1], *streamer.final[2]] == out.sequences[0].tolist()
    assert streamer.ended


def test_an_iterator_streamer_yields_the_text(decoder, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    decoder.generate("?", streamer=streamer, **OPTIONS)
    assert "".join(streamer) == TEXT


def test_a_streamer_never_sees_a_token_that_is_edited_later(tokenizer):
    def rule(seen, i):
        return one_hot(70 if seen[i] == MASK else 71, V)

    class Plain:
        def __init__(self):
            self.values = []

        def put(self, value):
            self.values.append(value.tolist())

        def end(self):
            self.values.append("end")

    streamer = Plain()
    options = OPTIONS | {"max_new_tokens": 7, "mask_token_id": MASK, "eos_token_id": []}
    Decoder(ScriptedModel(V, rule)).generate(torch.tensor([5]), streamer=streamer, **options)
    assert streamer.values == [[[5]], [71] * 3, [71] * 4, "end"]


@pytest.mark.parametrize("kind", [TextStreamer, TextDiffusionStreamer])
def test_a_batch_is_refused_before_any_model_call(decoder, tokenizer, kind):
    with pytest.raises(ValueError):
        decoder.generate(["?", "??"], streamer=kind(tokenizer), **OPTIONS)
    assert decoder.model.calls == []


@pytest.mark.parametrize("prompts", [["?", "??"], []])
def test_a_streamer_of_one_s_own_is_given_nothing_of_a_batch(decoder, prompts):
    class Unwanted:
        def put(self, value):
            raise AssertionError("put was called")

    with pytest.raises(ValueError, match=str(len(prompts))):
        decoder.generate(prompts, streamer=Unwanted(), **OPTIONS)


def test_logits_of_a_model_in_half_precision_come_in_fp32(golden):
    """As they always did; numpy, for one, has no bf16."""
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    class Logits:
        _takes_logits = True
        put = end = lambda *ignored: None

        def put_draft(self, logits):
            dtypes.add(logits.dtype)

    model, dtypes = LLaDA2MoeModelLM.from_pretrained(golden, dtype="bfloat16").eval(), set()
    Decoder(model).generate(torch.arange(1, 14), streamer=Logits(), **GOLDEN)
    assert dtypes == {torch.float32}
