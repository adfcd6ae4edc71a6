"""Token for token what the released code of every rule produces: alone, together, cached or not."""

from __future__ import annotations

import policy_cases
import pytest
import torch
from policy_cases import cases, up_to
from scripted import ScriptedLogits

from fastedit import DecodeConfig, Decoder, ops, policies

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


def wanted(case: dict) -> list[int]:
    return up_to(case["output"], case["params"].get("eos_id"))


def together(decoder: Decoder, these: list[dict], **options) -> list[tuple[list[int], object]]:
    """(ids, stats) of each case; all of them live in one engine, each under its own config."""
    with decoder.engine() as engine:
        numbers = [
            engine.add(torch.tensor(case["prompt"]), config=config_of(case, **options))
            for case in these
        ]
        ids: dict[int, list[int]] = {number: [] for number in numbers}
        stats: dict[int, object] = {}
        for _ in range(sum(case["forwards"] + blocks_of(case) + 2 for case in these)):
            for event in engine.step():
                assert event.error is None
                if event.kind == "commit":
                    ids[event.request] += event.ids
                elif event.kind == "end":
                    stats[event.request] = event.stats
            if len(stats) == len(numbers):
                break
    return [(ids[number], stats[number]) for number in numbers]


@pytest.mark.parametrize("name", T2M)
def test_remasking_takes_the_forwards_of_the_released_loop(golden_model, name):
    """That loop keeps no KV, so it has no forward that commits it."""
    decoder = Decoder(golden_model)
    for case in cases(name):
        config = config_of(case, cache="none")
        out = decoder.generate(torch.tensor(case["prompt"]), config=config)
        stats = out.stats[0]
        got = (out.sequences[0].tolist(), stats.forwards, stats.remasks, stats.t2t_edits)
        assert got == (wanted(case), case["forwards"], case["remasks"], 0), case["id"]


def test_low_confidence_takes_the_forwards_of_the_released_loops(golden_model):
    """SGLang's spends one more on every block, to find it without masks. LLaDA2.0's may leave a
    block early, which changes no id up to the EOS."""
    decoder = Decoder(golden_model)
    for case in cases("low_confidence"):
        config = config_of(case, cache="none")
        out = decoder.generate(torch.tensor(case["prompt"]), config=config)
        assert out.sequences[0].tolist() == wanted(case), case["id"]
        forwards = out.stats[0].forwards
        if "sglang" in case["source"]:
            assert forwards == case["forwards"] - blocks_of(case), case["id"]
        elif case["eos_stop"] is None:
            assert forwards == case["forwards"], case["id"]
        elif case["eos_stop"] == "eos after block":
            assert forwards <= case["forwards"], case["id"]
        else:
            assert forwards >= case["forwards"], case["id"]


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_all_cases_together_equal_themselves_alone(golden_model, cache):
    """Rules, block lengths and prompt lengths mixed; a commit forward is all that a cache adds."""
    these = [case for name in (*T2M, "low_confidence") for case in cases(name)]
    for case, (ids, stats) in zip(
        these, together(Decoder(golden_model), these, cache=cache), strict=True
    ):
        assert ids == wanted(case), case["id"]
        if "trigger" in case["params"]:
            commits = blocks_of(case) - 1 if cache == "exact" else 0
            assert 0 <= stats.forwards - case["forwards"] <= commits, case["id"]


def scripted(case: dict, name: str) -> tuple[Decoder, ScriptedLogits]:
    """A decoder of one block after the prompt, in which everything sees everything."""
    from fastedit.models import Family

    model, params = ScriptedLogits(**case["model"]), case["params"]
    config = DecodeConfig(
        policy=policies.LowConfidence(**getattr(policy_cases, name)(params)),
        max_new_tokens=params["gen_length"],
        eos_token_id=[],
        seed=0,
    )
    family = Family(
        attention="full",
        shift=0,
        blocks="after_prompt",
        mask_token_id=model.mask,
        block_length=params["gen_length"],
    )
    return Decoder(model, config=config, family=family), model


@pytest.mark.parametrize("name", ["ranking", "dream"])
def test_ranks_and_schedules_forward_by_forward(name):
    for case in cases(name):
        decoder, model = scripted(case, name)
        prompt = torch.tensor(case["prompt"])
        out = decoder.generate(prompt)
        assert out.sequences[0].tolist() == case["output"], case["id"]
        assert out.stats[0].forwards == case["forwards"] == len(model.calls), case["id"]
        span = slice(len(prompt), len(prompt) + case["params"]["gen_length"])
        assert [ids[0, span].tolist() for ids in model.calls] == case["inputs"], case["id"]


@pytest.mark.parametrize("name", ["ranking", "dream"])
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
