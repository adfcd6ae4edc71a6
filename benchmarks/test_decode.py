"""Decoding 512 new tokens with the embedded checkpoint, beside the released rule written plainly.

Both sides run the same model in the same process on the same prompts; outputs are asserted equal
before a time is reported. Each prompt is timed on both sides in turn, so that a slow spell of the
machine hits both; ratios are per prompt, quoted as median and range.
"""

from __future__ import annotations

import itertools
import statistics
import time

import plain
import pytest
import torch
from throughput import row

from fastedit import DecodeConfig, Decoder
from fastedit.tasks import get_task

NEW_TOKENS = 512
PROMPTS = 16
TOKENS = PROMPTS * NEW_TOKENS


@pytest.fixture(scope="module", params=[0, 4], ids=["questions", "4-shot"])
def setup(request):
    """Decoder, prompts and label: bare questions, or chats with worked examples in front."""
    # Without an EOS nothing ends early: 512 tokens are decoded, returned and compared.
    config = DecodeConfig.quality(max_new_tokens=NEW_TOKENS, eos_token_id=[])
    decoder = Decoder.from_pretrained("tiny", config)
    task = get_task("chain_sum")
    examples = itertools.islice(task.training(), request.param)
    shots = [turn for problem in examples for turn in conversation(task, problem)]
    chats = [shots + task.messages(problem.question) for problem in task.test_set(PROMPTS)]
    template = decoder.tokenizer.apply_chat_template
    prompts = [
        torch.tensor(template(chat, add_generation_prompt=True, return_dict=False))
        for chat in chats
    ]
    lengths = sorted(len(prompt) for prompt in prompts)
    return decoder, prompts, f"prompts of {lengths[0]} to {lengths[-1]} tokens"


def conversation(task, problem):
    return [*task.messages(problem.question), {"role": "assistant", "content": problem.solution}]


@pytest.fixture(scope="module")
def alone(setup):
    """Per prompt: plain ids, plain seconds, ours at batch 1 and with lookahead. All equal."""
    decoder, prompts, _ = setup
    decoder.generate(prompts[0], max_new_tokens=64)
    measured = []
    for prompt in prompts:
        begin = time.perf_counter()
        ids = plain.like(decoder, prompt, NEW_TOKENS)
        middle = time.perf_counter()
        out = decoder.generate(prompt)
        end = time.perf_counter()
        ahead = decoder.generate(prompt, lookahead=True)
        last = time.perf_counter()
        assert out.sequences[0].equal(ids) and len(ids) == NEW_TOKENS
        assert ahead.sequences[0].equal(ids)
        measured.append((ids, middle - begin, end - middle, last - end))
    return measured


def test_one_prompt_at_a_time(benchmark, setup, alone, report):
    decoder, prompts, label = setup
    benchmark.pedantic(decoder.generate, args=(prompts[0],), rounds=3)
    slow, *ours = [[measured[i] for measured in alone] for i in (1, 2, 3)]
    report("decode", **row(label, "released rule, plain", TOKENS, [sum(slow)], [1.0]))
    for name, fast in zip(("batch 1", "batch 1, lookahead"), ours, strict=True):
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        report("decode", **row(label, f"fastedit, {name}", TOKENS, [sum(fast)], ratios))
        assert statistics.median(ratios) > 1.0


@pytest.mark.parametrize("lookahead", [False, True], ids=["", "lookahead"])
def test_sixteen_prompts_together(benchmark, setup, alone, report, lookahead):
    decoder, prompts, label = setup
    times = []

    def together():
        begin = time.perf_counter()
        out = decoder.generate(prompts, lookahead=lookahead)
        times.append(time.perf_counter() - begin)
        return out

    out = benchmark.pedantic(together, rounds=5, warmup_rounds=1)
    for ids, (plain_ids, *_) in zip(out.sequences, alone, strict=True):
        assert ids.equal(plain_ids)
    slow = sum(measured[1] for measured in alone)
    ratios = [slow / seconds for seconds in times[1:]]
    name = "fastedit, batch 16" + (", lookahead" if lookahead else "")
    report("decode", **row(label, name, TOKENS, times[1:], ratios))
    assert statistics.median(ratios) > 1.0
