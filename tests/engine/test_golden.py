"""Token for token what the released decoding loop produces."""

import pytest
import torch

from fastedit import Decoder


@pytest.mark.parametrize("use_cache", [True, False])
def test_every_golden_case(golden_model, golden_cases, use_cache):
    decoder = Decoder(golden_model)
    assert len(golden_cases) == 24
    for case in golden_cases:
        out = decoder.generate(torch.tensor(case["prompt"]), **case["params"], use_cache=use_cache)
        assert out.sequences[0].tolist() == case["output"]
        length = case["params"]["block_length"]
        blocks = -(-(len(case["prompt"]) + case["params"]["gen_length"]) // length)
        assert out.stats[0].forwards <= case["forwards"] + blocks - len(case["prompt"]) // length
