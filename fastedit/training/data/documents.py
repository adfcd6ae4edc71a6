"""Examples as tokens: truncated, ended with EOS, padded to whole blocks."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastedit.files.jsonl import BadLines
from fastedit.models.families import family_of
from fastedit.prompts.text import spell_out
from fastedit.prompts.tokens import resolve_mask
from fastedit.training.data.problems import TASK_PREFIX
from fastedit.training.data.texts import Example, held_out_examples, read_examples
from fastedit.training.reading import Reading

LONGEST = 2048  # tokens of a row where nothing else is said and the model has the positions
# Options of a run, or of a survey, that say how its data is read.
FIELDS = ("on_bad_line", "raw", "prompt_field", "completion_field", "ignore_fields")
EOS_TAIL_CAP = 32  # `eos_tail_cap` of czg1225/DMax: EOS tokens that are learnt at the end


class Form(NamedTuple):
    """What documents are made for: tokens per block and per row, and the ids of a model.

    control_ids  no text spells them, nor the mask
    """

    block_size: int
    max_length: int
    eos_token_id: int
    mask_token_id: int
    control_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: Any, tokenizer: Any, max_length: int | None) -> Form:
        """max_length  tokens of a row; None: up to 2048 in whole blocks, as the model has positions

        Raises ValueError for a model without what documents need, and for rows beyond its
        positions.
        """
        config: Any = getattr(model, "config", None)
        size = Reading.of(model).block_size
        if tokenizer is None:
            name = getattr(config, "name_or_path", None) or "this checkpoint"
            raise ValueError(f"{name} has no tokenizer, without which there are no examples for it")
        eos = tokenizer.eos_token_id
        if eos is None:
            eos = config.eos_token_id
        if not isinstance(eos, int):
            raise ValueError("neither the tokenizer nor the model's config names one EOS token")
        positions = config.max_position_embeddings
        if max_length is None:
            max_length = min(LONGEST, positions) // size * size
        if max_length > positions:
            raise ValueError(f"max_length={max_length} is beyond the model's {positions} positions")
        mask = resolve_mask(family_of(model).mask_token_id, model, tokenizer)
        return cls(size, max_length, eos, mask)


class Document(NamedTuple):
    """An example in tokens. The length n is a multiple of the block size."""

    example: int  # index of the example
    ids: np.ndarray  # int32 [n]
    response: np.ndarray  # bool [n], True: maskable

    @property
    def prompt_length(self) -> int:
        """Tokens before the first response; 0 for text that asks for nothing."""
        return int(self.response.argmax())

    @property
    def answer_length(self) -> int:
        """Tokens of the first response, in a chat the first turn of the assistant."""
        return int(np.logical_and.accumulate(self.response[self.prompt_length :]).sum())


class Documents(NamedTuple):
    """All documents, how many of them were cut off at the largest length, and the tokens of the
    longest example before."""

    items: list[Document]
    truncated: int
    longest: int = 0

    def fingerprint(self) -> str:
        """A digest of every token, response and index."""
        digest = hashlib.sha256()
        for document in self.items:
            digest.update(np.int64(document.example).tobytes())
            digest.update(document.ids.tobytes() + document.response.tobytes())
        return digest.hexdigest()


def read_documents(
    sources: Sequence[str | os.PathLike[str]], tokenizer: Any, form: Form, options: Any
) -> Documents:
    """The documents of files and tasks; `options` has the fields `FIELDS`.

    Raises what `read_examples` and `tokenise` raise.
    """
    bad = BadLines(options.on_bad_line)
    return tokenise(
        read_examples(sources, tokenizer, bad, **_fields(options)), tokenizer, bad, form
    )


def held_out_documents(
    source: str | os.PathLike[str], count: int, tokenizer: Any, form: Form, options: Any
) -> Documents:
    """The first `count` held-out problems of `task:NAME`, or lines of a file.

    Else as `read_documents`.
    """
    bad, source, fields = BadLines(options.on_bad_line), os.fspath(source), _fields(options)
    examples: Iterable[Example]
    if source.startswith(TASK_PREFIX):
        examples = held_out_examples(source, tokenizer, count, raw=options.raw)
    else:
        lines = read_examples([source], tokenizer, bad, **fields)
        examples = itertools.islice(lines, count)
    return tokenise(examples, tokenizer, bad, form)


def _fields(options: Any) -> dict[str, Any]:
    return {name: getattr(options, name) for name in FIELDS if name != "on_bad_line"}


def tokenise(
    examples: Iterable[Example],
    tokenizer: Any,
    bad: BadLines,
    form: Form,
) -> Documents:
    """Tokenise part by part, join, add EOS up to the end of a block.

    An example that does not fit with an EOS behind it loses its end, and has none. One without a
    response token left goes to `bad`. Text that spells the mask token is read as plain text, as in
    a prompt. Raises ValueError where nothing is left.
    """
    block_size, max_length = form.block_size, form.max_length
    if max_length < block_size or max_length % block_size:
        fitting = max(1, max_length // block_size) * block_size
        raise ValueError(
            f"max_length={max_length} must be a multiple of the model's block size {block_size}, "
            f"such as {fitting}"
        )
    examples = list(examples)
    documents: list[Document] = []
    truncated = longest = 0
    tokenised = _tokenised(examples, tokenizer, form)
    for example, parts in zip(examples, tokenised, strict=True):
        ids = np.concatenate(parts)
        response = np.repeat([part.response for part in example.parts], [len(p) for p in parts])
        if not response[:max_length].any():
            bad.add(
                example.where,
                f"its prompt of {int(response.argmax()) or len(ids)} tokens leaves nothing of the "
                f"response within {max_length} tokens: raise --max-length",
            )
            continue
        truncated += len(ids) >= max_length
        longest = max(longest, len(ids))
        documents.append(_document(example.index, ids, response, form))
    bad.check()
    if not documents:
        raise ValueError("the data holds no examples")
    return Documents(documents, truncated, longest)


def _tokenised(examples: Sequence[Example], tokenizer: Any, form: Form) -> list[list[np.ndarray]]:
    """Ids of every part of every example; all texts in two calls, which use all cores."""
    texts: dict[bool, list[str]] = {False: [], True: []}
    for example in examples:
        for number, part in enumerate(example.parts):
            texts[example.special_tokens and number == 0].append(part.text)
    encoded = {
        special: iter(_encoded(batch, tokenizer, special, form)) for special, batch in texts.items()
    }
    return [
        [
            np.asarray(next(encoded[example.special_tokens and number == 0]), dtype=np.int32)
            for number in range(len(example.parts))
        ]
        for example in examples
    ]


def _encoded(texts: list[str], tokenizer: Any, special_tokens: bool, form: Form) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=special_tokens,
        return_attention_mask=False,  # a list of ones per text, a tenth of the time
        return_token_type_ids=False,
    )
    never = form.mask_token_id, *form.control_ids
    return [spell_out(ids, tokenizer, *never) for ids in encoded["input_ids"]]


def _document(
    index: int,
    ids: np.ndarray,
    response: np.ndarray,
    form: Form,
) -> Document:
    block_size, max_length, eos_token_id = form[:3]
    ids, response = ids[:max_length], response[:max_length]
    tail = min(max_length, -(-(len(ids) + 1) // block_size) * block_size) - len(ids)
    learnt = np.arange(tail) < EOS_TAIL_CAP
    return Document(
        index,
        np.concatenate([ids, np.full(tail, eos_token_id, dtype=np.int32)]),
        np.concatenate([response, learnt]),
    )
