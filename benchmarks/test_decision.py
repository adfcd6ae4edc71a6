"""The decision step on blocks of 32 x 157,184 logits, beside the public rule and the peers' code.

`fastedit.evaluation.bench` holds the competitors, the inputs and the clocks: all compared and timed
in this process, in turn. Peers: `pip install diffusers` and `pip install --no-deps sglang`; a row
without one says so. On a GPU: wall time and CUDA graph, cold and warm.
"""

from __future__ import annotations

import pytest
import torch

from fastedit.cli.bench_table import columns
from fastedit.evaluation.bench.case import make_case
from fastedit.evaluation.bench.clock import Wall
from fastedit.evaluation.bench.measure import DTYPES, measure
from fastedit.evaluation.bench.peers import fastedit_backend

VOCAB = 157_184
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("blocks", [1, 4, 16, 64])
def test_decision(benchmark, report, blocks, dtype):
    case = make_case(blocks, VOCAB, DTYPES[dtype], DEVICE)
    rows = measure(case)
    for row in rows:
        report("decision", saved=row, **columns(row))
    assert not [row["error"] for row in rows if "error" in row]

    benchmark.extra_info |= rows[0]
    ours = fastedit_backend(rows[0]["competitor"].removeprefix("fastedit "), case)
    benchmark.pedantic(Wall(ours, case), rounds=5, warmup_rounds=1)
