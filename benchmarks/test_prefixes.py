"""Requests with one few-shot prefix, with the embedded checkpoint: what reuse of keys and values is
worth, and what it could be worth at most.

All ways decode the same prompts with the same model, and outputs are asserted equal. Without reuse,
every request is laid out as if no other could share its blocks, which is the one place where the
engine decides that; all else is as it is. At most: a second call on prompts that are all kept, so
that nothing is prefilled. Every other call begins with nothing kept.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from throughput import row

from fastedit.engine import store
from fastedit.evaluation.bench.clock import timed
from fastedit.tasks import get_task

REQUESTS = 64
EXAMPLES = 4
SLOTS = 16
NEW_TOKENS = 64
TURNS = 3


@pytest.fixture(scope="module")
def prompts(decoder):
    """Ids [P] of chats: worked examples, the same in all, and a held-out question each."""
    task, template = get_task("chain_sum"), decoder.tokenizer.apply_chat_template
    shots = []
    for problem in itertools.islice(task.training(), EXAMPLES):
        shots += task.messages(problem.question)
        shots += [{"role": "assistant", "content": problem.solution}]
    chats = [shots + task.messages(problem.question) for problem in task.test_set(REQUESTS)]
    return [
        torch.tensor(template(chat, add_generation_prompt=True, return_dict=False))
        for chat in chats
    ]


def test_a_prefix_that_all_share(benchmark, decoder, prompts, report, monkeypatch):
    config, device = decoder.config.replace(max_new_tokens=NEW_TOKENS), decoder.model.device
    layout, serial = store._layout, itertools.count()

    def decode():
        return decoder.generate(prompts, config=config, max_batch=SLOTS)

    def alone():
        decoder.close()
        with monkeypatch.context() as patch:
            patch.setattr(store, "_layout", lambda request: (layout(request), next(serial)))
            return timed(decode, device)

    def shared():
        decoder.close()
        return timed(decode, device)

    def known():
        decoder.close()
        with monkeypatch.context() as patch:
            patch.setattr(store, "KEPT", len(prompts))
            decode()
            return timed(decode, device)

    ways = {"every prompt prefilled": alone, "reuse": shared, "no prefill at all": known}
    times: dict[str, list[float]] = {name: [] for name in ways}
    want = decode().sequences  # warms up
    prefills: dict[str, int] = {}

    def turn():
        for name, way in ways.items():
            spent, out = way()
            assert all(a.equal(b) for a, b in zip(out.sequences, want, strict=True))
            times[name].append(spent)
            prefills[name] = sum(stats.prefill_forwards for stats in out.stats)

    benchmark.pedantic(turn, rounds=TURNS)
    assert prefills["every prompt prefilled"] >= len(prompts) > prefills["reuse"]
    assert prefills["no prefill at all"] == 0
    tokens = sum(len(ids) for ids in want)
    mean = round(sum(map(len, prompts)) / len(prompts))
    label = f"{len(prompts)} of {NEW_TOKENS} tokens behind {mean}"
    first, *_ = times.values()
    for name, spent in times.items():
        ratios = [slow / own for slow, own in zip(first, spent, strict=True)]
        report("prefixes", **row(label, name, tokens, spent, ratios))
    assert sorted(times["reuse"])[TURNS // 2] < sorted(first)[TURNS // 2]
