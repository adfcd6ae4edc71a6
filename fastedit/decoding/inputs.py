"""The door: whatever a caller calls a prompt becomes a checked 1-D id tensor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastedit.decoding.tokens import spell_out

ROLES = ("system", "user", "assistant", "tool")  # the ones that chat templates tell apart


def one_by_one(prompts: Any, attention_mask: Tensor | None) -> Sequence[Any]:
    """Prompts in any accepted form -> one text, chat or ids each.

    prompts: a text, texts, one chat (a list of messages), chats, ids [P] or [B, P] (with an
    attention mask [B, P] that marks the prompt among padding, on either side), or a list of ids.
    Raises TypeError and ValueError.
    """
    if isinstance(prompts, Tensor):
        return _rows(prompts, attention_mask)
    if attention_mask is not None:
        raise ValueError("attention_mask goes with an id tensor; lists of prompts need none")
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise TypeError(f"prompts must be text, chats or id tensors; got {type(prompts).__name__}")
    if prompts and all(isinstance(message, dict) for message in prompts):
        return [prompts]
    if prompts and all(isinstance(token, int) for token in prompts):
        raise TypeError("got a list of int: ids of one prompt go as [[1, 2]] or as a tensor [P]")
    return prompts


def as_ids(prompt: Any, tokenizer: Any, mask_token_id: int) -> Tensor:
    """One text, chat or ids -> int64 [P] on the CPU. Raises TypeError and ValueError.

    Mask-token text inside a text is tokenised as plain text.
    """
    if isinstance(prompt, str):
        return _tokenise(prompt, tokenizer, mask_token_id)
    if isinstance(prompt, Tensor):
        return _rows(prompt, None)[0] if prompt.dim() < 2 else _only_row(prompt)
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, bytes) and len(prompt) > 0
    if is_list and all(isinstance(message, dict) for message in prompt):
        return _apply_template(prompt, tokenizer, mask_token_id)
    if is_list and all(isinstance(token, int) for token in prompt):
        return torch.tensor(prompt, dtype=torch.int64)
    raise TypeError(
        "a prompt must be a text, a chat (list of messages) or ids [P]; "
        f"got {type(prompt).__name__} {str(prompt)[:60]!r}"
    )


def _only_row(prompt: Tensor) -> Tensor:
    if prompt.dim() != 2 or prompt.shape[0] != 1:
        raise ValueError(f"a prompt inside a list must be ids [P]; got {list(prompt.shape)}")
    return _rows(prompt, None)[0]


def _rows(ids: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"prompt ids must be int64, got {ids.dtype}")
    if ids.dim() not in (1, 2):
        raise ValueError(f"prompt ids must be [P] or [B, P], got {list(ids.shape)}")
    rows = torch.atleast_2d(ids).to("cpu", torch.int64)
    if attention_mask is None:
        return list(rows)
    keep = torch.atleast_2d(attention_mask).cpu().bool()
    if keep.shape != rows.shape:
        raise ValueError(
            f"attention_mask {list(keep.shape)} does not match prompt ids {list(rows.shape)}"
        )
    edges = keep.int().diff(dim=1, prepend=torch.zeros(len(keep), 1, dtype=torch.int32))
    if ((edges == 1).sum(1) > 1).any():
        raise ValueError("attention_mask has a gap: padding may only stand before or behind ids")
    return [row[mask] for row, mask in zip(rows, keep, strict=True)]


def _tokenise(text: str, tokenizer: Any, mask_token_id: int) -> Tensor:
    ids = _needs(tokenizer)(text)["input_ids"]
    return torch.tensor(spell_out(ids, tokenizer, mask_token_id), dtype=torch.int64)


def _apply_template(chat: Sequence[dict], tokenizer: Any, mask_token_id: int) -> Tensor:
    if not getattr(_needs(tokenizer), "chat_template", None):
        raise ValueError("this tokenizer has no chat template; give the prompt as one text")
    for number, message in enumerate(chat):
        if not isinstance(message.get("role"), str):
            raise ValueError(f"message {number} needs a `role`; got {str(message)[:60]}")
        if message.get("content") is None and "tool_calls" not in message:
            raise ValueError(f"message {number} needs `content`; got {str(message)[:60]}")
    try:
        ids = tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # a template is a program of its own and raises what it likes
        raise ValueError(_template_error(error, chat, tokenizer.chat_template)) from error
    return torch.tensor(spell_out(ids, tokenizer, mask_token_id), dtype=torch.int64)


def _template_error(error: Exception, chat: Sequence[dict], template: Any) -> str:
    roles = list(dict.fromkeys(message["role"] for message in chat))
    known = [
        r for r in ROLES if isinstance(template, str) and re.search(f"['\"]{r}['\"]", template)
    ]
    said = f"the chat template fails on roles {', '.join(map(repr, roles))}"
    other = [role for role in roles if role not in known]
    if known and other:
        said = f"role {other[0]!r} is none that the chat template knows ({', '.join(known)})"
    return f"{said}: {' '.join(str(error).split())}"


def _needs(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise ValueError("this Decoder has no tokenizer: give it one, or prompts as id tensors")
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
) -> None:
    """Refuse a prompt that cannot be decoded, before any model call. Raises ValueError."""
    where = f"prompt {index}"
    if ids.numel() == 0:
        raise ValueError(f"{where} is empty: give at least one token")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        bad = low if low < 0 else high
        raise ValueError(
            f"{where} holds id {bad}, outside the model's vocabulary [0, {vocab_size})"
        )
    if not allow_mask and bool((ids == mask_token_id).any()):
        raise ValueError(
            f"{where} holds the mask token {mask_token_id}: remove it, a prompt is never denoised"
        )
    total = len(ids) + max_new_tokens
    if max_positions is not None and total > max_positions:
        raise ValueError(
            f"{where} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} that is {total} "
            f"positions, the model has {max_positions}: shorten the prompt or lower max_new_tokens"
        )
