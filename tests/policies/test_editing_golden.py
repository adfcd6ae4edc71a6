"""Rules that take tokens back or pass over them again, forward by forward as released."""

from __future__ import annotations

from itertools import pairwise

import policy_cases
import pytest
import torch
from policy_cases import cases, up_to
from scripted import ScriptedLogits

from fastedit import DecodeConfig, Decoder
from fastedit.models import Family

RULES = ("wino", "saber", "proseco")


def decoder_of(case: dict, name: str) -> tuple[Decoder, ScriptedLogits]:
    """Blocks behind the prompt, in a model in which everything sees everything."""
    model, params = ScriptedLogits(**case["model"]), case["params"]
    options = getattr(policy_cases, name)(params)
    config = DecodeConfig(
        policy=f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}",
        max_new_tokens=params["gen_length"],
        eos_token_id=params.get("eos_id", []),
        seed=0,
    )
    family = Family(
        attention="full",
        blocks="after_prompt",
        mask_token_id=model.mask,
        block_length=params["block_length"],
    )
    return Decoder(model, config=config, family=family), model


def remasks(case: dict, mask: int) -> int:
    """Tokens that had become masks in the next forward. Saber's own count has masks that it fills
    and remasks at once as well."""
    forwards = policy_cases.inputs(case, corrector=False)
    pairs = (zip(old, new, strict=True) for old, new in pairwise(forwards))
    found = sum(old != mask == new for pair in pairs for old, new in pair)
    assert found <= case.get("remasks", 0) and (found == 0) == (not case.get("remasks"))
    return found


def wanted(case: dict) -> list[int]:
    return up_to(case["output"], case["params"].get("eos_id"))


@pytest.mark.parametrize("name", RULES)
def test_every_forward_sees_what_the_released_code_showed(name):
    for case in cases(name):
        decoder, model = decoder_of(case, name)
        prompt = torch.tensor(case["prompt"])
        out = decoder.generate(prompt)
        span = slice(len(prompt), len(prompt) + case["params"]["gen_length"])
        inputs = [ids[0, span].tolist() for ids in model.calls]
        assert inputs == policy_cases.inputs(case), case["id"]
        assert out.sequences[0].tolist() == wanted(case), case["id"]
        stats = out.stats[0]
        assert stats.forwards == case["forwards"] == len(model.calls), case["id"]
        assert stats.remasks == remasks(case, model.mask), case["id"]


@pytest.mark.parametrize("name", RULES)
def test_cases_among_other_prompts(name):
    """Longer and shorter ones, before it and behind it."""
    for case in cases(name)[::3]:
        decoder, model = decoder_of(case, name)
        generator = torch.Generator().manual_seed(len(case["prompt"]))
        others = [torch.randint(model.mask, (n,), generator=generator) for n in (1, 5, 16)]
        prompts = [others[0], torch.tensor(case["prompt"]), *others[1:]]
        for order in (prompts, prompts[::-1]):
            out = decoder.generate(order)
            at = next(i for i, prompt in enumerate(order) if prompt is prompts[1])
            assert out.sequences[at].tolist() == wanted(case), case["id"]
            assert out.stats[at].forwards == case["forwards"], case["id"]
