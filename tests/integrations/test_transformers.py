"""`custom_generate` inside transformers' own `generate`."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria

from fastedit import Decoder
from fastedit.aliases import ALIASES
from fastedit.integrations.transformers import generate

OPTIONS = {
    "custom_generate": generate,
    "max_new_tokens": 24,
    "block_length": 8,
    "mask_token_id": 127,
    "eos_token_id": 112,
    "pad_token_id": 0,
    "threshold": 0.9,
    "editing_threshold": 1.0,
}


def test_same_ids_as_the_decoder_with_the_prompt_in_front(golden_model, golden_cases):
    case = golden_cases[1]
    prompt = torch.tensor([case["prompt"]])
    out = golden_model.generate(prompt, **OPTIONS)
    assert out.tolist() == [case["prompt"] + case["output"]]


def test_aliases_are_the_options(golden_model, golden_cases):
    prompt, names = torch.tensor([golden_cases[1]["prompt"]]), {v: k for k, v in ALIASES.items()}
    expected = golden_model.generate(prompt, **OPTIONS)
    renamed = {names.get(name, name): value for name, value in OPTIONS.items()}
    assert renamed.keys() & OPTIONS.keys() == {"custom_generate", "pad_token_id", "threshold"}
    assert golden_model.generate(prompt, **renamed).equal(expected)
    directly = {name: value for name, value in renamed.items() if name != "custom_generate"}
    assert generate(golden_model, prompt, **directly).equal(expected)
    for alias, name in ALIASES.items():
        if name in OPTIONS:
            with pytest.raises(ValueError, match=f"{alias}=3 cannot be honoured: {name}="):
                golden_model.generate(prompt, **OPTIONS | {alias: 3})


def test_none_under_a_name_is_a_value_of_ours_and_nothing_of_theirs(golden_model, golden_cases):
    prompt = torch.tensor([golden_cases[1]["prompt"]])
    off = OPTIONS | {"editing_threshold": None}
    with pytest.raises(ValueError, match=r"edit_threshold=0.5 .* editing_threshold=None is given"):
        golden_model.generate(prompt, **off, edit_threshold=0.5)
    expected = golden_model.generate(prompt, **OPTIONS)
    assert golden_model.generate(prompt, **OPTIONS, gen_length=None).equal(expected)
    given = OPTIONS | {"max_new_tokens": None}
    assert golden_model.generate(prompt, **given, gen_length=24).equal(expected)


def test_left_padded_batch_pads_behind_eos(golden_model, golden_cases):
    first, second = golden_cases[1]["prompt"], [4, 9]
    ids = torch.tensor([first, [0] * (len(first) - 2) + second])
    mask = torch.tensor([[1] * len(first), [0] * (len(first) - 2) + [1, 1]])
    out = golden_model.generate(ids, attention_mask=mask, **OPTIONS)
    alone = Decoder(golden_model).generate(
        torch.tensor(second),
        **{k: v for k, v in OPTIONS.items() if k not in ("custom_generate", "pad_token_id")},
    )
    new = out[1, len(first) :].tolist()
    expected = alone.sequences[0].tolist()
    assert new == expected + [0] * (len(new) - len(expected))


def test_dict_output_has_tokens_per_forward(golden_model):
    out = golden_model.generate(torch.tensor([[5, 6]]), return_dict_in_generate=True, **OPTIONS)
    assert out.sequences.shape[0] == 1
    assert out.tokens_per_forward.shape == (1,) and out.tokens_per_forward.item() > 0


def test_sampling_follows_the_generation_config(golden_model):
    def sample(seed):
        with pytest.warns(UserWarning, match="temperature"):
            return golden_model.generate(
                torch.tensor([[5, 6]]), do_sample=True, temperature=1.5, seed=seed, **OPTIONS
            ).tolist()

    assert sample(1) == sample(1)
    assert any(sample(1) != sample(seed) for seed in range(2, 6))


def test_left_to_right_processors_and_criteria_are_refused_by_name(golden_model):
    class Bigrams(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores

    class Never(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.zeros(len(input_ids), dtype=torch.bool)

    prompt = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="Bigrams"):
        golden_model.generate(prompt, logits_processor=LogitsProcessorList([Bigrams()]), **OPTIONS)
    with pytest.raises(ValueError, match="Never"):
        golden_model.generate(prompt, stopping_criteria=[Never()], **OPTIONS)


def test_a_model_without_a_cache_decodes_the_same(golden_model, golden_cases):
    prompt = torch.tensor([golden_cases[1]["prompt"]])
    with_cache = golden_model.generate(prompt, **OPTIONS)
    assert golden_model.generate(prompt, prefix_cache=False, **OPTIONS).equal(with_cache)
