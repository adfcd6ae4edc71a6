"""Token for token what the released loops of LLaDA, LLaDA-MoE, Dream and SDAR produce."""

from __future__ import annotations

import pytest
import torch
from golden_families import FAMILIES, batches, cases, config_of, model_of

from fastedit import Decoder

LOOPS = [
    ("llada", "llada"),
    ("llada", "fast_dllm"),
    ("llada_moe", "llada"),
    ("llada_moe", "fast_dllm"),
    ("dream", "dream"),
    ("sdar", "sdar_eval"),
]

pytestmark = pytest.mark.filterwarnings("ignore:block_length=")  # SDAR's cases have several


def decoder_of(name: str) -> Decoder:
    return Decoder(model_of(name), family=FAMILIES[name])


def forwards(case: dict) -> int:
    """Of the released loop, as ours counts them.

    LLaDA's goes on while its schedule is not over, with nothing left to fill; SDAR's counts the
    prompt's, and stores the last block.
    """
    params = case["params"]
    if case["loop"] == "llada":
        return min(params["steps"], params["gen_length"])
    if case["loop"] == "sdar_eval":
        return case["forwards"] - (len(case["prompt"]) >= params["block_length"]) - 1
    return case["forwards"]


@pytest.mark.parametrize(("name", "loop"), LOOPS)
def test_cases_alone(name, loop):
    decoder, these = decoder_of(name), cases(name, loop)
    assert len(these) >= 5
    for case in these:
        out = decoder.generate(torch.tensor(case["prompt"]), config=config_of(case))
        assert out.sequences[0].tolist() == case["output"], case["params"]
        assert out.stats[0].forwards == forwards(case), case["params"]


@pytest.mark.parametrize(("name", "loop"), LOOPS)
def test_cases_in_batches(name, loop):
    """Prompts, lengths and settings mixed, so that rows are of different widths."""
    these = cases(name, loop)
    prompts = [torch.tensor(case["prompt"]) for case in these]
    out = decoder_of(name).generate(prompts, config=[config_of(case) for case in these])
    for case, ids, stats in zip(these, out.sequences, out.stats, strict=True):
        assert ids.tolist() == case["output"], case["params"]
        assert stats.forwards == forwards(case), case["params"]


def test_a_model_of_blocks_needs_no_cache():
    for case in cases("sdar", "sdar_eval")[::2]:
        config = config_of(case, cache="none")
        out = decoder_of("sdar").generate(torch.tensor(case["prompt"]), config=config)
        assert out.sequences[0].tolist() == case["output"], case["params"]


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_padded_batches(name):
    """Left-padded ids with a mask, as the released loop got them."""
    for batch in batches(name):
        width = max(map(len, batch["prompts"]))
        ids = torch.full((len(batch["prompts"]), width), batch["pad_id"])
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(batch["prompts"]):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        config = config_of(batch)
        out = decoder_of(name).generate(ids, attention_mask=mask, config=config)
        assert [ids.tolist() for ids in out.sequences] == batch["outputs"]


@pytest.mark.parametrize("name", ["llada", "llada_moe", "dream"])
def test_only_rows_that_are_decided_on_reach_the_head(name):
    seen: list[torch.Size] = []
    model = model_of(name)
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _, given, out: seen.append(out.shape)
    )
    options = {"block_length": 4, "max_new_tokens": 8, "eos_token_id": []}
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
    try:
        decoder_of(name).generate(prompts, policy="confidence:threshold=0", **options)
    finally:
        hook.remove()
    assert [shape[:2] for shape in seen] == [(3, 4)] * 2
