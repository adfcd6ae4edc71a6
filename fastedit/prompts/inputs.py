"""The door: whatever a caller calls a prompt becomes a checked 1-D id tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastedit.chats.messages import ChatOptions, as_chat, is_chat
from fastedit.chats.template import render
from fastedit.prompts.text import check_unicode, spell_out

# What tokenizers return beside ids, and what follows from them or describes them.
_OF_TOKENIZERS = ("special_tokens_mask", "offset_mapping", "length", "num_truncated_tokens")


def one_by_one(prompts: Any, attention_mask: Any) -> Sequence[Any]:
    """Prompts in any accepted form -> one text, chat or ids each.

    prompts: a text, texts, one chat (a list of messages, or an object with `messages`), chats, ids
    [P] or [B, P] as tensor or array (with an attention mask [B, P] that marks the prompt among
    padding, on either side), a list of ids, or what a tokenizer returns: a mapping with
    `input_ids`. Raises TypeError and ValueError.
    """
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        return _of_tokenizer(prompts, attention_mask)
    if _is_array(prompts) and prompts.dtype.kind in "OUT":  # an array of texts, or of arrays
        prompts = prompts.tolist()
    if isinstance(prompts, Tensor) or _is_array(prompts):
        return _rows(_tensor(prompts), attention_mask)
    if attention_mask is not None:
        raise ValueError("attention_mask goes with an id tensor; lists of prompts need none")
    if isinstance(prompts, str) or is_chat(prompts):
        return [prompts]
    if isinstance(prompts, Mapping):
        names = ", ".join(map(repr, prompts)) or "nothing"
        raise TypeError(f"a dict needs `messages` or `input_ids` to be a prompt; it has {names}")
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        hint = ": `as_completed` reads prompts one by one" if is_read_on(prompts) else ""
        raise TypeError(
            f"prompts must be text, chats or id tensors; got {type(prompts).__name__}{hint}"
        )
    if prompts and is_ids(prompts):
        raise TypeError("got a list of int: ids of one prompt go as [[1, 2]] or as a tensor [P]")
    return prompts


def is_read_on(prompts: Any) -> bool:
    """Whether these are prompts to be read one by one: an iterator, or what gives one.

    Not what `one_by_one` knows, and neither a set, whose order means nothing, nor a message of a
    client library, which iterates over its fields.
    """
    known = (Mapping, Sequence, Set, Tensor, np.ndarray, bytes)
    return isinstance(prompts, Iterable) and not (
        isinstance(prompts, known) or hasattr(prompts, "model_dump")
    )


def as_ids(
    prompt: Any,
    tokenizer: Any,
    mask_token_id: int,
    options: ChatOptions | None = None,
    *,
    may_be_empty: bool = False,
) -> Tensor:
    """One text, chat or ids -> int64 [P] on the CPU. Raises TypeError and ValueError.

    Mask-token text inside a text is tokenised as plain text. options: of chats, and of nothing
    else; may_be_empty: whether a list of nothing is a prompt
    """
    if is_chat(prompt):
        text = render(as_chat(prompt, options), needed(tokenizer))
        return _tokenise(text, tokenizer, mask_token_id, special_tokens=False)
    if options is not None and options.given():
        kind = "a text" if isinstance(prompt, str) else "ids"
        raise ValueError(f"{options.given()[0]} goes with chats; this prompt is {kind}")
    if isinstance(prompt, str):
        return _tokenise(prompt, needed(tokenizer), mask_token_id, special_tokens=True)
    ids = ids_of(prompt)
    if ids is None or (is_ids(prompt) and not (len(prompt) or may_be_empty)):
        raise TypeError(
            "a prompt must be a text, a chat (list of messages) or ids [P]; "
            f"got {type(prompt).__name__} {str(prompt)[:60]!r}"
        )
    return ids


def ids_of(value: Any) -> Tensor | None:
    """Ids of one prompt or draft as int64 [P] on the CPU; None for what holds no ids.

    Raises TypeError and ValueError.
    """
    if isinstance(value, Mapping) and "input_ids" in value:
        return _only(_of_tokenizer(value, None))
    if isinstance(value, Tensor) or _is_array(value):
        ids = _tensor(value)
        return _only_row(ids) if ids.dim() > 1 else _rows(ids, None)[0]
    if is_ids(value):
        return torch.tensor([int(token) for token in value], dtype=torch.int64)
    return None


def is_ids(value: Any) -> bool:
    """Whether a value is a list of ids, be it an empty one."""
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return is_list and all(map(_is_id, value))


def _tokenise(text: str, tokenizer: Any, mask_token_id: int, *, special_tokens: bool) -> Tensor:
    check_unicode(text)
    own = {} if special_tokens else {"add_special_tokens": False}
    ids = tokenizer(text, **own)["input_ids"]
    return torch.tensor(spell_out(ids, tokenizer, mask_token_id), dtype=torch.int64)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _tensor(ids: Any) -> Tensor:
    """A tensor or array of any integer type as int64. Raises TypeError."""
    kind = str(ids.dtype)
    whole = ids.dtype.kind in "iu" if _is_array(ids) else not _is_inexact(ids.dtype)
    if not whole:
        raise TypeError(f"ids must be integers, such as int64; got {kind}")
    if isinstance(ids, Tensor):
        return ids.to(torch.int64)
    if ids.size and ids.max() > np.iinfo(np.int64).max:
        raise ValueError(f"ids hold {ids.max()}, which is no int64")
    return torch.from_numpy(np.array(ids, dtype=np.int64))


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex or dtype == torch.bool


def _of_tokenizer(encoded: Mapping[str, Any], attention_mask: Any) -> list[Tensor]:
    """Prompts of a `BatchEncoding` or another mapping with `input_ids`."""
    ids, mask = encoded["input_ids"], encoded.get("attention_mask")
    if mask is not None and attention_mask is not None:
        raise ValueError("the attention mask is given twice: beside input_ids, and by itself")
    mask = attention_mask if mask is None else mask
    for name, value in encoded.items():
        types = name == "token_type_ids" and not np.any(np.concatenate(_lists(value) or [[0]]))
        if name not in ("input_ids", "attention_mask", *_OF_TOKENIZERS) and not types:
            raise ValueError(f"{name} beside input_ids would be left unread: remove it")
    rows = [_tensor(np.asarray(row, dtype=None if len(row) else np.int64)) for row in _lists(ids)]
    if mask is None:
        return rows
    masks = [np.asarray(row) for row in _lists(mask)]
    if [len(row) for row in masks] != [len(row) for row in rows]:
        raise ValueError(f"attention_mask {_shape(masks)} does not match prompt ids {_shape(rows)}")
    return [_rows(row, keep)[0] for row, keep in zip(rows, masks, strict=True)]


def _lists(values: Any) -> list[Any]:
    """Rows of a tensor, an array, one list or a list of lists."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if _is_array(values):
        if values.ndim not in (1, 2):
            raise ValueError(f"ids must be [P] or [B, P], got {list(values.shape)}")
        return list(np.atleast_2d(values))
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise TypeError(f"input_ids must be a tensor, an array or lists; got {values!r:.60}")
    flat = not values or np.ndim(values[0]) == 0
    rows = [values] if flat else list(values)
    return [row.cpu().numpy() if isinstance(row, Tensor) else row for row in rows]


