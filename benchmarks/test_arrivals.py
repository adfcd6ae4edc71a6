"""Requests that arrive one by one, with the embedded checkpoint: an engine that takes each at once
against a loop that calls `generate` on what has arrived.

Times run from a request's arrival to its first block, and to its end; gaps between arrivals are
exponential. Outputs are asserted equal. No EOS ends a request, so the work is known.
"""

from __future__ import annotations

import bisect
import itertools
import random
import statistics
import time

import numpy as np
import pytest

from fastedit.evaluation.bench.clock import timed

ARRIVALS = 192
RATES = (0.3, 0.6, 0.9)  # of what full batches get through
SLOTS = 32
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def config(decoder):
    return decoder.config.replace(max_new_tokens=NEW_TOKENS)


def living(decoder, config, prompts, times):
    """Ids, seconds to the first block and to the end of each request, through `Decoder.engine`."""
    ids, first, end = [[] for _ in prompts], {}, {}
    with decoder.engine(SLOTS) as engine:
        arrived, began = 0, time.perf_counter()
        while len(end) < len(prompts):
            now = time.perf_counter() - began
            while arrived < len(prompts) and times[arrived] <= now:
                assert engine.add(prompts[arrived], config) == arrived
                arrived += 1
            if engine.idle:
                time.sleep(max(0.0, times[arrived] - now))
                continue
            events = engine.step()
            now = time.perf_counter() - began
            for event in events:
                spent = now - times[event.request]
                if event.kind == "commit":
                    ids[event.request] += event.ids
                    first.setdefault(event.request, spent)
                else:
                    end[event.request] = spent
    return ids, list(first.values()), list(end.values())


def static(decoder, config, prompts, times):
    """The same in batches of what has arrived when the batch before has ended."""
    ids, end = [], []
    began = time.perf_counter()
    while len(ids) < len(prompts):
        now = time.perf_counter() - began
        due = times[len(ids) : bisect.bisect(times, now)][:SLOTS]
        if not due:
            time.sleep(times[len(ids)] - now)
            continue
        batch = prompts[len(ids) : len(ids) + len(due)]
        ids += [s.tolist() for s in decoder.generate(batch, config=config).sequences]
        now = time.perf_counter() - began
        end += [now - at for at in due]
    return ids, end, end  # results of `generate` come as a whole


@pytest.mark.parametrize("share", RATES)
def test_time_to_the_first_block(benchmark, decoder, config, prompts, report, share):
    prompts = list(itertools.islice(itertools.cycle(prompts), ARRIVALS))

    def full():
        return decoder.generate(prompts, config=config, max_batch=SLOTS).sequences

    full()  # warms up
    seconds, want = timed(full, decoder.model.device)
    rate, drawn = share * len(prompts) / seconds, random.Random(0)
    times = list(itertools.accumulate(drawn.expovariate(rate) for _ in prompts))
    ways = {"generate on what has arrived": static, "an engine that lives": living}
    found = {}

    def turn():
        for name, way in ways.items():
            found[name] = way(decoder, config, prompts, times)

    benchmark.pedantic(turn, rounds=1)
    for name, (ids, first, end) in found.items():
        assert ids == [sequence.tolist() for sequence in want]
        report(
            "arrivals",
            **{
                "arrivals/s": round(rate, 1),
                "of capacity": f"{share:.0%}",
                "decoding": name,
                **spread("first block", first),
                **spread("end", end),
            },
        )
    slow, fast = (statistics.median(first) for _, first, _ in found.values())
    assert fast < slow


def spread(name: str, seconds: list[float]) -> dict[str, str]:
    median, high = np.percentile(seconds, [50, 99])
    return {f"{name}, median": f"{median:.3f} s", f"{name}, p99": f"{high:.3f} s"}
