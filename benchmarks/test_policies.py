"""One decision of every rule on 4 blocks of 32 x 157,184 logits, beside joint threshold's.

Rules take turns in rounds of one decision each, so that all meet the same machine; the ratio is the
median of the rounds'. Before that, each decides as the reference back end does.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fastedit import ops, policies
from fastedit.evaluation.bench.measure import DTYPES
from fastedit.policies import POLICIES

BLOCKS, LENGTH, VOCAB, MASK = 4, 32, 157_184, 156_895
ROUNDS, WARM = 11, 8
BASE = "joint_threshold"
# Where a rule has kinds that read differently, or needs what nothing but a checkpoint has.
TEXTS = {
    "low_confidence": ["", "rank=entropy", "rank=margin"],
    "correction": ["scorer=confidence", "mode=rank"],
    "remdm": ["", "variant=conf"],
    "self_correction": ["", "greedy=true"],
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def texts() -> list[str]:
    """Joint threshold first, then the others; those that draw last: they slow down what follows."""
    names = [BASE, *(name for name in POLICIES if name != BASE)]
    found = [f"{n}:{kind}".rstrip(":") for n in names for kind in TEXTS.get(n, [""])]
    return sorted(found, key=lambda text: "sample" in policies.parse(text).needs)


@dataclass
class Turn:
    """Fresh blocks, half of them masks, and one decision on them."""

    text: str
    logits: Tensor
    others: Tensor  # of a second row for each position

    def __post_init__(self) -> None:
        self.policy = policies.parse(self.text)
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(0, VOCAB, (BLOCKS, LENGTH), generator=generator)
        ids[:, ::2] = MASK
        self.ids = ids.to(DEVICE)

    def state(self) -> policies.State:
        return policies.open(self.policy, self.ids, mask_token_id=MASK, seed=3)

    def decide(self, state: policies.State) -> None:
        given = {}
        if self.policy.plan == "shadow":
            given["shadow_logits"] = self.others
        if "next_token" in self.policy.needs:
            given["next_logits"] = self.others
        policies.step_(state, self.logits, **given)

    def seconds(self) -> float:
        state = self.state()
        wait()
        begin = time.perf_counter()
        self.decide(state)
        wait()
        return time.perf_counter() - begin


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_decision_of_every_rule(benchmark, report, dtype):
    generator = torch.Generator().manual_seed(0)
    shape = BLOCKS, LENGTH, VOCAB
    logits, others = (
        (3 * torch.randn(shape, generator=generator)).to(DTYPES[dtype]).to(DEVICE) for _ in "ab"
    )
    peak = torch.randint(0, VOCAB, (*shape[:2], 1), generator=generator).to(DEVICE)
    height = (torch.arange(LENGTH, device=DEVICE) % 24 + 4)[None, :, None].expand_as(peak)
    for each in (logits, others):  # so that some are sure
        each.scatter_(-1, peak, height.to(each))
    turns = [Turn(text, logits, others) for text in texts()]
    for turn in turns:
        mine, reference = turn.state(), turn.state()
        turn.decide(mine)
        with ops.use_backend("reference"):
            turn.decide(reference)
        assert mine.count_rows.equal(reference.count_rows), turn.text
        if turn.policy.heat(mine) is None:  # else probabilities that round to 1 tie
            assert mine.ids.equal(reference.ids) and mine.done.equal(reference.done), turn.text
    spent: dict[str, list[float]] = {turn.text: [] for turn in turns}

    def one_round() -> None:
        for _ in range(WARM):
            turns[0].seconds()
        for turn in turns:
            spent[turn.text].append(turn.seconds())

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    for text, times in spent.items():
        ratios = [a / b for a, b in zip(times[1:], spent[BASE][1:], strict=True)]
        report(
            "policies",
            policy=text,
            dtype=dtype,
            **{
                "ms, median": f"{1e3 * statistics.median(times[1:]):.2f}",
                f"times {BASE}": f"{statistics.median(ratios):.2f}",
                "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
            },
        )
