"""Decoding beside a busy neighbour: the share of the quiet throughput that is left, by default.

Each figure is a process of its own, through `Decoder` and through the command line, and quiet and
busy processes take turns. Neighbours: one that computes in Python on one core, and one that
multiplies matrices with torch on all cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

LEAST = 0.33
TURNS = 3
REQUESTS = 64
NEIGHBOURS = {
    "python": "while True: pass",
    "torch": "import torch\nx = torch.randn(1000, 1000)\nwhile True: x @ x",
}
DECODER = f"""
import json, time, torch
from fastedit import Decoder
decoder = Decoder.from_pretrained("tiny")
options = {{"max_new_tokens": 64, "eos_token_id": [], "max_batch": 16}}
prompts = torch.randint(100, 500, ({REQUESTS}, 20), generator=torch.Generator().manual_seed(0))
decoder.generate(prompts[:16], **options)
began = time.perf_counter()
out = decoder.generate(prompts, **options)
tokens = sum(stats.tokens for stats in out.stats)
print(json.dumps({{"tokens_per_second": tokens / (time.perf_counter() - began)}}))
"""
DOORS = {
    "Decoder": ["-c", DECODER],
    "command line": ["-m", "fastedit", "eval", "--n", str(REQUESTS), "--json"],
}


def throughput(door: str) -> float:
    """Tokens per second, as the process itself measures them."""
    unset = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, *DOORS[door]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["tokens_per_second"]


@contextlib.contextmanager
def busy(neighbour: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOURS[neighbour]])
    try:
        time.sleep(3)  # torch takes a while to load
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
@pytest.mark.parametrize("door", DOORS)
def test_what_a_neighbour_leaves(benchmark, report, door, neighbour):
    quiet, beside = [], []

    def turn():
        quiet.append(throughput(door))
        with busy(neighbour):
            beside.append(throughput(door))

    benchmark.pedantic(turn, rounds=TURNS)
    shares = [b / q for q, b in zip(quiet, beside, strict=True)]
    report(
        "neighbour",
        door=door,
        neighbour=neighbour,
        **{
            "quiet tokens/s": f"{statistics.median(quiet):.0f}",
            "beside tokens/s": f"{statistics.median(beside):.0f}",
            "share, median": f"{statistics.median(shares):.2f}",
            "range": f"{min(shares):.2f} to {max(shares):.2f}",
        },
    )
    assert statistics.median(shares) >= LEAST
