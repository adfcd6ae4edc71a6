"""Peers of the decision benchmark that go wrong, and rounds that are over soon."""

from __future__ import annotations

import dataclasses

import torch

from fastedit.evaluation.bench import clock, measure, peers
from fastedit.evaluation.bench.case import PROMPT

TIMES = {"median_us", "p20_us", "p80_us", "repeats", "gbps", "pct_read", "times_faster"}


def few_rounds(monkeypatch) -> None:
    """Few rounds, small probes, nothing compiled."""
    monkeypatch.setattr(measure, "MOST", measure.FEWEST)
    monkeypatch.setitem(clock.PROBE_MEGABYTES, "cpu", 1)
    monkeypatch.delitem(peers.PEERS, "torch.compile")


def add_faulty(monkeypatch, fault, **changes) -> None:
    """The plain rule with a fault as one more peer."""
    plain = peers.PEERS["plain torch"]
    make = lambda name, case: with_fault(plain(name, case), fault, **changes)  # noqa: E731
    monkeypatch.setitem(peers.PEERS, "faulty", make)


def forget_sglang() -> None:
    from fastedit.evaluation.bench.sglang_step import algorithm

    algorithm.cache_clear()


def with_fault(sound: peers.Competitor, fault, **changes) -> peers.Competitor:
    def begin():
        run = sound.begin()
        return peers.Run(lambda logits: fault(run.step(logits)), run.mutated)

    return dataclasses.replace(sound, begin=begin, **changes)


def wrong_id(outcome):
    ids = outcome.ids.clone()
    ids[1, PROMPT] += 1
    return dataclasses.replace(outcome, ids=ids)


def not_done(outcome):
    return dataclasses.replace(outcome, done=torch.zeros_like(outcome.done))


def unchanged(outcome):
    return dataclasses.replace(outcome, changed=[False] * len(outcome.ids))


def by_name(rows) -> dict:
    return {row["competitor"]: row for row in rows}
