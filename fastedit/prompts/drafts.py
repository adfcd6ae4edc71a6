"""Drafts: what decoding starts from behind a prompt, in place of masks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastedit.chats.messages import is_chat
from fastedit.prompts.inputs import check_ids, ids_of, is_ids, is_read_on, needed, one_by_one
from fastedit.prompts.text import check_unicode


def one_per_prompt(draft: Any, prompts: int) -> list[Any]:
    """Drafts in any accepted form -> a text, ids or None for each of `prompts` prompts.

    draft: a text, a list of ids, ids [D] or [B, D], or a list of these; None where there is none.
    Raises TypeError and ValueError.
    """
    if draft is None:
        return [None] * prompts
    if not (isinstance(draft, (str, Sequence)) or hasattr(draft, "__len__")):
        said = f"{type(draft).__name__} {draft!r:.60}"
        raise TypeError(f"draft must be a text, ids, or one of these per prompt; got {said}")
    each = [draft] if is_ids(draft) else list(one_by_one(draft, None))
    if len(each) != prompts:
        raise ValueError(
            f"draft has {len(each)} entries for {prompts} prompts: give one each, and None where "
            "there is none"
        )
    return each


def on_demand(draft: Any) -> Iterator[Any]:
    """A text, ids or None for each of prompts that are read one by one, read along with them.

    Raises ValueError for a draft that is not one of several, and once there are too few.
    """
    if draft is None:
        return itertools.repeat(None)
    several = is_read_on(draft) or (isinstance(draft, Sequence) and not isinstance(draft, str))
    if not several or is_ids(draft):
        raise ValueError("prompts in an iterator need drafts in a list or an iterator: one each")
    return itertools.chain(draft, _too_few())


def _too_few() -> Iterator[Any]:
    raise ValueError("there are fewer drafts than prompts: give one each, and None where is none")
    yield


def check_kept(keep_draft: Any, draft: Any) -> None:
    """Raises TypeError and ValueError for a `keep_draft` that means nothing."""
    if not isinstance(keep_draft, bool):
        raise TypeError(f"keep_draft must be True or False; got {keep_draft!r:.80}")
    if keep_draft and draft is None:
        raise ValueError("keep_draft=True without a draft: give one, or leave it out")


def as_draft(draft: Any, tokenizer: Any, mask_token_id: int) -> Tensor:
    """One draft -> int64 [D] on the CPU. Raises TypeError and ValueError.

    The mask token's text is a mask here; no special tokens are added to a text.
    """
    if isinstance(draft, str):
        return torch.tensor(_of_text(draft, needed(tokenizer), mask_token_id), dtype=torch.int64)
    ids = None if is_chat(draft) else ids_of(draft)
    if ids is None:
        raise TypeError(
            f"a draft must be a text or ids [D]; got {type(draft).__name__} {str(draft)[:60]!r}"
        )
    return ids


def _of_text(text: str, tokenizer: Any, mask_token_id: int) -> list[int]:
    """A model may name another mask than its tokenizer: in a text, both mean the model's."""
    check_unicode(text)
    own = getattr(tokenizer, "mask_token_id", None)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [mask_token_id if token == own else token for token in ids]
    spelled = mask_text(tokenizer, mask_token_id)
    if spelled and ids.count(mask_token_id) < text.count(spelled):
        raise ValueError(
            f"the tokenizer does not read {spelled!r} as its mask token: give the draft as ids, "
            f"with {mask_token_id} for a mask"
        )
    return ids


def mask_text(tokenizer: Any, mask_token_id: int) -> str | None:
    """How a mask is written in a draft; None where the tokenizer has no text for it."""
    text = getattr(tokenizer, "mask_token", None)
    return text or tokenizer.convert_ids_to_tokens(mask_token_id)


def check_draft(
    draft: Tensor,
    index: int,
    *,
    vocab_size: int | None,
    max_new_tokens: int | None,
    control_ids: Sequence[int] = (),
) -> None:
    """Refuse a draft that cannot be decoded. Raises ValueError.

    max_new_tokens: as it was given; None: the draft says it. control_ids: those of the policy,
    which no text holds.
    """
    if draft.numel() == 0:
        raise ValueError(f"the draft of prompt {index} is empty: give at least one token, or None")
    check_ids(draft, f"the draft of prompt {index}", vocab_size)
    held = set(draft.tolist()).intersection(control_ids)
    if held:
        raise ValueError(
            f"the draft of prompt {index} holds id {min(held)}, which stands for no text but "
            "for an action of the policy: leave it out"
        )
    if max_new_tokens is not None and len(draft) > max_new_tokens:
        raise ValueError(
            f"the draft of prompt {index} has {len(draft)} tokens, more than max_new_tokens="
            f"{max_new_tokens}: shorten it, or leave max_new_tokens out to decode the draft alone"
        )
