"""Random drafts and targets of all kinds, and the edit labels of many at once."""

from __future__ import annotations

import itertools
from random import Random

import torch
from torch import Tensor

Texts = list[list[int]]


def uniform(rng: Random, some) -> tuple[list[int], list[int]]:
    return some(), some()


def edited(rng: Random, some):
    """Tokens of the clean text lost, replaced, and others put in."""
    clean, noisy = some(), []
    for token in clean:
        if (chance := rng.random()) < 0.1:
            continue
        noisy.append(rng.choice(clean) if chance < 0.2 else token)
        if chance > 0.9:
            noisy.append(rng.choice(clean))
    return noisy, clean


def periodic(rng: Random, some):
    period = rng.randint(1, 4)
    return tuple((text[:period] * len(text))[: len(text)] for text in (some(), some()))


def runs(rng: Random, some):
    return tuple([token for token in some() for _ in range(rng.randint(1, 3))] for _ in "ab")


def different(rng: Random, some):
    noisy, clean = some(), some()
    return noisy, [token + 100 for token in clean]


def prefix(rng: Random, some):
    clean = some()
    return clean[: rng.randint(0, len(clean))], clean


def suffix(rng: Random, some):
    clean = some()
    return clean[rng.randint(0, len(clean)) :], clean


def rotated(rng: Random, some):
    clean = some()
    by = rng.randint(0, len(clean))
    return clean[by:] + clean[:by], clean


def swapped(rng: Random, some):
    clean = some()
    one, two, three = sorted(rng.randint(0, len(clean)) for _ in range(3))
    return clean[:one] + clean[two:three] + clean[one:two] + clean[three:], clean


def grown(rng: Random, some):
    """A token repeated in one of the two texts."""
    clean = some()
    at = rng.randint(0, len(clean))
    longer = clean[:at] + clean[at : at + 1] * rng.randint(1, 4) + clean[at:]
    return (clean, longer) if rng.random() < 0.5 else (longer, clean)


def first_gap(rng: Random, some):
    noisy = some()
    return noisy, noisy[:1] * rng.randint(1, 3) + noisy


def same(rng: Random, some):
    clean = some()
    return list(clean), clean


KINDS = {
    "uniform": uniform,
    "edited": edited,
    "periodic": periodic,
    "runs": runs,
    "all different": different,
    "prefix": prefix,
    "suffix": suffix,
    "rotated": rotated,
    "blocks swapped": swapped,
    "a run grown": grown,
    "a repeat in the first gap": first_gap,
    "identical": same,
    "empty draft": lambda rng, some: ([], some()),
    "empty target": lambda rng, some: (some(), []),
    "both empty": lambda rng, some: ([], []),
}
REAL = 156_900  # of LLaDA2: near its last ids, and the id that deletes among the text's
DELETE, INSERT, MASK, EOS = 156_930, 156_931, 156_895, 156_892


def pairs(count: int, seed: int, first_id: int = 4, long: int = 64) -> tuple[Texts, Texts]:
    """`count` drafts and targets. One in twenty has up to `long` tokens, the others up to 12.

    Alphabets of 2 to 50 ids from `first_id` on, and as many from 100 further on.
    """
    rng, makers = Random(seed), list(KINDS.values())
    noisy, clean = [], []
    for number in range(count):
        last = first_id + rng.choice((2, 3, 5, 20, 50)) - 1
        longest = long if rng.random() < 0.05 else 12

        def some(last=last, longest=longest) -> list[int]:
            return [rng.randint(first_id, last) for _ in range(rng.randint(0, longest))]

        one, other = makers[number % len(makers)](rng, some)
        noisy.append(one[:longest])
        clean.append(other[:longest])
    return noisy, clean


def masked(drafts: Texts, seed: int, mask: int) -> Texts:
    """No, some, half, all or the last of the tokens of a draft are masks."""
    rng = Random(seed)
    for draft in drafts:
        share = rng.choice((0.0, 0.2, 0.5, 1.0))
        tail = rng.randint(0, len(draft)) if rng.random() < 0.2 else len(draft)
        for i in range(len(draft)):
            if i >= tail or rng.random() < share:
                draft[i] = mask
    return drafts


def packed(texts: Texts) -> tuple[Tensor, Tensor]:
    """Ids end to end, and where each text begins."""
    ids = torch.tensor(list(itertools.chain.from_iterable(texts)), dtype=torch.int64)
    return ids, torch.tensor([0, *itertools.accumulate(map(len, texts))])


def unpacked(labels: Tensor, cu: Tensor, more: int = 0) -> Texts:
    """The labels of each text; of one that has `more` labels than ids."""
    flat, starts = labels.tolist(), (cu + more * torch.arange(len(cu))).tolist()
    return [flat[a:b] for a, b in itertools.pairwise(starts)]


def rectangle(texts: Texts, filler: int = 77) -> tuple[Tensor, Tensor]:
    """Ids [B, L] with `filler` behind each text, and the lengths [B]."""
    lengths = [len(text) for text in texts]
    width = max(lengths, default=0)
    rows = [text + [filler] * (width - len(text)) for text in texts]
    ids = torch.tensor(rows, dtype=torch.int64).reshape(len(texts), width)
    return ids, torch.tensor(lengths, dtype=torch.int64)
