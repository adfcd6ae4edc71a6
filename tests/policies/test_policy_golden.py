"""Token for token what the released code of every rule produces: alone, together, cached or not."""

from __future__ import annotations

from itertools import pairwise

import policy_cases
import pytest
import torch
from policy_cases import cases, up_to
from scripted import ScriptedLogits

from fastedit import DecodeConfig, Decoder, ops, policies

SCRIPTED = {
    "ranking": policies.LowConfidence,
    "dream": policies.LowConfidence,
    "fast_dllm": policies.Confidence,
}
T2M = ("t2m_low_prob", "t2m_t2t_remask", "t2m_logit_diff")


def policy_of(case: dict):
    """The policy of a case of the golden checkpoint: remasking has a trigger."""
    params = case["params"]
    if "trigger" in params:
        return policies.Remask(**policy_cases.remask(params))
    return policies.LowConfidence(**policy_cases.low_confidence(params))


def config_of(case: dict, **options) -> DecodeConfig:
    """LLaDA2.0's loop ends behind a block with an EOS whatever its flag says, the others never."""
    params = case["params"]
    return DecodeConfig(
        policy=policy_of(case),
        block_length=params["block_length"],
        max_new_tokens=params["gen_length"],
        mask_token_id=params["mask_id"],
        eos_token_id=params.get("eos_id", []),
        eos_early_stop="steps" in params,
        **options,
    )


def blocks_of(case: dict) -> int:
    """Blocks that the released loop went through."""
    return len({ids[0] for ids in case["block_inputs"]})


def commits(case: dict, cache: str) -> int:
    """Forwards that commit keys and values, at most: of all blocks but the last one."""
    return blocks_of(case) - 1 if cache == "exact" else 0


def wanted(case: dict) -> list[int]:
    return up_to(case["output"], case["params"].get("eos_id"))


def together(these: list[dict]) -> list[list[dict]]:
    """The cases that one forward can serve: of one rule, trigger and block length."""
    groups: dict[tuple, list[dict]] = {}
    for case in these:
        key = (case["params"].get("trigger"), case["params"]["block_length"])
        groups.setdefault(key, []).append(case)
    return list(groups.values())


def check(case: dict, ids: torch.Tensor, stats, most_commits: int = 0) -> None:
    """The ids of a case, and the forwards of the released loop.

    T2M's takes the same ones, but for those that commit keys and values: it keeps none. SGLang's
    spends one more on every block, to find it without masks. LLaDA2.0's may leave a block early,
    which changes no id up to the EOS.
    """
    assert ids.tolist() == wanted(case), case["id"]
    forwards = case["forwards"]
    if "sglang" in case.get("source", ""):
        forwards -= blocks_of(case)
    more = stats.forwards - forwards
    if case.get("eos_stop") is None:
        assert 0 <= more <= most_commits, case["id"]
    else:  # the released flag may be off, or stop inside a block
        inside = case["eos_stop"] == "inside block"
        assert more >= 0 if inside else more <= most_commits, case["id"]
    assert (stats.remasks, stats.t2t_edits) == (case.get("remasks", 0), 0), case["id"]


@pytest.mark.parametrize("cache", ["exact", "none"])
@pytest.mark.parametrize("name", [*T2M, "low_confidence"])
def test_cases_alone(golden_model, name, cache):
    """Every fourth; all of them are in the batches."""
    decoder = Decoder(golden_model)
    for case in cases(name)[::4]:
        config = config_of(case, cache=cache)
        out = decoder.generate(torch.tensor(case["prompt"]), config=config)
        check(case, out.sequences[0], out.stats[0], commits(case, cache))


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_cases_in_batches(golden_model, cache):
    """All settings and prompt lengths mixed; a commit forward is all that a cache adds."""
    decoder = Decoder(golden_model)
    these = [case for name in (*T2M, "low_confidence") for case in cases(name)]
    for group in together(these):
        prompts = [torch.tensor(case["prompt"]) for case in group]
        configs = [config_of(case, cache=cache) for case in group]
        out = decoder.generate(prompts, config=configs)
        for case, ids, stats in zip(group, out.sequences, out.stats, strict=True):
            check(case, ids, stats, commits(case, cache))


def scripted(case: dict, name: str) -> tuple[Decoder, ScriptedLogits]:
    """A decoder of blocks after the prompt, in which everything sees everything."""
    from fastedit.models import Family

    model, params = ScriptedLogits(**case["model"]), case["params"]
    config = DecodeConfig(
        policy=SCRIPTED[name](**getattr(policy_cases, name)(params)),
        max_new_tokens=params["gen_length"],
        eos_token_id=[],
        seed=0,
    )
    family = Family(
        attention="full",
        shift=0,
        blocks="after_prompt",
        mask_token_id=model.mask,
        block_length=params.get("block_length", params["gen_length"]),
    )
    return Decoder(model, config=config, family=family), model


