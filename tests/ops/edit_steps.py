"""What becomes of a text when its edit labels are applied, and of many, round after round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNLABELLED = -100

Texts = list[list[int]]


def levenshtein_step(current: Sequence[int], following: Sequence[int], delete: int, eos: int):
    """The text after one round of ME-DLM's edits. An EOS row, which is not returned, ends it."""
    text = []
    for token, want in zip((*current, eos), following, strict=True):
        if token == delete:
            continue
        if want not in (token, UNLABELLED):
            text.append(want)
        text.append(token)
    return text[:-1]


def lcs_step(draft: Sequence[int], labels: Sequence[int], mask: int, delete: int, insert: int):
    """The block after one round of LLaDA2.2's edits; it keeps its length."""
    block = []
    for token, label in zip(draft, labels, strict=True):
        if label == insert:
            block += [mask, token]
        elif label != delete:
            block.append(label)
    return (block + [mask] * len(draft))[: len(draft)]


def rounds_to_arrive(
    drafts: Texts, targets: Texts, step: Callable[[Texts, Texts], Texts], most: int = 200
) -> list[int | None]:
    """Rounds until each draft is its target; None for one that a round leaves as it is, unarrived.

    step  drafts and targets -> the drafts after a round
    """
    arrived: list[int | None] = [None] * len(drafts)
    texts, live = list(drafts), list(range(len(drafts)))
    for number in range(most):
        going = []
        for i in live:
            if texts[i] == targets[i]:
                arrived[i] = number
            else:
                going.append(i)
        after = step([texts[i] for i in going], [targets[i] for i in going])
        live = [i for i, text in zip(going, after, strict=True) if text != texts[i]]
        for i, text in zip(going, after, strict=True):
            texts[i] = text
        if not live:
            return arrived
    raise AssertionError(f"{len(live)} texts still change after {most} rounds")
