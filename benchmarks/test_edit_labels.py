"""Edit labels in C++ beside the reference in plain Python, on the CPU: equal labels, then times.

Both in turn on the same pairs: a target, and a draft in which tokens are lost, replaced, repeated
and, for LLaDA2.2's blocks, masked. A ratio is that of a turn, in which the reference has one call
and C++ `CALLS`, of which the median counts. On the threads that torch has; small work takes one.
"""

from __future__ import annotations

import statistics

import pytest
import torch

from fastedit import ops
from fastedit.evaluation.bench.clock import timed

TURNS, CALLS = 3, 20
VOCAB = 156_900
MASK, DELETE, INSERT, EOS = range(VOCAB, VOCAB + 4)
CPU = torch.device("cpu")
BACKENDS = {"reference": 1, "cpp": CALLS}
LEAST = 50.0  # times as fast


def drafts_of(target, masks: float):
    """Three tenths of the tokens [B, L] are the one to the left, another one or a mask."""
    generator = torch.Generator().manual_seed(1)
    chance = torch.rand(target.shape, generator=generator)
    other = torch.randint(0, VOCAB, target.shape, generator=generator)
    draft = torch.where(chance < 0.1, target.roll(1, 1), target)
    draft = torch.where((chance > 0.1) & (chance < 0.2), other, draft)
    draft = torch.where(chance > 1 - masks, MASK, draft)
    draft[::2] = draft[::2].roll(1, 1)  # a token too many at the start of every other one
    return draft


def targets(pairs: int, length: int):
    return torch.randint(0, VOCAB, (pairs, length), generator=torch.Generator().manual_seed(0))


def levenshtein(pairs: int, length: int):
    clean, cu = targets(pairs, length), length * torch.arange(pairs + 1)
    noisy = drafts_of(clean, 0.0)
    ids = {"delete_token_id": DELETE, "eos_token_id": EOS}
    return lambda: ops.levenshtein_labels(noisy.flatten(), cu, clean.flatten(), cu, **ids)


def lcs(pairs: int, length: int):
    target, lengths = targets(pairs, length), torch.full((pairs,), length)
    draft = drafts_of(target, 0.3)
    ids = {"mask_token_id": MASK, "delete_token_id": DELETE, "insert_token_id": INSERT}
    return lambda: (ops.lcs_labels(draft, target, lengths, lengths, **ids),)


@pytest.mark.parametrize(
    ("labels", "pairs", "length"),
    [
        (levenshtein, 256, 32),
        (levenshtein, 4, 512),
        (levenshtein, 1, 1500),
        (lcs, 256, 32),
        (lcs, 1024, 32),
    ],
)
def test_edit_labels(benchmark, report, labels, pairs, length):
    call = labels(pairs, length)
    times: dict[str, list[float]] = {name: [] for name in BACKENDS}

    def turn():
        found = []
        for name, calls in BACKENDS.items():
            with ops.use_backend(name):
                shots = [timed(call, CPU) for _ in range(calls)]
            times[name].append(statistics.median(seconds for seconds, _ in shots))
            found.append(shots[-1][1])
        assert all(a.equal(b) for a, b in zip(*found, strict=True))

    benchmark.pedantic(turn, rounds=TURNS)
    ratios = [slow / fast for slow, fast in zip(*times.values(), strict=True)]
    report(
        "edit_labels",
        labels=labels.__name__,
        pairs=f"{pairs} of {length} tokens",
        threads=torch.get_num_threads(),
        **{
            f"us per pair, {name}": f"{1e6 * statistics.median(spent) / pairs:.1f}"
            for name, spent in times.items()
        },
        times=f"{statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})",
    )
    assert statistics.median(ratios) > LEAST
