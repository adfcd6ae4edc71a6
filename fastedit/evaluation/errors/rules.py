"""Kinds of wrong tokens, by rules on the texts of the tokens. A change of them is a new version."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastedit.prompts.tokens import special_ids

RULES_VERSION = 1

KINDS = (
    "special",
    "digit",
    "number length",
    "punctuation",
    "repeat",
    "case",
    "other",
)
NOT_A_CHARACTER = "\ufffd"  # what byte-level tokenizers decode half a character to


class Rules:
    """The kind of a wrong token; the first rule that holds, texts without blanks around them.

    | kind | the token and the right one |
    |---|---|
    | special | one of them is special, such as EOS, or an id that no token has |
    | digit | different digits, as many |
    | number length | digits of different number; or one of them begins with a digit, the other does
      not, and the token to the left ends in one: the number there is longer or shorter |
    | punctuation | differ in punctuation, symbols and blanks alone |
    | repeat | the token is that of a neighbour |
    | case | differ in upper and lower case alone |
    | other | none of these |
    """

    def __init__(self, tokenizer: Any) -> None:
        self.special = special_ids(tokenizer)
        self.size = len(tokenizer)
        self.text = cache(
            lambda token: tokenizer.decode([token], clean_up_tokenization_spaces=False)
        )

    def kind(self, wrong: int, right: int, left: int, behind: int) -> int:
        """Index in KINDS of `wrong` in the place of `right`, between `left` and `behind`.

        Neighbours are ids as the model sees or wrote them; -1: there is none.
        """
        return KINDS.index(self._name(wrong, right, left, behind))

    def surplus(self, token: int, left: int, behind: int) -> int:
        """The same of a token that should not stand between `left` and `behind`: special, repeat or
        other."""
        special = token in self.special or token >= self.size
        name = "special" if special else "repeat" if token in (left, behind) else "other"
        return KINDS.index(name)

    def _name(self, wrong: int, right: int, left: int, behind: int) -> str:
        if any(token in self.special or token >= self.size for token in (wrong, right)):
            return "special"
        texts = self.text(wrong), self.text(right)
        one, other = (text.strip() for text in texts)
        digits, expected = one.isdecimal(), other.isdecimal()
        if digits and expected and one != other:
            return "digit" if len(one) == len(other) else "number length"
        after_digit = left >= 0 and self.text(left)[-1:].isdecimal()
        if after_digit and texts[0][:1].isdecimal() != texts[1][:1].isdecimal():
            return "number length"
        readable = NOT_A_CHARACTER not in texts[0] + texts[1] and texts[0] != texts[1]
        if readable and _core(one) == _core(other):
            return "punctuation"
        if wrong in (left, behind):
            return "repeat"
        if readable and _core(one).casefold() == _core(other).casefold():
            return "case"
        return "other"


def _core(text: str) -> str:
    """Letters and digits alone."""
    return "".join(char for char in text if char.isalnum())
