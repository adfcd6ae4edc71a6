"""LLaDA2.2's decision beside SGLang's own, on blocks of 32 x 157,184 from first step to last.

Both take every step on the same logits, in this process and in turn, and what they hold behind it
is compared before its time counts: ids, post steps, which masks are original, who is finished.
Needs `pip install --no-deps sglang`. Logits come back every few steps, so that blocks loop; some
positions ask for an insert, a delete or the mask.
"""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace

import pytest
import torch

from fastedit import policies
from fastedit.evaluation.bench.case import LENGTH, LLADA2_MASK, PROMPT
from fastedit.evaluation.bench.sglang_step import algorithm
from fastedit.policies.joint_threshold_indel import LLADA2_2

VOCAB, TURNS, POST = 157_184, 3, 6
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
THRESHOLDS = {"threshold": 0.7, "editing_threshold": 0.5}


def logits_of(blocks: int) -> list[torch.Tensor]:
    """[B, L, V] fp32 each: noise, and a winner in every row, now and then one that is no text."""
    generator = torch.Generator().manual_seed(blocks)
    noise = torch.randn(LENGTH, VOCAB, generator=generator).to(DEVICE)
    turns = []
    for turn in range(TURNS):
        logits = torch.stack(
            [noise.roll(1000 * (turn * blocks + b + 1), -1) for b in range(blocks)]
        )
        winner = torch.randint(LLADA2_MASK, (blocks, LENGTH, 1), generator=generator)
        kind = torch.randint(40, winner.shape, generator=generator)
        for which, token in enumerate((*LLADA2_2, LLADA2_MASK)):
            winner[kind == which] = token
        height = 9.0 + 7.0 * torch.rand(winner.shape, generator=generator)
        logits.scatter_(-1, winner.to(DEVICE), height.to(DEVICE))
        turns.append(logits)
    return turns


@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_step_beside_sglang(benchmark, report, blocks):
    try:
        module = algorithm("joint_threshold_indel")
    except ImportError as error:
        report("indel", blocks=blocks, missing=str(error))
        pytest.skip(str(error))
    turns = logits_of(blocks)
    ids = torch.full((blocks, LENGTH), LLADA2_MASK, device=DEVICE)
    ids[:, :PROMPT] = torch.arange(PROMPT)
    free = (torch.arange(LENGTH, device=DEVICE) >= PROMPT).expand(blocks, -1).contiguous()
    policy = policies.JointThresholdInDel(max_post_steps=POST, **THRESHOLDS)

    def decode(times: tuple[list[float], list[float]]) -> policies.State:
        """One decode of the blocks by both; a time per step."""
        state = policies.open(policy, ids, free, mask_token_id=LLADA2_MASK)
        batch = SimpleNamespace(
            batch_size=blocks, input_ids=ids.clone().view(-1), dllm_prompt_mask=~free
        )
        peer = peer_of(module, blocks)
        theirs = peer.init_step_state(batch)
        for step in range(policy.most_forwards(LENGTH)):
            logits = turns[step % TURNS]
            for mine, call in (
                (True, lambda logits=logits: policies.step_(state, logits)),
                (False, lambda logits=logits: peer.step(batch, logits.view(-1, VOCAB), theirs)),
            ):
                synchronize()
                begin = time.perf_counter()
                call()
                synchronize()
                times[not mine].append(time.perf_counter() - begin)
            same(state, batch, theirs)
            if state.done.all():
                break
        return state

    decode(([], []))  # allocates
    times: tuple[list[float], list[float]] = [], []
    state = decode(times)
    counts = state.counts
    assert state.done.all()
    assert blocks == 1 or (counts.inserts.any() and counts.deletes.any())
    fresh = policies.open(policy, ids, free, mask_token_id=LLADA2_MASK)
    benchmark.pedantic(lambda: policies.step_(fresh, turns[0]), rounds=5, warmup_rounds=1)
    ratios = [theirs / ours for ours, theirs in zip(*times, strict=True)]
    report(
        "indel",
        blocks=blocks,
        steps=len(ratios),
        **{
            "fastedit, ms per step": f"{1e3 * statistics.median(times[0]):.2f}",
            "sglang, ms per step": f"{1e3 * statistics.median(times[1]):.2f}",
            "times faster, median": f"{statistics.median(ratios):.1f}",
            "range": f"{min(ratios):.1f} to {max(ratios):.1f}",
            "inserts": int(counts.inserts.sum()),
            "deletes": int(counts.deletes.sum()),
        },
    )


def peer_of(module, blocks: int):
    config = module.DllmConfig(
        algorithm="JointThresholdInDel",
        algorithm_config={
            "threshold": THRESHOLDS["threshold"],
            "edit_threshold": THRESHOLDS["editing_threshold"],
            "max_post_edit_steps": POST,
        },
        block_size=LENGTH,
        mask_id=LLADA2_MASK,
        max_running_requests=blocks,
        delete_token_id=LLADA2_2[0],
        split_token_id=LLADA2_2[1],
    )
    return module.Algorithm(config)


def same(state: policies.State, batch: SimpleNamespace, theirs: list[dict]) -> None:
    assert state.ids.equal(batch.input_ids.view_as(state.ids))
    assert state.done.tolist() == [each["finished"] for each in theirs]
    assert state.buffers.post_steps.tolist() == [each["post_edit_steps"] for each in theirs]
    assert state.buffers.original.equal(torch.stack([each["is_orig_mask"] for each in theirs]))


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
