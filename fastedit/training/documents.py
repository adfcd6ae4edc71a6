"""Examples as tokens: truncated, ended with EOS, padded to whole blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .data import BadLines, Example

EOS_TAIL_CAP = 32  # `eos_tail_cap` of czg1225/DMax: EOS tokens that are learnt at the end


class Document(NamedTuple):
    """An example in tokens. The length n is a multiple of the block size."""

    example: int  # index of the example
    ids: np.ndarray  # int32 [n]
    response: np.ndarray  # bool [n], True: maskable


class Documents(NamedTuple):
    """All documents, and how many of them were cut off at the largest length."""

    items: list[Document]
    truncated: int

    def fingerprint(self) -> str:
        """A digest of every token, response and index."""
        digest = hashlib.sha256()
        for document in self.items:
            digest.update(np.int64(document.example).tobytes())
            digest.update(document.ids.tobytes() + document.response.tobytes())
        return digest.hexdigest()


def tokenise(
    examples: Iterable[Example],
    tokenizer: Any,
    bad: BadLines,
    *,
    block_size: int,
    max_length: int,
    eos_token_id: int,
    mask_token_id: int,
) -> Documents:
    """Tokenise part by part, join, add EOS up to the end of a block.

    A longer example loses its end, and then has no EOS. An example without a response token left,
    or with the mask token in it, goes to `bad`. Raises ValueError where nothing is left.
    """
    if max_length < block_size or max_length % block_size:
        fitting = max(1, max_length // block_size) * block_size
        raise ValueError(
            f"max_length={max_length} must be a multiple of the model's block size {block_size}, "
            f"such as {fitting}"
        )
    examples = list(examples)
    documents: list[Document] = []
    truncated = 0
    for example, parts in zip(examples, _tokenised(examples, tokenizer), strict=True):
        ids = np.concatenate(parts)
        response = np.repeat([part.response for part in example.parts], [len(p) for p in parts])
        if (ids == mask_token_id).any():
            bad.add(example.where, f"holds the mask token {mask_token_id}")
            continue
        if not response[:max_length].any():
            bad.add(
                example.where,
                f"its prompt of {int(response.argmax()) or len(ids)} tokens leaves nothing of the "
                f"response within {max_length} tokens: raise --max-length",
            )
            continue
        truncated += len(ids) > max_length
        documents.append(
            _document(example.index, ids, response, block_size, max_length, eos_token_id)
        )
    bad.check()
    if not documents:
        raise ValueError("the data holds no examples")
    return Documents(documents, truncated)


def _tokenised(examples: Sequence[Example], tokenizer: Any) -> list[list[np.ndarray]]:
    """Ids of every part of every example; all texts in two calls, which use all cores."""
    texts: dict[bool, list[str]] = {False: [], True: []}
    for example in examples:
        for number, part in enumerate(example.parts):
            texts[example.special_tokens and number == 0].append(part.text)
    encoded = {
        special: iter(tokenizer(batch, add_special_tokens=special)["input_ids"] if batch else [])
        for special, batch in texts.items()
    }
    return [
        [
            np.asarray(next(encoded[example.special_tokens and number == 0]), dtype=np.int32)
            for number in range(len(example.parts))
        ]
        for example in examples
    ]


def _document(
    index: int,
    ids: np.ndarray,
    response: np.ndarray,
    block_size: int,
    max_length: int,
    eos_token_id: int,
) -> Document:
    ids, response = ids[:max_length], response[:max_length]
    tail = min(max_length, -(-(len(ids) + 1) // block_size) * block_size) - len(ids)
    learnt = np.arange(tail) < EOS_TAIL_CAP
    return Document(
        index,
        np.concatenate([ids, np.full(tail, eos_token_id, dtype=np.int32)]),
        np.concatenate([response, learnt]),
    )
