"""SDAR-1.7B and LLaDA-8B with random weights on a CPU, beside their released loops; a few blocks.

Only with `--real-sizes`. The released loop, written plainly, runs around transformers' own class
over the same weights, in turns with ours. Tokens are asserted equal in fp32, at four layers of
these sizes; in bf16, whose logits nearly tie, agreement is reported. The ceiling (`ceiling.py`) is
measured between the two. SDAR fills a token per forward and row, as its rule falls back to with
random weights, and LLaDA two. SDAR's loop stores its last block too, which nothing reads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plain_families
import pytest
import torch
from ceiling import Ceiling, counted
from real_sizes import SIZES, native_of, random_model
from resident import PEAK, peak_of
from shares import shares

from fastedit import Decoder

PROMPT, NEW = 64, 8  # ids
TURNS = 2
LAYERS = 4  # of the models that are compared in fp32


@dataclass(frozen=True)
class Rule:
    """A released loop, and what it is given."""

    loop: Callable[..., torch.Tensor]
    block_length: int
    steps: int
    others: dict[str, Any]

    def plain(self, model: Any, prompts: torch.Tensor, new: int) -> Run:
        blocks: list[float] = []
        began = time.perf_counter()
        out = self.loop(
            model,
            prompts,
            gen_length=new,
            block_length=self.block_length,
            steps=self.steps,
            mask_id=model.config.mask_token_id,
            on_block=lambda: blocks.append(time.perf_counter()),
            **self.others,
        )
        return Run(out.tolist(), time.perf_counter() - began, blocks[0] - began)

    def ours(self, decoder: Decoder, prompts: torch.Tensor, new: int) -> Run:
        threshold = self.others.get("threshold", 1)
        settings = {
            "policy": f"low_confidence:threshold={threshold},steps={self.steps}",
            "block_length": self.block_length,
            "max_new_tokens": new,
            "eos_token_id": [],
        }
        began, first = time.perf_counter(), None
        ids: list[list[int]] = [[] for _ in prompts]
        with decoder.engine(len(prompts)) as engine:
            for prompt in prompts:
                engine.add(prompt, **settings)
            while not engine.idle:
                for event in engine.step():
                    assert event.error is None
                    first = first or time.perf_counter()
                    ids[event.request] += event.ids
        return Run(ids, time.perf_counter() - began, first - began)


@dataclass(frozen=True)
class Run:
    ids: list[list[int]]
    seconds: float
    first: float  # seconds to the first finished block


RULES = {
    "SDAR-1.7B": Rule(plain_families.sdar, 4, 4, {"threshold": 0.95}),
    "LLaDA-8B": Rule(plain_families.llada, 4, 2, {}),
}
CASES = [
    ("SDAR-1.7B", "bf16"),
    ("SDAR-1.7B", "int8"),
    ("SDAR-1.7B", "int4"),
    ("LLaDA-8B", "bf16"),
    ("LLaDA-8B", "int4"),
]


@pytest.fixture(autouse=True)
def asked_for(request):
    if not request.config.getoption("--real-sizes"):
        pytest.skip("only with --real-sizes")
    if torch.cuda.is_available() or not PEAK.exists():
        pytest.skip("of weights on a CPU, under Linux")


def prompts_of(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 100_000, (batch, PROMPT), generator=generator)


@pytest.mark.parametrize("name", SIZES)
def test_equal_tokens(benchmark, report, name):
    """benchmark: so that `--benchmark-only` runs it too."""
    ours, rule = random_model(SIZES[name], "fp32", layers=LAYERS), RULES[name]
    native, decoder = native_of(ours), Decoder(ours)
    varied = set()

    def both():
        for batch in (1, 4):
            prompts = prompts_of(batch)
            found = rule.ours(decoder, prompts, NEW).ids
            assert found == rule.plain(native, prompts, NEW).ids
            varied.update(*found)

    benchmark.pedantic(both, rounds=1)
    assert len(varied) > NEW  # a model that says one thing would agree with any loop
    report("real_sizes_equal", model=name, layers=LAYERS, dtype="fp32", equal="all tokens")


@pytest.fixture(scope="module")
def models():
    """The model of the last case: two of them may not fit."""
    kept: dict[tuple[str, str], tuple[Decoder, Any]] = {}

    def model(*case: str) -> tuple[Decoder, Any]:
        if case not in kept:
            kept.clear()
            made = random_model(SIZES[case[0]], case[1])
            kept[case] = Decoder(made), native_of(made)
        return kept[case]

    return model


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("name", "weights"), CASES)
def test_tokens_per_second(benchmark, report, models, name, weights, batch):
    rule, prompts = RULES[name], prompts_of(batch)
    decoder, native = models(name, weights)
    ceiling = Ceiling(decoder.model)
    rows: list[dict[str, Any]] = []

    def turn():
        decoder.close()  # the pool belongs to what a run takes
        with counted(decoder.model) as forwards:
            peak, ours = peak_of(lambda: rule.ours(decoder, prompts, NEW))
        least, reading = ceiling.seconds(forwards)
        with counted(native) as theirs:
            plain_peak, plain = peak_of(lambda: rule.plain(native, prompts, NEW))
        assert forwards.total() <= theirs.total()
        same = torch.tensor(ours.ids) == torch.tensor(plain.ids)
        rows.append(
            {
                "forwards": forwards.total(),
                "plain forwards": theirs.total(),
                "seconds": ours.seconds,
                "plain seconds": plain.seconds,
                "first": ours.first,
                "plain first": plain.first,
                "peak": peak,
                "plain peak": plain_peak,
                "least": least,
                "reading": reading,
                "agree": same.float().mean().item(),
            }
        )

    for loop, model in ((rule.ours, decoder), (rule.plain, native)):
        loop(model, prompts, rule.block_length)  # warm
    benchmark.pedantic(turn, rounds=TURNS)
    columns = {
        "tokens/s": _of(rows, lambda row: batch * NEW / row["seconds"], ".2f"),
        "plain tokens/s": _of(rows, lambda row: batch * NEW / row["plain seconds"], ".2f"),
        "times faster": _of(rows, lambda row: row["plain seconds"] / row["seconds"], ".2f"),
        "first block s": _of(rows, lambda row: row["first"], ".2f"),
        "plain first block s": _of(rows, lambda row: row["plain first"], ".2f"),
        "peak MiB": _of(rows, lambda row: row["peak"], ".0f"),
        "plain peak MiB": _of(rows, lambda row: row["plain peak"], ".0f"),
        "% of the ceiling": _of(rows, lambda row: 100 * row["least"] / row["seconds"], ".0f"),
        "% of the bytes": _of(rows, lambda row: 100 * row["reading"] / row["seconds"], ".0f"),
        "agree %": _of(rows, lambda row: 100 * row["agree"], ".0f"),
    }
    case = {"model": name, "weights": weights, "batch": batch}
    case["GB"] = f"{ceiling.bytes / 1e9:.2f}"
    case |= {key: rows[0][key] for key in ("forwards", "plain forwards")}
    report("real_sizes", **case, **columns, saved=case | {"turns": rows})
    found = shares(decoder.model, lambda: rule.ours(decoder, prompts, NEW))
    percent = {kind: f"{100 * share:.1f}" for kind, share in found.items()}
    report("real_sizes_shares", model=name, weights=weights, batch=batch, **percent)


def _of(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], form: str) -> str:
    """Median, and the range where there is one."""
    values = [value(row) for row in rows]
    low, middle, high = (
        format(v, form) for v in (min(values), statistics.median(values), max(values))
    )
    return middle if low == high else f"{middle} ({low} to {high})"
