"""Kinds of wrong tokens, each by an example and by one that just misses it."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from fastedit.evaluation.errors.rules import KINDS, RULES_VERSION, Rules

TEXTS = [
    "<eos>",
    "7",
    "8",
    " 7",
    "12",
    "13",
    "123",
    "cat",
    "Cat",
    " cat,",
    ",",
    ";\n",
    "dog",
    "\ufffd",
]
TEXTS += ["3 x", "x", "\ufffd\ufffd"]


class Vocabulary:
    """Tokens are the texts above; the first one is special."""

    all_special_ids, added_tokens_decoder = (0,), MappingProxyType({})

    def __len__(self) -> int:
        return len(TEXTS)

    def decode(self, ids, clean_up_tokenization_spaces) -> str:
        return "".join(TEXTS[i] for i in ids)


def kind(wrong: str, right: str, left: str | None = None, behind: str | None = None) -> str:
    around = [-1 if text is None else TEXTS.index(text) for text in (left, behind)]
    rules = Rules(Vocabulary())
    return KINDS[rules.kind(TEXTS.index(wrong), TEXTS.index(right), *around)]


@pytest.mark.parametrize(
    ("expected", "tokens"),
    [
        ("special", ("<eos>", "7")),
        ("special", ("cat", "<eos>", "cat")),  # before the repeat that it is, too
        ("digit", ("7", "8")),
        ("digit", (" 7", "8", "8", " 7")),
        ("digit", ("12", "13")),
        ("number length", ("123", "12")),
        ("number length", ("7", "12")),
        ("number length", ("7", "cat", "8")),  # 8 -> 87
        ("number length", (",", "7", "12")),  # 127 -> 12,
        ("other", ("7", "cat", "dog")),  # no number stands to the left
        ("other", (" 7", "cat", "8")),  # a blank: another number
        ("punctuation", (",", ";\n")),
        ("punctuation", (" cat,", "cat")),
        ("punctuation", (" 7", "7")),
        ("repeat", ("cat", "dog", "cat")),
        ("repeat", ("cat", "dog", None, "cat")),
        ("repeat", ("cat", "Cat", "cat")),  # before the case that it is, too
        ("case", ("Cat", "cat")),
        ("case", (" cat,", "Cat", "dog")),
        ("other", ("cat", "dog", "dog", "7")),
        ("other", ("\ufffd", ",")),  # part of a character is no punctuation
        ("other", ("\ufffd", "\ufffd\ufffd")),
        ("other", ("cat", "cat")),  # remasked, and the same again
    ],
)
def test_first_rule_that_holds(expected, tokens):
    assert kind(*tokens) == expected


def test_ids_without_a_token_are_special():
    assert KINDS[Rules(Vocabulary()).kind(len(TEXTS), 1, -1, -1)] == "special"


def test_rules_of_this_version():
    """A change of the kinds or of their order is a new version."""
    names = "special digit number length punctuation repeat case other"
    assert (RULES_VERSION, " ".join(KINDS)) == (1, names)


def test_embedded_tokenizer(tiny_tokenizer):
    rules = Rules(tiny_tokenizer)
    three, four = (tiny_tokenizer.convert_tokens_to_ids(digit) for digit in "34")
    eos, mask = tiny_tokenizer.eos_token_id, tiny_tokenizer.mask_token_id
    assert KINDS[rules.kind(three, four, -1, -1)] == "digit"
    assert KINDS[rules.kind(three, eos, three, -1)] == "special"
    assert {eos, mask} <= rules.special