def _shape(rows: Sequence[Any]) -> list[Any]:
    lengths = {len(row) for row in rows}
    return [len(rows), lengths.pop() if len(lengths) == 1 else "*"]


def _only(rows: list[Tensor]) -> Tensor:
    if len(rows) != 1:
        raise ValueError(f"ids inside a list must be [P]; got {len(rows)} rows of them")
    return rows[0]


def _only_row(prompt: Tensor) -> Tensor:
    if prompt.dim() != 2 or prompt.shape[0] != 1:
        raise ValueError(f"ids inside a list must be [P]; got {list(prompt.shape)}")
    return _rows(prompt, None)[0]


def _rows(ids: Tensor, attention_mask: Any) -> list[Tensor]:
    if ids.dim() not in (1, 2):
        raise ValueError(f"ids must be [P] or [B, P], got {list(ids.shape)}")
    rows = torch.atleast_2d(ids).to("cpu", torch.int64)
    if attention_mask is None:
        return list(rows)
    mask = torch.atleast_2d(torch.as_tensor(attention_mask)).cpu()
    if mask.shape != rows.shape:
        raise ValueError(
            f"attention_mask {list(mask.shape)} does not match prompt ids {list(rows.shape)}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask must hold 1 for ids of the prompt and 0 for padding only")
    keep = mask.bool()
    edges = keep.int().diff(dim=1, prepend=torch.zeros(len(keep), 1, dtype=torch.int32))
    if ((edges == 1).sum(1) > 1).any():
        raise ValueError("attention_mask has a gap: padding may only stand before or behind ids")
    return [row[mask] for row, mask in zip(rows, keep, strict=True)]


def needed(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise ValueError("this Decoder has no tokenizer: give it one, or ids in place of texts")
    return tokenizer


def check_prompt(
    ids: Tensor,
    index: int,
    *,
    mask_token_id: int,
    vocab_size: int | None,
    max_positions: int | None,
    max_new_tokens: int,
    allow_mask: bool,
    draft: Tensor | None = None,
) -> None:
    """Refuse a prompt that cannot be decoded, before any model call. Raises ValueError.

    draft: what it starts from; the prompt may be empty then.
    """
    where = f"prompt {index}"
    if ids.numel() == 0 and draft is None:
        raise ValueError(f"{where} is empty: give at least one token, or a draft")
    check_ids(ids, where, vocab_size)
    if not allow_mask and bool((ids == mask_token_id).any()):
        raise ValueError(
            f"{where} holds the mask token {mask_token_id}: remove it, a prompt is never denoised"
        )
    total = len(ids) + max_new_tokens
    if max_positions is not None and total > max_positions:
        with_draft = "" if draft is None else f" and a draft of {len(draft)}"
        remedy = "lower max_new_tokens" if draft is None else "the draft"
        raise ValueError(
            f"{where} has {len(ids)} tokens{with_draft}; with max_new_tokens={max_new_tokens} that "
            f"is {total} positions, the model has {max_positions}: shorten the prompt or {remedy}"
        )


def check_ids(ids: Tensor, where: str, vocab_size: int | None) -> None:
    """Raises ValueError for an id that the model does not have."""
    if ids.numel() == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        bad = low if low < 0 else high
        raise ValueError(
            f"{where} holds id {bad}, outside the model's vocabulary [0, {vocab_size})"
        )
