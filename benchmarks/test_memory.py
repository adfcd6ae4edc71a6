"""Resident memory of one engine through which requests go for long: it stays where it is."""

from __future__ import annotations

import random

import pytest
from resident import STATUS, resident

MARKS = (300, 3000)  # requests
SLOTS = 32
LONGEST = 160  # ids of a prompt, so that whole blocks are kept for others
NEW_TOKENS = 8
MOST = 24  # MiB that may come between the marks, of what allocators round up


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_memory_stays_flat(benchmark, decoder, report):
    config, drawn = decoder.config.replace(max_new_tokens=NEW_TOKENS), random.Random(0)
    before, found = resident(), {}

    def through():
        ended = 0
        with decoder.engine(SLOTS) as engine:
            for number in range(MARKS[-1]):
                ids = [drawn.randrange(100, 500) for _ in range(drawn.randint(1, LONGEST))]
                assert engine.add([ids], config) == number
                while number - ended >= 2 * SLOTS or (number + 1 in MARKS and not engine.idle):
                    ended += sum(event.kind == "end" for event in engine.step())
                if number + 1 in MARKS:
                    assert ended == number + 1
                    found[ended] = resident()

    benchmark.pedantic(through, rounds=1)
    for requests, memory in found.items():
        report(
            "memory",
            requests=requests,
            resident=f"{memory:.0f} MiB",
            more=f"{memory - before:+.1f} MiB than before the first",
        )
    first, last = (found[mark] for mark in MARKS)
    assert last - first < MOST
