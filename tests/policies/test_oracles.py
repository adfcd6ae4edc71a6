"""The oracles decide what the released code decided: every input of every forward, and the ends."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import oracles
import policy_cases
import pytest
import torch
from policy_cases import cases, up_to
from scripted import ScriptedLogits

Loop = Generator[tuple[list[int], int], list, dict]


def decode(case: dict, rule) -> Loop:
    """A case once more, in aligned blocks: sends (ids up to the block's end, block length), takes
    the logits of the block."""
    params, prompt = case["params"], case["prompt"]
    size, mask, eos = params["block_length"], params["mask_id"], params.get("eos_id")
    early, source = params.get("eos_early_stop", False), case.get("source", "")
    end = len(prompt) + params["gen_length"]
    whole = -(-end // size) * size
    ids, inputs = prompt + [mask] * (whole - len(prompt)), []

    def record() -> dict:
        return {"inputs": inputs, "output": up_to(ids[len(prompt) : end], eos)}

    for start in range(len(prompt) // size * size, whole, size):
        stop = start + size
        block = rule(ids[start:stop], [i >= len(prompt) for i in range(start, stop)], mask)
        while not block.done and not block.spent():
            inputs.append([start, *block.ids])
            old = block.ids.count(eos)
            block.step((yield ids[:stop], size))
            ids[start:stop] = block.ids
            new_eos = early and "2.0" in source and block.ids.count(eos) > old
            if new_eos and mask not in up_to(ids[len(prompt) :], eos):
                return record()
        if "sglang" in source:  # the end of a block is seen by a forward without masks
            inputs.append([start, *block.ids])
        if (early or "2.0" in source) and eos in ids[len(prompt) : stop]:
            break
    return record()


def run(model, loops: list[Loop]) -> list[dict]:
    """All loops to their ends, with one forward at a time for those that still run."""
    ends: list[dict] = [{}] * len(loops)
    asked = {number: next(one) for number, one in enumerate(loops)}
    while asked:
        logits = forward(model, list(asked.values()))
        waiting, asked = list(asked), {}
        for number, rows in zip(waiting, logits, strict=True):
            try:
                asked[number] = loops[number].send(rows)
            except StopIteration as end:
                ends[number] = end.value
    return ends


@torch.no_grad()
def forward(model, asked: list[tuple[list[int], int]]) -> list[list]:
    """Logits of each last block: no cache, block-causal, rows padded to the right."""
    width = max(len(ids) for ids, _ in asked)
    positions = torch.arange(width)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in asked])
    blocks = torch.stack([positions // size for _, size in asked])
    seen = (blocks[:, :, None] >= blocks[:, None, :]) & (
        positions < torch.tensor([len(row) for row, _ in asked])[:, None]
    )[:, None]
    seen |= torch.eye(width, dtype=torch.bool)  # padding sees itself
    logits = model(input_ids=ids, attention_mask=seen[:, None], use_cache=False).logits
    return [logits[b, len(row) - size : len(row)].tolist() for b, (row, size) in enumerate(asked)]


def check(model, these: list[dict], rule, options) -> None:
    """Inputs of the golden checkpoint's own cases do not say where their block begins."""
    loops = [decode(case, partial(rule, **options(case["params"]))) for case in these]
    for number, (case, record) in enumerate(zip(these, run(model, loops), strict=True)):
        first = 0 if "id" in case else 1
        inputs = [ids[first:] for ids in record["inputs"]]
        assert (inputs, record["output"]) == (case["block_inputs"], case["output"]), number


def test_joint_threshold(golden_model, golden_cases):
    check(golden_model, golden_cases, oracles.JointThreshold, policy_cases.joint_threshold)


def test_low_confidence(golden_model):
    these = cases("low_confidence")
    check(golden_model, these, oracles.LowConfidence, policy_cases.low_confidence)


@pytest.mark.parametrize("trigger", ["low_prob", "t2t_remask", "logit_diff"])
def test_remask(golden_model, trigger):
    check(golden_model, cases(f"t2m_{trigger}"), oracles.Remask, policy_cases.remask)


@pytest.mark.parametrize("name", ["ranking", "dream"])
def test_ranks_and_schedules(name):
    for case in cases(name):
        options = getattr(policy_cases, name)(case["params"])
        model, length = ScriptedLogits(**case["model"]), case["params"]["gen_length"]
        masks = [model.mask] * length
        block = oracles.LowConfidence(masks, [True] * length, model.mask, **options)
        inputs = []
        while not block.done:
            inputs.append(list(block.ids))
            ids = torch.tensor([case["prompt"] + block.ids])
            block.step(model(input_ids=ids).logits[0, -length:].tolist())
        assert (inputs, block.ids) == (case["inputs"], case["output"]), case["id"]


def test_entropy_bound():
    for case in cases("entropy_bound"):
        options = policy_cases.entropy_bound(case["params"])
        model = ScriptedLogits(**case["model"])
        for step in case["steps"]:
            ids = step["canvas"]
            block = oracles.EntropyBound(ids, [True] * len(ids), model.mask, **options)
            block.forwards = step["timestep"]
            assert block.temperature() == pytest.approx(step["temperature"], abs=1e-9)
            block.step(model(input_ids=torch.tensor([ids])).logits[0].tolist())
            accepted = [i for i, bit in enumerate(step["accepted"]) if bit == "1"]
            assert sorted(block.accepted) == accepted, case["id"]
            assert [row.token for row in block.rows] == step["argmax"]
            assert [row.entropy for row in block.rows] == pytest.approx(step["entropy"], abs=3e-6)
