"""`Decoder.chat`, and what `generate` says of a text that no template is applied to."""

import warnings

import pytest
import torch
from cases import scripted

from fastedit import Decoder
from fastedit.chats.template import RawTextWarning
from fastedit.cli.demo import SHOWN
from fastedit.tasks.task import is_held_out

QUESTION = "State the final answer to the following arithmetic problem: 27 + 45 - 86 ="


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.from_pretrained("tiny")


def test_a_text_is_one_message_of_a_user(decoder):
    message = [{"role": "user", "content": QUESTION}]
    asked = decoder.generate(message, max_new_tokens=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in (QUESTION, message, [QUESTION], [message], {"messages": message}):
            out = decoder.chat(form, max_new_tokens=32)
            assert out.texts == asked.texts and out.texts[0].endswith("-014")
        both = decoder.chat([QUESTION, message], max_new_tokens=32)
    assert both.texts == asked.texts * 2 and decoder.chat([]).texts == []


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.tensor([1, 2]), TypeError, "got Tensor: `generate` takes ids"),
        ([[1, 2]], TypeError, "got int"),
        (" \n", ValueError, "the text is empty"),
        (3, TypeError, "got int"),
    ],
)
def test_what_is_no_chat_is_refused(decoder, value, error, words):
    with pytest.raises(error, match=words):
        decoder.chat(value)


def test_without_a_template_there_is_no_chat():
    with pytest.raises(ValueError, match="chat template: `generate` takes texts"):
        Decoder(scripted()).chat("hello")


@pytest.mark.parametrize(
    "decode",
    [
        lambda decoder: decoder.generate("2 + 2 =", max_new_tokens=0),
        lambda decoder: decoder.stream("2 + 2 =", max_new_tokens=0),
        lambda decoder: list(decoder.as_completed(iter(["2 + 2 ="]), max_new_tokens=0)),
    ],
)
def test_a_text_beside_a_template_is_told_once(decode):
    decoder = Decoder.from_pretrained("tiny")
    with pytest.warns(RawTextWarning, match=r"decoder.chat\(text\)") as told:
        decode(decoder)
        decode(decoder)
    assert len(told) == 1


def test_holes_and_ids_are_no_questions():
    decoder = Decoder.from_pretrained("tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.generate("2 + 2 =", draft=" <|mask|>")
        decoder.generate(torch.tensor([7, 8]), max_new_tokens=1)


def test_prompts_of_the_demo_can_be_copied_from_the_screen(decoder):
    """Without what a screen does not show: the last newline, of questions that have one."""
    questions = [question for question, _ in SHOWN]
    asked = decoder.generate([[{"role": "user", "content": q}] for q in questions], mode="speed")
    copied = decoder.chat([question.strip() for question in questions], mode="speed")
    assert copied.texts == asked.texts
    results = zip(asked.texts, asked.stats, SHOWN, strict=True)
    for text, stats, (_, answer) in results:
        assert int(text.rpartition("####")[2]) == answer and stats.t2t_edits > 0


def test_questions_of_the_demo_are_held_out():
    assert all(is_held_out(question) for question, _ in SHOWN)
