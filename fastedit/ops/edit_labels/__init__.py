"""Edit labels: what a model that deletes and inserts is taught, from drafts and their targets.

Two forms. ME-DLM's, for texts of any length: a label per token, and one per gap for a second head.
LLaDA2.2's, for blocks of a fixed length: one label per position, with control tokens in between.
Labels bring a draft nearer to its target, not always there: they are made again for each round.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation

UNLABELLED = -100


def levenshtein_labels(
    noisy: Tensor,
    noisy_cu: Tensor,
    clean: Tensor,
    clean_cu: Tensor,
    *,
    delete_token_id: int,
    eos_token_id: int,
    canonical_first_gap: bool | Literal["strict"] = True,
    label_after_delete: bool = False,
) -> tuple[Tensor, Tensor]:
    """Labels of ME-DLM's two heads for B pairs: `current` [N] and `next` [N + B], both int64.

    noisy      [N] int64, the drafts end to end, without prompts and without a last EOS
    noisy_cu   [B + 1] int32 or int64: draft b is noisy[noisy_cu[b] : noisy_cu[b + 1]]
    clean      [M] int64, the texts that they should become
    clean_cu   [B + 1], the same for these

    `current` has a label per token: the token itself, another one, or `delete_token_id`. `next` has
    a label per gap, n + 1 for a draft of n tokens, those of pair b from noisy_cu[b] + b on. Gap g
    lies before token g, the last one at the end. Its label is the token that follows once the edits
    are made: a missing token, which the head is to insert, or else the next token that is kept,
    `eos_token_id` at the end. So an insertion is a label other than the next kept token.

    The edits are a script of the fewest unit-cost edits. It is read from the end, and where several
    edits are among the fewest, the order is keep, replace, delete, insert. Of several tokens
    missing in one gap the first is the label. The others wait for a later round.

    canonical_first_gap  what becomes of a missing token that equals the token behind its gap, as
                         `a` before `a b`: its label would say that nothing is missing. Gaps are
                         taken from left to right. True: it changes places with what is missing in
                         the next gap, if anything is. False: as released, where it does so in all
                         gaps but the first, and `a b` never becomes `a a b`. "strict": it moves to
                         the next gap, and what was missing there waits; each round then lowers the
                         distance
    label_after_delete   True: a gap behind a deleted token has a label like any other. False: -100
                         as released, but for the last gap

    Applied and made anew, round after round, the labels of True and "strict" arrive at the clean
    text. Ids may be anything, negative ones too, and never raise. An id equal to `delete_token_id`
    in a text is no label that keeps or replaces: it deletes.

    The work is done on the CPU: tensors on a GPU are copied there, which waits for the device, and
    the labels are copied back. C++: time and memory grow with n * m / 64 words per pair, the same
    labels on any number of threads. Raises MemoryError where these do not fit; TypeError for
    dtypes and for token ids that are no integers; ValueError for shapes, for boundaries that do not
    run from 0 to the number of ids without falling, for tensors on different devices, for two token
    ids that are the same, and for another value of `canonical_first_gap`.
    Sources: arXiv 2605.09603 (ME-DLM); the labels of False are those of renhouxing/ME-DLM,
    `edit.cpp`.
    """
    _check_ids(delete_token_id=delete_token_id, eos_token_id=eos_token_id)
    if canonical_first_gap not in (True, False, "strict"):
        raise ValueError(
            f"canonical_first_gap must be True, False or 'strict', got {canonical_first_gap!r}"
        )
    for name, ids in (("noisy", noisy), ("clean", clean)):
        _check(name, ids, 1, noisy.device)
    boundaries = [
        _boundaries("noisy_cu", noisy_cu, noisy),
        _boundaries("clean_cu", clean_cu, clean),
    ]
    if len(noisy_cu) != len(clean_cu):
        raise ValueError(
            f"noisy_cu and clean_cu must have one length, the number of pairs plus one; "
            f"got {len(noisy_cu)} and {len(clean_cu)}"
        )
    current, following = implementation("levenshtein_labels", noisy.device.type)(
        noisy.cpu(),
        boundaries[0],
        clean.cpu(),
        boundaries[1],
        delete_token_id=delete_token_id,
        eos_token_id=eos_token_id,
        first_gap=0 if canonical_first_gap else 1,
        exchange=canonical_first_gap != "strict",
        label_after_delete=label_after_delete,
    )
    return current.to(noisy.device), following.to(noisy.device)


def lcs_labels(
    draft: Tensor,
    target: Tensor,
    draft_len: Tensor,
    target_len: Tensor,
    *,
    mask_token_id: int,
    delete_token_id: int,
    insert_token_id: int,
    wildcard: bool = True,
) -> Tensor:
    """Labels of LLaDA2.2 for B blocks, int64 [B, L]; -100 beyond the length of a draft.

    draft       [B, L] int64, blocks as they are now; masks may be among them
    target      [B, M] int64, what they should become; M is L where blocks keep their length
    draft_len   [B] int32 or int64, valid positions of each, which come first
    target_len  [B], the same for the targets

    The label of a position is a token to hold, or `delete_token_id`, or `insert_token_id`: a mask
    comes in before this token. One pair is labelled in three steps.

    1. *Anchors* are the matches of a longest common subsequence. With `wildcard` a mask matches any
       token. Most matches count first, then most matches of equal tokens. Of several such
       subsequences: from the left, draft token i is matched with target token j if that is one of
       the best, else i is passed over if that is, else j.
    2. The targets of masks that match as wildcards are moved as near to the mask's own index as the
       targets of equal tokens on both sides allow, from the left, in order, with room left for
       those that follow.
    3. The first of the draft tokens before an anchor become the first of the target tokens before
       it; surplus draft tokens are deleted; if there are surplus target tokens, the anchor's label
       is the insertion, and else its target token. Behind the last anchor everything is deleted.

    When all is applied, and the block padded with masks or cut at its length, a new round of labels
    with `wildcard` goes on until the target is there. Without, masks that nobody fills are deleted
    again.

    Ids may be anything and never raise. On a GPU as `levenshtein_labels`: copied. C++: time and
    memory grow with L * M, the same labels on any number of threads. Raises MemoryError as there;
    TypeError for dtypes and for token ids that are no integers; ValueError for shapes, for lengths
    outside [0, L] or [0, M], for tensors on different devices, and for two token ids that are the
    same.
    Source: the report of LLaDA2.2, section 3.1; what it leaves open is fixed above.
    """
    _check_ids(
        mask_token_id=mask_token_id,
        delete_token_id=delete_token_id,
        insert_token_id=insert_token_id,
    )
    for name, ids in (("draft", draft), ("target", target)):
        _check(name, ids, 2, draft.device)
    if len(draft) != len(target):
        raise ValueError(
            f"draft and target must have as many rows; got {list(draft.shape)} and "
            f"{list(target.shape)}"
        )
    lengths = [
        _lengths("draft_len", draft_len, draft),
        _lengths("target_len", target_len, target),
    ]
    labels = implementation("lcs_labels", draft.device.type)(
        draft.cpu(),
        target.cpu(),
        *lengths,
        mask_token_id=mask_token_id,
        delete_token_id=delete_token_id,
        insert_token_id=insert_token_id,
        wildcard=bool(wildcard),
    )
    return labels.to(draft.device)


def _check_ids(**ids: int) -> None:
    for name, value in ids.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} must fit into 64 bits, got {value}")
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"{', '.join(ids)} must differ; got {', '.join(map(str, ids.values()))}")


def _check(
    name: str,
    value: Tensor,
    dims: int,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...] = (torch.int64,),
) -> None:
    if value.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} must be {wanted}, got {value.dtype}")
    if value.ndim != dims:
        raise ValueError(f"{name} must have {dims} dimension(s), got shape {list(value.shape)}")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, the others are on {device}")


def _boundaries(name: str, cu: Tensor, ids: Tensor) -> Tensor:
    """int64 on the CPU. Back ends take bare addresses: places outside must not reach them."""
    _check(name, cu, 1, ids.device, (torch.int64, torch.int32))
    cu = cu.cpu().long()
    if not len(cu) or cu[0] != 0 or cu[-1] != len(ids) or (cu.diff() < 0).any():
        raise ValueError(
            f"{name} must run from 0 to {len(ids)}, the number of ids, without falling; "
            f"got {cu[:8].tolist()}{' ...' if len(cu) > 8 else ''}"
        )
    return cu


def _lengths(name: str, lengths: Tensor, ids: Tensor) -> Tensor:
    """int64 on the CPU, checked for the same reason."""
    _check(name, lengths, 1, ids.device, (torch.int64, torch.int32))
    if len(lengths) != len(ids):
        raise ValueError(f"{name} must have a length per row, {len(ids)}; got {len(lengths)}")
    lengths = lengths.cpu().long()
    outside = (lengths < 0) | (lengths > ids.shape[1])
    if outside.any():
        raise ValueError(
            f"{name} must be from 0 to {ids.shape[1]}, the width of a row; "
            f"got {int(lengths[outside][0])}"
        )
    return lengths
