"""Edit labels in C++, over the threads that torch has."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import check, load

_LEVENSHTEIN = Struct("q4P5q2P")  # fe_levenshtein_labels_args
_LCS = Struct("3q4P4qP")  # fe_lcs_labels_args


def levenshtein_labels(
    noisy: Tensor,
    noisy_cu: Tensor,
    clean: Tensor,
    clean_cu: Tensor,
    *,
    delete_token_id: int,
    eos_token_id: int,
    first_gap: int,
    exchange: bool,
    label_after_delete: bool,
) -> tuple[Tensor, Tensor]:
    """Contract: `fastedit.ops.levenshtein_labels`, settings: `reference.levenshtein_labels`."""
    pairs = len(noisy_cu) - 1
    read = [tensor.contiguous() for tensor in (noisy, noisy_cu, clean, clean_cu)]
    current, following = noisy.new_empty(len(noisy)), noisy.new_empty(len(noisy) + pairs)
    arguments = _LEVENSHTEIN.pack(
        pairs,
        *[tensor.data_ptr() for tensor in read],
        delete_token_id,
        eos_token_id,
        first_gap,
        exchange,
        label_after_delete,
        current.data_ptr(),
        following.data_ptr(),
    )
    check(load().fe_levenshtein_labels(arguments, torch.get_num_threads()))
    return current, following


def lcs_labels(
    draft: Tensor,
    target: Tensor,
    draft_len: Tensor,
    target_len: Tensor,
    *,
    mask_token_id: int,
    delete_token_id: int,
    insert_token_id: int,
    wildcard: bool,
) -> Tensor:
    """Contract: `fastedit.ops.lcs_labels`."""
    read = [tensor.contiguous() for tensor in (draft, target, draft_len, target_len)]
    labels = torch.empty_like(read[0])
    arguments = _LCS.pack(
        *draft.shape,
        target.shape[1],
        *[tensor.data_ptr() for tensor in read],
        mask_token_id,
        delete_token_id,
        insert_token_id,
        wildcard,
        labels.data_ptr(),
    )
    check(load().fe_lcs_labels(arguments, torch.get_num_threads()))
    return labels
