"""Edit labels in plain Python, pair by pair.

Above: the scripts of the fewest edits behind `levenshtein_labels`. Below: the common subsequences
behind `lcs_labels`.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fastedit.ops.edit_labels import UNLABELLED

# Levenshtein: x is a draft of n tokens with gaps 0 to n, y the clean text.


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
    """Contract: `fastedit.ops.levenshtein_labels`.

    first_gap  gaps from here on slide: 0, or 1 as released
    exchange   False: what is missing in the next gap is overwritten, which is "strict"
    """
    current: list[int] = []
    following: list[int] = []
    for x, y in zip(_texts(noisy, noisy_cu), _texts(clean, clean_cu), strict=True):
        edits, missing = shortest_script(x, y, delete_token_id)
        slide(edits, missing, first_gap, exchange)
        current += edits
        following += gap_labels(edits, missing, delete_token_id, eos_token_id, label_after_delete)
    return torch.tensor(current, dtype=torch.int64), torch.tensor(following, dtype=torch.int64)


def shortest_script(x: list[int], y: list[int], delete: int) -> tuple[list[int], list[int | None]]:
    """The label of each token, and the first token that is missing in each gap, if any is."""
    distance = distances(x, y)
    edits = list(x)
    missing: list[int | None] = [None] * (len(x) + 1)
    i, j = len(x), len(y)
    while i or j:  # the first i tokens of x are still to become the first j of y
        cost = distance[i][j]
        if i and j and cost == distance[i - 1][j - 1] + (x[i - 1] != y[j - 1]):
            i, j = i - 1, j - 1
            edits[i] = y[j]  # kept, where they are the same
        elif i and cost == distance[i - 1][j] + 1:
            i -= 1
            edits[i] = delete
        else:
            j -= 1
            missing[i] = y[j]  # overwrites one further right
    return edits, missing


def distances(x: list[int], y: list[int]) -> list[list[int]]:
    """Row i, column j: the fewest edits from the first i tokens of x to the first j of y."""
    table = [list(range(len(y) + 1))]
    for i, token in enumerate(x):
        above, row = table[-1], [i + 1]
        for j, other in enumerate(y):
            row.append(min(above[j] + (token != other), above[j + 1] + 1, row[j] + 1))
        table.append(row)
    return table


def slide(edits: list[int], missing: list[int | None], first_gap: int, exchange: bool) -> None:
    """Move missing tokens behind tokens that equal them: the text to come stays the same."""
    for gap in range(first_gap, len(edits)):
        if missing[gap] == edits[gap]:
            waiting = missing[gap + 1] if exchange else None
            missing[gap], missing[gap + 1] = waiting, missing[gap]


def gap_labels(
    edits: list[int], missing: list[int | None], delete: int, eos: int, label_after_delete: bool
) -> list[int]:
    labels = []
    kept = eos  # the next token that is kept, from the gap on
    for gap in reversed(range(len(missing))):
        inside = gap < len(edits)
        if inside and edits[gap] != delete:
            kept = edits[gap]
        here = missing[gap]
        behind_deleted = inside and gap > 0 and edits[gap - 1] == delete
        if here is not None:
            labels.append(here)
        else:
            labels.append(UNLABELLED if behind_deleted and not label_after_delete else kept)
    return labels[::-1]


def _texts(ids: Tensor, boundaries: Tensor) -> list[list[int]]:
    tokens, cu = ids.tolist(), boundaries.tolist()
    return [tokens[start:end] for start, end in itertools.pairwise(cu)]


# LCS: x is a draft of m tokens, y a target of n; matches are places (i, j) in both.


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
    labels = torch.full_like(draft, UNLABELLED)
    wild = mask_token_id if wildcard else None
    for row, m, n in zip(range(len(draft)), draft_len.tolist(), target_len.tolist(), strict=True):
        x, y = draft[row, :m].tolist(), target[row, :n].tolist()
        anchors = nearest(longest_common(x, y, wild), x, y)
        labels[row, :m] = torch.tensor(
            block_labels(anchors, len(x), y, delete_token_id, insert_token_id), dtype=torch.int64
        )
    return labels


def longest_common(x: list[int], y: list[int], wild: int | None) -> list[tuple[int, int]]:
    """The matches from left to right; token `wild` of x matches every token of y."""
    m, n = len(x), len(y)
    each = m + 1  # a match is worth more than the equality of all of them

    def worth(i: int, j: int) -> int:
        return each + 1 if x[i] == y[j] else each if x[i] == wild else 0

    best = [[0] * (n + 1) for _ in range(m + 1)]  # of x from i on and y from j on
    for i in reversed(range(m)):
        row, below = best[i], best[i + 1]
        for j in reversed(range(n)):
            match = worth(i, j)
            row[j] = max(below[j], row[j + 1], below[j + 1] + match if match else 0)
    matches = []
    i = j = 0
    while i < m and j < n:
        match = worth(i, j)
        if match and best[i][j] == best[i + 1][j + 1] + match:
            matches.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return matches


def nearest(matches: list[tuple[int, int]], x: list[int], y: list[int]) -> list[tuple[int, int]]:
    """The same matches, those of unequal tokens moved to targets nearest to their own index."""
    latest = []  # place of each that leaves room for those behind it
    last = len(y)
    for i, j in reversed(matches):
        last = j if x[i] == y[j] else last - 1
        latest.append(last)
    anchors = []
    earliest = 0
    for (i, j), last in zip(matches, reversed(latest), strict=True):
        place = j if x[i] == y[j] else min(max(i, earliest), last)
        anchors.append((i, place))
        earliest = place + 1
    return anchors


def block_labels(
    anchors: list[tuple[int, int]], length: int, y: list[int], delete: int, insert: int
) -> list[int]:
    labels = [delete] * length
    i = j = 0  # where the gap before the next anchor begins, in the draft and in the target
    for at, to in anchors:
        aligned = min(at - i, to - j)
        labels[i : i + aligned] = y[j : j + aligned]
        labels[at] = insert if to - j > at - i else y[to]
        i, j = at + 1, to + 1
    return labels
