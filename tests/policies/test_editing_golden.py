"""Rules that take tokens back or pass over them again, forward by forward as released."""

from __future__ import annotations

from itertools import pairwise

import policy_cases
import pytest
import torch
from policy_cases import cases, up_to
from scripted import ScriptedLogits

from fastedit import DecodeConfig, Decoder, policies
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


def test_remedi_keeps_the_highest_logits():
    """Its blocks begin behind the prompt, and none sees what lies behind it."""
    for case in cases("remedi_rank"):
        model, params, prompt = ScriptedLogits(**case["model"]), case["params"], case["prompt"]
        family = Family(
            blocks="after_prompt", mask_token_id=model.mask, block_length=params["block_size"]
        )
        config = DecodeConfig(
            policy=f"correction:mode=rank,steps={params['steps']}",
            max_new_tokens=params["max_length"],
            eos_token_id=[],
            cache="none",
        )
        out = Decoder(model, config=config, family=family).generate(torch.tensor(prompt))
        assert out.sequences[0].tolist() == case["output"][: params["max_length"]], case["id"]
        pairs = zip(model.calls, case["inputs"], strict=True)
        shown = [[first, *ids[0, first:].tolist()] for ids, (first, *_) in pairs]
        assert shown == case["inputs"], case["id"]
        assert out.stats[0].forwards == case["forwards"] == len(model.calls)
        assert out.stats[0].remasks == case["remasks"] and not out.stats[0].capped


@pytest.mark.parametrize("scorer", ["head", "confidence"])
def test_corrections_are_booked_as_in_the_ported_algorithm(scorer):
    """The lowest masks are the surest; errors are given, or what the held token lacks of 1."""
    for case in cases("decode_bookkeeping"):
        length, mask = case["n"], case["n"] + 1
        options = policy_cases.correction(case)
        policy = policies.Correction(scorer=scorer, **options)
        state = policies.open(policy, torch.full((1, length), mask), mask_token_id=mask)
        for error, step in zip(case["error"], case["log"], strict=False):
            assert not state.done
            before, errors = state.ids.clone(), torch.tensor([error])
            held = before[0] != mask
            # Masks take id 1; lower positions more surely. Tokens have 1 at 1 - error.
            sure = torch.where(held, 1.0 - errors[0], 0.99 - torch.arange(length) / 1000)
            logits = torch.full((1, length, length + 2), -torch.inf)
            logits[0, :, 1], logits[0, :, 2] = sure.log(), (1.0 - sure).log()
            policies.step_(state, logits, scores=errors if scorer == "head" else None)
            was, now = (ids[0] == mask for ids in (before, state.ids))
            assert (was & ~now).nonzero().flatten().tolist() == step["fill"], case["id"]
            assert sorted((now & ~was).nonzero().flatten().tolist()) == step["remask"], case["id"]
            assert now.sum() == step["masks_after"]
        assert state.done and not case["masks_left"]
