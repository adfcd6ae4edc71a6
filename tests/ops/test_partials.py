"""Shards of the vocabulary merge to the whole, within a process and between two."""

import itertools
import math
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from blocks import MASK, as_blocks, as_tensors, interpreted, random_batch, values

from fastedit import ops

TWO_RANKS = """
import sys, torch, torch.distributed as dist
from fastedit import ops
rank, port = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
logits = torch.randn(2, 8, 301, generator=torch.Generator().manual_seed(7)) * 4
mask, start = 300, 160 * rank
shard = logits[..., start : start + 160].flatten(0, 1)
mine = ops.row_partials(shard, vocab_start=start, forbid=(mask,)).packed()
both = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(both, mine)
merged = ops.merge_partials([ops.RowPartials.unpacked(part) for part in both])
options = dict(mask_token_id=mask, threshold=0.3, editing_threshold=0.2, max_post_steps=16)
ids = torch.full((2, 8), mask)
ids[:, 5:] = 11
whole, state = ids.clone(), ops.StepState.new(2)
ops.joint_threshold_step_from_partials_(ids, merged, ids >= 0, state, **options)
ops.joint_threshold_step_(whole, logits, whole >= 0, ops.StepState.new(2), **options)
assert torch.equal(ids, whole) and state.m2t_commits.sum() > 2 and state.t2t_edits.sum() > 0
print(ids.tolist())
dist.destroy_process_group()
"""


def shards(logits, edges, forbid=()):
    bounds = [0, *edges, logits.shape[-1]]
    return [
        ops.row_partials(logits[:, a:b], vocab_start=a, forbid=forbid)
        for a, b in itertools.pairwise(bounds)
    ]


@pytest.mark.parametrize("edges", [(), (1,), (50,), (30, 31, 90)])
def test_merged_shards_give_the_statistics_of_the_whole(backend, edges):
    logits = torch.randn(40, 100, generator=torch.Generator().manual_seed(1)) * 5
    logits[:8] = logits[:8].round()  # ties across shards
    logits[9, :60], logits[10] = -math.inf, -math.inf
    logits[11, 70], logits[12, 3], logits[13, 99] = math.nan, math.inf, -math.inf
    with ops.use_backend(backend):
        merged = ops.merge_partials(shards(logits, edges, forbid=(4, 77)))
        whole = ops.row_stats(logits, torch.full((40,), -1), forbid=(4, 77))
    exists = merged.best > -math.inf
    assert merged.token.equal(whole.token)
    assert (merged.bad | ~exists).equal(whole.bad)
    prob = torch.where(exists, (merged.best - merged.max).exp() / merged.sum, 0.0)
    torch.testing.assert_close(prob, whole.prob, rtol=1e-6, atol=0)
    torch.testing.assert_close(merged.max + merged.sum.log(), whole.lse, rtol=1e-6, atol=1e-6)


def test_packing_loses_nothing(backend):
    logits = torch.randn(6, 33)
    logits[2], logits[3, 1] = -math.inf, math.nan
    with ops.use_backend(backend):
        part = ops.row_partials(logits, vocab_start=299_900)
    back = ops.RowPartials.unpacked(part.packed())
    for got, want in zip(back.fields(), part.fields(), strict=True):
        assert got.dtype == want.dtype and got.equal(want)
    assert int(part.token.max()) > 2**18 and int(part.token[2]) == -1


def test_random_blocks_are_decided_as_from_the_logits(backend):
    tally = Counter()
    for seed in range(12 if interpreted(backend) else 120):
        vocab = [3, 33, 150][seed % 3]
        ids, logits, editable, state, mask, chosen = random_batch(seed, 4, 6, vocab, torch.float32)
        settings = as_tensors(chosen)
        forbid = (0,) if mask >= vocab else (0, mask)
        results = []
        with ops.use_backend(backend):
            for sharded in (False, True):
                mine = ids.clone()
                now = ops.StepState(*(field.clone() for field in state.fields()))
                common = (editable, now)
                if sharded:
                    parts = shards(logits.flatten(0, 1), (vocab // 2,), forbid)
                    ops.joint_threshold_step_from_partials_(
                        mine, ops.merge_partials(parts), *common, mask_token_id=mask, **settings
                    )
                else:
                    ops.joint_threshold_step_(
                        mine, logits, *common, mask_token_id=mask, forbid=(0,), **settings
                    )
                results.append(as_blocks(mine.tolist(), editable.tolist(), now))
        tally["blocks"] += 4
        tally["other"] += sum(a != b for a, b in zip(*results, strict=True))
    assert tally["other"] <= 0.02 * tally["blocks"], tally  # within rounding of a threshold


def test_two_processes_decide_alike():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS, str(rank), port],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] != ""


def test_what_does_not_fit_is_named():
    part = ops.row_partials(torch.zeros(6, 4))
    ids, state = torch.full((2, 4), MASK), ops.StepState.new(2)
    options = {"mask_token_id": MASK, "threshold": 0.5, "max_post_steps": 1}
    with pytest.raises(ValueError, match=r"\[6\].*\[8\]"):
        ops.joint_threshold_step_from_partials_(
            ids, part, ids >= 0, state, editing_threshold=None, **options
        )
    with pytest.raises(ValueError, match="at least one part"):
        ops.merge_partials([])
    with pytest.raises(ValueError, match="vocab_start"):
        ops.row_partials(torch.zeros(6, 4), vocab_start=-1)
    assert values(state)[0][0] == 0
