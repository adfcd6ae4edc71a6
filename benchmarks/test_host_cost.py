"""Host time per call of the operations, and per step of the loop around a model that costs nothing.

A block that is done reads nothing, so its call is checks, dispatch and, on a GPU, the launch. Each
figure is the median over rounds of `CALLS` calls; a GPU is not waited for inside a round.
"""

from __future__ import annotations

import functools
import statistics
import time
from types import SimpleNamespace

import pytest
import torch

from fastedit import DecodeConfig, Decoder, ops
from fastedit.engine.lane import Lane
from fastedit.engine.step import Steps
from fastedit.plans import Block
from fastedit.request.slots import Live

CALLS = 200
ROUNDS = 15
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTH, VOCAB = 32, 640


def step(done: bool, tensors: bool = False):
    """A decision on one block without masks, which changes nothing, so every call is the same.

    Settings are numbers, or `tensors` as in the decoding loop.
    """
    ids = torch.ones(1, LENGTH, dtype=torch.int64, device=DEVICE)
    logits = torch.zeros(1, LENGTH, VOCAB, device=DEVICE)
    logits[..., 1] = 9.0
    editable = torch.ones(1, LENGTH, dtype=torch.bool, device=DEVICE)
    state = ops.StepState.new(1, DEVICE)
    state.done[:] = done
    settings = {
        "threshold": 0.7,
        "editing_threshold": 0.5,
        "max_post_steps": 2**30,
        "num_to_transfer": 1,
    }
    if tensors:
        for name, value in settings.items():
            kind = torch.float32 if "threshold" in name else torch.int32
            settings[name] = torch.full((1,), value, dtype=kind, device=DEVICE)

    def call():
        if not done:
            state.done.zero_()  # the step sets it; about 1 us of the figure
        ops.joint_threshold_step_(ids, logits, editable, state, mask_token_id=0, **settings)

    return call


def stats():
    logits = torch.zeros(1, VOCAB, device=DEVICE)
    current = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    return lambda: ops.row_stats(logits, current)


CASES = {
    "decision, done block": lambda: step(True),
    "decision, done block, settings as tensors": lambda: step(True, tensors=True),
    f"decision, {LENGTH} x {VOCAB}": lambda: step(False),
    f"decision, {LENGTH} x {VOCAB}, settings as tensors": lambda: step(False, tensors=True),
    f"row_stats, 1 x {VOCAB}": stats,
}


def serving() -> list[str]:
    """Back ends that run here; the interpreter is no back end to time."""
    report = ops.backend_report()["row_stats"]
    return [name for name, state in report.items() if state in ("in use", "available, not chosen")]


@pytest.mark.parametrize("backend", serving())
@pytest.mark.parametrize("case", CASES)
def test_host_cost(benchmark, report, case, backend):
    with ops.use_backend(backend):
        call = CASES[case]()
        benchmark.pedantic(call, rounds=ROUNDS, iterations=CALLS, warmup_rounds=2)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    times = [1e6 * seconds for seconds in benchmark.stats.stats.data]
    report("host_cost", **row(case, backend, times))


def row(call: str, backend: str, times: list[float]) -> dict:
    return {
        "call": call,
        "backend": backend,
        "us per call, median": f"{statistics.median(times):.1f}",
        "range": f"{min(times):.1f} to {max(times):.1f}",
    }


RULES = [
    "joint_threshold:threshold=0.9",
    "low_confidence",
    "low_confidence:rank=entropy",
    "low_confidence:rank=margin",
    "remask",
    "entropy_bound",
    "wino",
    "saber",
    "proseco",
    "correction:mode=rank",
    "correction:scorer=confidence",
    "remdm",
    "remdm:variant=conf",
    "self_correction",
    "multi_block",
    "joint_threshold_indel:threshold=0.9,delete_token_id=1,insert_token_id=2",
]


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("policy", RULES)
def test_host_time_per_step(benchmark, report, policy, batch):
    """The whole loop, decision on 32 x 640 included, over its steps: the most of any request."""
    decoder = free_decoder(batch, policy)
    prompts, times = [torch.arange(8)] * batch, []

    def decode():
        begin = time.perf_counter()
        steps = max(stats.forwards for stats in decoder.generate(prompts).stats)
        times.append(1e6 * (time.perf_counter() - begin) / steps)

    benchmark.pedantic(decode, rounds=7, warmup_rounds=1)
    report("host_cost", **row(f"step under {policy}, batch {batch}", "default", times[1:]))


PARTS = {
    "decision and its flags": (Steps, "decide"),
    "following on the host": (Lane, "_follow"),
    "call of the model": (Block, "forward"),
    "opening blocks on the device": (Live, "advance_"),
    "positions and masks of new blocks": (Steps, "place"),
}


def test_where_the_host_time_goes(benchmark, report, monkeypatch):
    """A step at batch 1 by part; the rest is the loop's own Python, admission and results."""
    decoder, prompt = free_decoder(1, RULES[0]), torch.arange(8)
    spent, whole = dict.fromkeys(PARTS, 0.0), []

    def watched(part, call):
        def timed(*args, **options):
            begin = time.perf_counter()
            result = call(*args, **options)
            spent[part] += time.perf_counter() - begin
            return result

        return timed

    decoder.generate(prompt)
    for part, (owner, name) in PARTS.items():
        monkeypatch.setattr(owner, name, watched(part, getattr(owner, name)))

    def decode():
        begin = time.perf_counter()
        forwards = decoder.generate(prompt).stats[0].forwards
        whole.append((time.perf_counter() - begin, forwards))

    benchmark.pedantic(decode, rounds=7)
    seconds, forwards = (sum(column) for column in zip(*whole, strict=True))
    for part, of_it in (spent | {"the rest": seconds - sum(spent.values())}).items():
        share = {"us per step": f"{1e6 * of_it / forwards:.1f}", "%": round(100 * of_it / seconds)}
        report("host_time", part=part, **share)


def free_decoder(batch: int, policy: str) -> Decoder:
    """Around a model that costs nothing: the same logits for every block of a forward."""
    logits = torch.randn(batch, LENGTH, VOCAB, generator=torch.Generator().manual_seed(0)) * 3

    @functools.cache
    def repeated(blocks):
        return logits.repeat(1, blocks, 1)

    def free(input_ids, **_):
        rows, length = input_ids.shape
        return SimpleNamespace(logits=repeated(length // LENGTH)[:rows])

    free.config = SimpleNamespace(vocab_size=VOCAB)
    config = DecodeConfig(
        policy=policy, mask_token_id=VOCAB - 1, eos_token_id=[], max_new_tokens=1024
    )
    return Decoder(free, config=config)