@pytest.mark.parametrize("name", SCRIPTED)
def test_ranks_and_schedules_forward_by_forward(name):
    for case in cases(name):
        decoder, model = scripted(case, name)
        prompt = torch.tensor(case["prompt"])
        out = decoder.generate(prompt)
        assert out.sequences[0].tolist() == case["output"], case["id"]
        assert out.stats[0].forwards == case["forwards"] == len(model.calls), case["id"]
        span = slice(len(prompt), len(prompt) + case["params"]["gen_length"])
        assert [ids[0, span].tolist() for ids in model.calls] == case["inputs"], case["id"]


@pytest.mark.parametrize("name", SCRIPTED)
def test_scripted_cases_among_other_prompts(name):
    """Longer and shorter ones, before it and behind it."""
    for case in cases(name)[::3]:
        decoder, model = scripted(case, name)
        generator = torch.Generator().manual_seed(len(case["prompt"]))
        others = [torch.randint(model.mask, (n,), generator=generator) for n in (1, 5, 16)]
        prompts = [others[0], torch.tensor(case["prompt"]), *others[1:]]
        for order in (prompts, prompts[::-1]):
            out = decoder.generate(order)
            at = next(i for i, prompt in enumerate(order) if prompt is prompts[1])
            assert out.sequences[at].tolist() == case["output"], case["id"]
            assert out.stats[at].forwards == case["forwards"], case["id"]


@pytest.mark.parametrize("case", cases("entropy_bound"), ids=lambda case: case["id"])
def test_entropy_bound_accepts_what_the_scheduler_accepted(case):
    """What is accepted holds its draw; the rest is random, and the same whatever was drawn."""
    model = ScriptedLogits(**case["model"])
    policy = policies.EntropyBound(**policy_cases.entropy_bound(case["params"]))
    for step in case["steps"]:
        ids, drawn = torch.tensor([step["canvas"]]), torch.tensor([step["sampled"]])
        logits = model(input_ids=ids).logits
        new = []
        for draws in (drawn, (drawn + 1) % model.mask):
            state = policies.open(policy, ids, mask_token_id=model.mask, seed=3)
            assert state.ids.equal(ids)
            state.counts.forwards.fill_(step["timestep"])
            policies.step_(state, logits, draws=draws)
            new.append(state.ids)
        accepted = (new[0] != new[1])[0]
        assert "".join("01"[bit] for bit in accepted.tolist()) == step["accepted"]
        assert new[0][0, accepted].equal(drawn[0, accepted])
        assert ((new[0] >= 0) & (new[0] < model.vocab)).all()
        stats = ops.row_stats(
            logits[0], ids[0], forbid=(model.mask,), temperature=step["temperature"], entropy=True
        )
        assert stats.token.tolist() == step["argmax"]
        assert stats.entropy.tolist() == pytest.approx(step["entropy"], abs=3e-6)


def corrected(case: dict) -> policies.SelfCorrection:
    return policies.SelfCorrection(**policy_cases.self_correction(case["params"]))


def whole_text(case: dict, model: ScriptedLogits, **options) -> Decoder:
    """A decoder whose one block is the text of a case, without a prompt."""
    from fastedit.models import Family

    family = Family(
        attention="full",
        shift=0,
        blocks="after_prompt",
        mask_token_id=model.mask,
        block_length=len(case["initial"]),
    )
    config = DecodeConfig(policy=corrected(case), eos_token_id=[], seed=0, **options)
    return Decoder(model, config=config, family=family)


GREEDY = [case for case in cases("gidd_self_correction") if case["params"]["mode"] == "greedy"]
SAMPLED = [case for case in cases("gidd_self_correction") if case["params"]["mode"] == "sampled"]


@pytest.mark.parametrize("case", GREEDY, ids=lambda case: case["id"])
def test_self_correction_of_a_draft(case):
    """The released code has one forward more, which only measures how much agrees at first."""
    model = ScriptedLogits(**case["model"])
    out = whole_text(case, model).generate([[]], draft=[case["initial"]])
    assert out.sequences[0].tolist() == case["output"]
    assert out.stats[0].forwards == case["steps"] == case["forwards"] - 1
    assert [ids[0].tolist() for ids in model.calls] == case["inputs"]
    each = [*case["inputs"], case["output"]]
    edits = sum(a != b for pair in pairwise(each) for a, b in zip(*pair, strict=True))
    assert out.stats[0].t2t_edits == edits


@pytest.mark.parametrize("case", SAMPLED, ids=lambda case: case["id"])
def test_self_correction_by_recorded_draws(case):
    model = ScriptedLogits(**case["model"])
    state = policies.open(
        corrected(case), torch.tensor([case["initial"]]), mask_token_id=model.mask
    )
    for wanted, drawn in zip(case["inputs"], case["samples"], strict=True):
        assert state.ids[0].tolist() == wanted and not state.done
        logits = model(input_ids=state.ids).logits
        policies.step_(state, logits, draws=torch.tensor([drawn]))
    assert state.done and state.ids[0].tolist() == case["output"]
    assert state.counts.forwards.tolist() == [case["steps"]]
