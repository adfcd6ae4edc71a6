"""The tokenizer of the embedded checkpoint: byte-level BPE in which each digit is a token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

EOS, MASK = "<|endoftext|>", "<|mask|>"
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


def build_tokenizer(texts: Iterable[str], vocab_size: int = 640) -> Any:
    """A `PreTrainedTokenizerFast` trained on `texts`, at most `vocab_size` tokens.

    Any UTF-8 text can be encoded: all 256 bytes are tokens. eos = pad, as in LLaDA2.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        additional_special_tokens=SPECIAL[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
