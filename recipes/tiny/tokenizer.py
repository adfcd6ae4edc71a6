"""Tokenizers of the recipes: byte-level BPE in which each digit is a token, or characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

EOS, MASK, PAD = "<|endoftext|>", "<|mask|>", "<|pad|>"
SPECIAL = [
    EOS,
    MASK,
    "<role>HUMAN</role>",
    "<role>SYSTEM</role>",
    "<role>ASSISTANT</role>",
    "<|role_end|>",
]
# Runs of words stay together, so that a phrase which every question repeats becomes one token;
# digits stand alone; operators and punctuation take the blanks around them. With the colon inside
# its phrase, a sum of two terms and its solution fill one block of 32 to the last token.
_PIECES = (
    r"\d| ?[+\-*=#>]+ ?|[,:;?!.\n]+ ?"
    r"| ?[^\s\d+\-*=#>,:;?!.]+(?: [^\s\d+\-*=#>,:;?!.]+)*(?:: )?|\s+"
)
# LLaDA2's chat format, one special token per role.
CHAT_TEMPLATE = (
    "{%- set roles = {'user': 'HUMAN', 'system': 'SYSTEM', 'assistant': 'ASSISTANT'} -%}"
    "{%- for message in messages -%}"
    "{{- '<role>' + roles[message['role']] + '</role>' + message['content'] + '<|role_end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<role>ASSISTANT</role>' -}}{%- endif -%}"
)
# Questions of several lines end in a newline, as those of reasoning-gym do: who copies one from a
# screen loses the last newline, and the model has never seen a question without it.
_LAST_NEWLINE = (
    "{%- if message['role'] == 'user' and '\\n' in message['content'] "
    "and message['content'][-1] != '\\n' -%}{{- '\\n' -}}{%- endif -%}"
)
_END = " + '<|role_end|>' -}}"
QUESTIONS_TEMPLATE = CHAT_TEMPLATE.replace(_END, f" -}}}}{_LAST_NEWLINE}{{{{- '<|role_end|>' -}}}}")


def build_tokenizer(texts: Iterable[str], vocab_size: int = 640) -> Any:
    """A `PreTrainedTokenizerFast` trained on `texts`, at most `vocab_size` tokens.

    Any UTF-8 text can be encoded: all 256 bytes are tokens. eos = pad, as in LLaDA2.
    """
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    return _finished(_trained(texts, vocab_size, split), template=QUESTIONS_TEMPLATE)


def character_tokenizer(phrases: Sequence[str], control: Sequence[str]) -> Any:
    """A tokenizer whose tokens are single bytes: characters, in English texts.

    phrases  texts that are one token each wherever they occur, the longest first
    control  special tokens beside those of a chat; `<|pad|>` among them becomes the padding
    """
    from tokenizers import AddedToken, pre_tokenizers

    each = pre_tokenizers.Split("", "isolated")
    tokenizer = _finished(_trained((), len(SPECIAL) + 256, each), control)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return tokenizer


def _trained(texts: Iterable[str], vocab_size: int, split: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _finished(tokenizer: Any, control: Sequence[str] = (), template: str = CHAT_TEMPLATE) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD if PAD in control else EOS,
        mask_token=MASK,
        additional_special_tokens=[*SPECIAL[2:], *control],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
