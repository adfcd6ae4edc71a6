"""`fastedit.patch`: the released signature, the released results."""

import copy
import inspect

import pytest
import torch
from transformers import TextStreamer

import fastedit

RELEASED = {
    "inputs": inspect.Parameter.empty,
    "temperature": 0.0,
    "block_length": 32,
    "steps": 32,
    "gen_length": 2048,
    "top_p": None,
    "top_k": None,
    "eos_early_stop": False,
    "minimal_topk": 1,
    "threshold": 0.95,
    "editing_threshold": 0.9,
    "max_post_steps": 16,
    "eos_id": 156892,
    "mask_id": 156895,
    "num_to_transfer": 1,
}


@pytest.fixture
def patched(golden_model):
    """A patched copy; the model that other tests share stays as it is."""
    return fastedit.patch(copy.copy(golden_model))


def test_names_order_and_defaults_are_the_released_ones(patched):
    parameters = inspect.signature(patched.generate).parameters.values()
    positional = {p.name: p.default for p in parameters if p.kind != p.KEYWORD_ONLY}
    assert list(positional.items()) == list(RELEASED.items())


def test_a_custom_generate_still_reaches_transformers(patched):
    def given(model, input_ids, **_):
        return input_ids + 1

    out = patched.generate(torch.tensor([[3, 4]]), custom_generate=given)
    assert out.tolist() == [[4, 5]]


def test_golden_cases_through_the_released_signature(patched, golden_cases):
    for case in golden_cases[::4]:
        out = patched.generate(torch.tensor([case["prompt"]]), **case["params"])
        assert out.tolist() == [case["output"]]


def test_a_padded_batch_returns_rows_padded_with_eos(patched, golden_cases):
    params = golden_cases[1]["params"]
    prompts = [golden_cases[1]["prompt"], golden_cases[2]["prompt"][:3]]
    ids, mask = torch.full((2, 9), 5), torch.zeros(2, 9, dtype=torch.int64)
    for row, prompt in enumerate(prompts):  # left padding
        ids[row, 9 - len(prompt) :] = torch.tensor(prompt)
        mask[row, 9 - len(prompt) :] = 1
    out = patched.generate(ids, attention_mask=mask, **params)
    alone = [patched.generate(torch.tensor([prompt]), **params)[0] for prompt in prompts]
    assert out.shape == (2, max(len(row) for row in alone))
    for row, ids_alone in zip(out, alone, strict=True):
        assert row[: len(ids_alone)].equal(ids_alone)
        assert (row[len(ids_alone) :] == params["eos_id"]).all()


def test_a_literal_mask_in_the_prompt_is_kept(patched):
    out = patched.generate(
        torch.tensor([[3, 127, 9]]), gen_length=8, block_length=4, mask_id=127, eos_id=6
    )
    assert out.shape[0] == 1 and not (out == 127).any()


def test_ignored_arguments_warn(patched):
    with pytest.warns(UserWarning, match="no effect"):
        patched.generate(
            torch.tensor([[3]]), steps=4, gen_length=4, block_length=4, mask_id=127, eos_id=6
        )


def test_streamer_gets_prompt_then_committed_ids(patched, golden_cases):
    received = []

    class Collect(TextStreamer):
        def __init__(self):
            pass

        def put(self, value):
            received.append(value.flatten().tolist())

        def end(self):
            received.append("end")

    case = golden_cases[0]
    patched.generate(torch.tensor([case["prompt"]]), streamer=Collect(), **case["params"])
    assert received[0] == case["prompt"] and received[-1] == "end"
    assert [i for part in received[1:-1] for i in part] == case["output"]


def test_a_peft_model_takes_both_styles_patched_or_not(golden_model):
    from peft import LoraConfig, get_peft_model

    prompt, length = torch.tensor([[5, 6, 7]]), {"block_length": 8, "threshold": 0.9}
    released = length | {"gen_length": 12, "mask_id": 127, "eos_id": 112}
    theirs = length | {"max_new_tokens": 12, "mask_token_id": 127, "eos_token_id": 112}
    want = golden_model.generate(prompt, editing_threshold=0.9, **released)
    model = get_peft_model(copy.deepcopy(golden_model), LoraConfig(target_modules=["dense"], r=2))
    for one in (model, fastedit.patch(model)):
        assert one.generate(prompt, **released).equal(want)
        out = one.generate(input_ids=prompt, editing_threshold=0.9, **theirs)
        assert out[:, 3:].equal(want)


def test_a_model_that_is_not_of_transformers_takes_the_released_style_only(golden_model):
    class Bare:
        config = golden_model.config

        def __call__(self, **inputs):
            return golden_model(**inputs)

    model = fastedit.patch(Bare())
    prompt, options = torch.tensor([[5, 6]]), {"gen_length": 8, "mask_id": 127, "eos_id": 112}
    assert model.generate(prompt, **options).equal(golden_model.generate(prompt, **options))
    with pytest.raises(TypeError, match="Bare is no model of transformers"):
        model.generate(input_ids=prompt, max_new_tokens=8)
