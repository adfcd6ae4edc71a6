"""Many requests with the embedded checkpoint: continuous against static batches, and batch sizes.

Outputs are asserted equal before a time is reported. No EOS ends a request: each decodes its
`max_new_tokens`, so the work is known. Texts longer than the checkpoint's 1024 positions are of no
use, but the same on all sides.
"""

from __future__ import annotations

import random
import statistics
from functools import partial

import plain
import pytest
from throughput import row

from fastedit.evaluation.bench.clock import timed

SLOTS = 16
ROUNDS = 2  # of each batch size
TURNS = 3  # of the three ways through the mixed workload, interleaved
SHORTEST, LONGEST = 32, 1024
NEW_TOKENS = 64  # of each request in the comparison of batch sizes


@pytest.fixture(scope="module")
def decoder(decoder):
    decoder.model.config.max_position_embeddings = 2 * LONGEST
    return decoder


def test_continuous_against_static(benchmark, decoder, prompts, report):
    """Static: groups of 16 in order of arrival, none enters before the longest has ended."""
    drawn = random.Random(0)
    lengths = [round(SHORTEST * (LONGEST / SHORTEST) ** drawn.random()) for _ in prompts]
    groups = [slice(start, start + SLOTS) for start in range(0, len(prompts), SLOTS)]

    def configs(group, new_tokens):
        return [decoder.config.replace(max_new_tokens=n) for n in new_tokens[group]]

    def continuous():
        everything = slice(0, len(prompts))
        out = decoder.generate(prompts, config=configs(everything, lengths), max_batch=SLOTS)
        return out.sequences

    def leaving():
        """Those that have ended leave their group and cost nothing more."""
        return [
            ids
            for group in groups
            for ids in decoder.generate(prompts[group], config=configs(group, lengths)).sequences
        ]

    def static():
        """All of a group take part until the longest has ended, as rows of a padded batch do."""
        padded = [max(lengths[group]) for group in groups for _ in range(SLOTS)]
        results = [
            ids
            for group in groups
            for ids in decoder.generate(prompts[group], config=configs(group, padded)).sequences
        ]
        return [ids[:n] for ids, n in zip(results, lengths, strict=True)]

    variants = {
        "static batches of 16, all run on to the longest": static,
        "static batches of 16, finished requests leave": leaving,
        "continuous, 16 slots": continuous,
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    want = continuous()  # warms up
    assert [len(ids) for ids in want] == lengths

    def turn():
        for name, variant in variants.items():
            spent, found = timed(variant, decoder.model.device)
            assert all(a.equal(b) for a, b in zip(found, want, strict=True))
            times[name].append(spent)

    benchmark.pedantic(turn, rounds=TURNS)
    label = f"{len(prompts)} of {SHORTEST} to {LONGEST} tokens"
    first, *_ = times.values()
    for name, spent in times.items():
        ratios = [slow / own for slow, own in zip(first, spent, strict=True)]
        report("batching", **row(label, name, sum(lengths), spent, ratios))
    assert statistics.median(ratios) > 1.5


def test_batch_sizes_against_the_plain_rule(benchmark, decoder, prompts, report):
    config = decoder.config.replace(max_new_tokens=NEW_TOKENS)
    benchmark.pedantic(decoder.generate, (prompts[0],), {"config": config}, rounds=3)
    rule = partial(plain.like, decoder, new_tokens=NEW_TOKENS)
    slow, want = timed(lambda: [rule(prompt) for prompt in prompts], decoder.model.device)
    label, tokens = f"{len(prompts)} of {NEW_TOKENS} tokens", NEW_TOKENS * len(prompts)
    report("batching", **row(label, "released rule, plain", tokens, [slow], [1.0]))
    for rows in (1, 4, 16, 64):
        decode = partial(decoder.generate, prompts, config=config, max_batch=rows)
        times = []
        for _ in range(ROUNDS):
            spent, out = timed(decode, decoder.model.device)
            assert all(a.equal(b) for a, b in zip(out.sequences, want, strict=True))
            times.append(spent)
        ratios = [slow / spent for spent in times]
        report("batching", **row(label, f"fastedit, batch {rows}", tokens, times, ratios))
        assert statistics.median(ratios) > 1.0
