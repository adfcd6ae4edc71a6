"""The loops that benchmarks compare with, around transformers' classes, are the released ones."""

import sys
from pathlib import Path

import pytest
import torch
from golden_families import cases, loaded

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import plain_families
from real_sizes import native_of


def of_case(name, case):
    params = case["params"]
    rule = {"block_length": params["block_length"], "gen_length": params["gen_length"]}
    if name == "sdar":
        return plain_families.sdar, rule | {
            "steps": params["denoising_steps"],
            "threshold": params["threshold"],
        }
    return plain_families.llada, rule | {
        "steps": params["steps"] * params["block_length"] // params["gen_length"]
    }


@pytest.mark.parametrize(("name", "kind"), [("llada", "llada"), ("sdar", "sdar_eval")])
def test_as_released(name, kind):
    model, found = native_of(loaded(name).model), cases(name, kind)[:8]
    for case in found:
        forwards, blocks = [], []
        loop, rule = of_case(name, case)
        hook = model.register_forward_hook(lambda *_, seen=forwards: seen.append(1))
        prompts = torch.tensor([case["prompt"]])
        out = loop(
            model,
            prompts,
            mask_id=case["params"]["mask_id"],
            on_block=lambda seen=blocks: seen.append(1),
            **rule,
        )
        hook.remove()
        assert out.tolist() == [case["output"]]
        assert len(forwards) == case["forwards"]
        length, start = case["params"]["block_length"], len(case["prompt"])
        aligned = start % length if name == "sdar" else 0
        assert len(blocks) == -(-(aligned + len(case["output"])) // length)
    assert len(found) >= 5
