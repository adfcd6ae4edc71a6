"""SDAR, with random weights, in vLLM's engine: the tokens are those of `Decoder`."""

from __future__ import annotations

import random

import pytest
import torch
from family_models import family_model
from vllm_requests import Asked, engine, params

from fastedit import DecodeConfig, Decoder

pytestmark = pytest.mark.engines
OPTIONS = [
    {},
    {"threshold": 0.2},
    {"policy": "joint_threshold", "threshold": 0.1, "editing_threshold": 0.05},
    {"policy": "remask:tau=0.2"},
]


def test_tokens_are_those_of_the_decoder(tmp_path):
    sizes = {"vocab": 176, "size": 64, "block_size": 4}  # heads that vLLM's attention on a CPU has
    family_model("sdar", **sizes, eos_token_id=173, mask_token_id=175).save_pretrained(tmp_path)
    draw = random.Random(0)
    asked = [
        Asked(
            [draw.randrange(170) for _ in range(draw.choice((1, 3, 4, 5, 8, 17, 40, 63)))],
            draw.choice(OPTIONS),
            draw.choice((3, 8, 30)),
            None,
        )
        for _ in range(24)
    ]
    want = Decoder.from_pretrained(tmp_path).generate(
        [torch.tensor(one.prompt) for one in asked],
        config=[DecodeConfig(max_new_tokens=one.max_tokens, **one.options) for one in asked],
    )
    assert sum(stats.t2t_edits for stats in want.stats)
    with engine(tmp_path, skip_tokenizer_init=True, max_num_seqs=16) as llm:
        out = llm.generate(
            [{"prompt_token_ids": one.prompt} for one in asked],
            [params(one, detokenize=False) for one in asked],
            use_tqdm=False,
        )
    got = [list(one.outputs[0].token_ids) for one in out]
    assert got == [sequence.tolist() for sequence in want.sequences]
