"""Token for token what the released loops of LLaDA, LLaDA-MoE, Dream and SDAR produce."""

from __future__ import annotations

import pytest
import torch
from golden_families import batches, cases, config_of, loaded

from fastedit import DecodeConfig, Decoder

LOOPS = [
    ("llada", "llada"),
    ("llada", "fast_dllm"),
    ("llada_moe", "llada"),
    ("llada_moe", "fast_dllm"),
    ("dream", "dream"),
    ("sdar", "sdar_eval"),
]

pytestmark = pytest.mark.filterwarnings("ignore:block_length=")  # SDAR's cases have several


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
    decoder, these = loaded(name), cases(name, loop)
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
    out = loaded(name).generate(prompts, config=[config_of(case) for case in these])
    for case, ids, stats in zip(these, out.sequences, out.stats, strict=True):
        assert ids.tolist() == case["output"], case["params"]
        assert stats.forwards == forwards(case), case["params"]


def test_a_model_of_blocks_needs_no_cache():
    for case in cases("sdar", "sdar_eval")[::2]:
        config = config_of(case, cache="none")
        out = loaded("sdar").generate(torch.tensor(case["prompt"]), config=config)
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
        out = loaded(name).generate(ids, attention_mask=mask, config=config)
        assert [ids.tolist() for ids in out.sequences] == batch["outputs"]


@pytest.mark.parametrize("name", ["llada", "llada_moe", "dream"])
def test_only_rows_that_are_decided_on_reach_the_head(name):
    seen: list[torch.Size] = []
    model = loaded(name).model
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _, given, out: seen.append(out.shape)
    )
    options = {"block_length": 4, "max_new_tokens": 8, "eos_token_id": []}
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
    try:
        loaded(name).generate(prompts, policy="confidence:threshold=0", **options)
    finally:
        hook.remove()
    assert [shape[:2] for shape in seen] == [(3, 4)] * 2


def random_prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randint(150, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("cache", ["exact", "prefix", "dual"])
def test_requests_of_other_lengths_do_not_see_each_other(cache):
    """One lane, whose rows end where each of them ends; a long one comes in late."""
    decoder, prompts = loaded("llada"), random_prompts(3, 30, 11, 1, 45)
    settings = {"policy": "confidence:threshold=.5", "block_length": 8, "cache": cache}
    configs = [DecodeConfig(max_new_tokens=new, **settings) for new in (40, 8, 3, 21, 30)]
    pairs = list(zip(prompts, configs, strict=True))
    alone = [decoder.generate(p, config=c).sequences[0].tolist() for p, c in pairs]
    for most in (5, 2):
        out = decoder.generate(prompts, config=configs, max_batch=most)
        assert [ids.tolist() for ids in out.sequences] == alone
    assert {len(ids) for ids in alone} == {40, 8, 3, 21, 30}


@pytest.mark.parametrize("cache", ["exact", "prefix", "dual"])
def test_dream_decodes_one_block_of_what_is_asked_for(cache, tokenizer):
    """Its schedule has as many steps; a draft of another length, a stream and a stop text fit."""
    options = {"eos_token_id": [], "cache": cache}
    decoder = Decoder(loaded("dream").model, tokenizer, config=DecodeConfig(**options))
    prompts = random_prompts(5, 1, 12)
    configs = [decoder.config.replace(max_new_tokens=new) for new in (9, 14, 9)]
    out = decoder.generate(prompts, config=configs)
    assert [len(ids) for ids in out.sequences] == [9, 14, 9]
    assert [stats.forwards for stats in out.stats] == [9, 14, 9]
    for prompt, config, ids in zip(prompts, configs, out.sequences, strict=True):
        events = list(decoder.stream(prompt, max_new_tokens=config.max_new_tokens))
        assert [event.kind for event in events] == ["commit", "end"]
        assert events[0].ids == ids.tolist()
    draft = torch.tensor([4, 159, 159, 8, 159])
    for settings, length in (({}, 5), ({"max_new_tokens": 9}, 9)):
        ids = decoder.generate(prompts[0], draft=[draft], keep_draft=True, **settings).sequences[0]
        assert len(ids) == length and ids[0] == 4 and ids[3] == 8 and 159 not in ids
    whole = out.texts[1]
    stop = whole[5:7]
    ended = decoder.generate(prompts[1], max_new_tokens=14, stop=stop)
    assert ended.texts[0] == whole[: whole.index(stop)]
    assert ended.stats[0].finish_reason == "stop" and len(ended.sequences[0]) < 14
