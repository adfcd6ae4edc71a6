"""`Decoder`: seeds, training mode, models of any kind."""

import warnings

import pytest
import torch
from cases import GOLDEN, MASK, SCRIPTED, V, scripted
from fakes import ScriptedModel, saying
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from fastedit import DecodeConfig, Decoder
from fastedit.memory.kv import Rows
from fastedit.models.families import Family
from fastedit.plans.call import ModelCall

HOT = SCRIPTED | {"temperature": 1.0, "editing_threshold": None}


@pytest.fixture
def decoder():
    return Decoder(scripted())


def draws(decoder, prompts, **options):
    """(ids as lists, recorded seeds)"""
    with pytest.warns(UserWarning, match="temperature"):
        out = decoder.generate(prompts, **(HOT | options))
    return [ids.tolist() for ids in out.sequences], [stats.seed for stats in out.stats]


def test_a_family_whose_policy_is_none_is_refused_at_once(golden_model):
    with pytest.raises(ValueError, match=r"the family's policy must be one of .*; got 'nonsense'"):
        Decoder(golden_model, family=Family(policy="nonsense"))
    with pytest.raises(ValueError, match="the family's policy 'remask:tau=7': tau must be"):
        Decoder(golden_model, family=Family(policy="remask:tau=7"))


def test_a_parameter_that_nothing_reads_brings_a_warning(golden_model):
    decoder, ids = Decoder(golden_model), torch.tensor([1])
    options = {
        "policy": "low_confidence:schedule=dream",
        "max_new_tokens": 1,
        "mask_token_id": MASK,
    }
    with pytest.warns(UserWarning, match="schedule=dream: threshold has no effect"):
        decoder.generate(ids, **options, threshold=0.9)


def test_totals_are_of_all_requests(golden_model):
    options = {"mask_token_id": MASK, "max_new_tokens": 8, "eos_token_id": []}
    out = Decoder(golden_model).generate([torch.tensor([1, 2]), torch.tensor([3])], **options)
    totals, stats = out.totals, out.stats
    assert totals.tokens == sum(each.tokens for each in stats) == 16
    assert totals.forwards == sum(each.forwards for each in stats) > 0
    assert totals.tokens_per_forward == totals.tokens / totals.forwards
    edits = sum(each.t2t_edits for each in stats)
    assert totals.edits_per_100_tokens == 100 * edits / totals.tokens
    assert 0 < totals.seconds == out.seconds < 600
    assert Decoder(golden_model).generate([], **options).totals.tokens_per_forward == 0.0


def test_one_seed_gives_equal_prompts_equal_text_in_any_batch(decoder):
    one, two = torch.tensor([1, 2]), torch.tensor([3])
    (alone,), seeds = draws(decoder, one, seed=7)
    ids, _ = draws(decoder, [two, one, one], seed=7)
    assert seeds == [7] and ids[1] == ids[2] == alone
    assert draws(decoder, one, seed=8)[0] != [alone]
    assert MASK not in alone


def test_a_list_of_seeds_is_one_per_request(decoder):
    prompts = [torch.tensor([1, 2])] * 3
    ids, seeds = draws(decoder, prompts, seed=[4, 5, 4])
    assert seeds == [4, 5, 4]
    assert ids[0] == ids[2] != ids[1]
    assert ids[:2] == [draws(decoder, prompts[0], seed=s)[0][0] for s in (4, 5)]


def test_no_seed_is_a_fresh_one_that_repeats_the_result(decoder):
    prompts = [torch.tensor([1, 2])] * 8
    ids, seeds = draws(decoder, prompts)
    assert len(set(seeds)) == 8 and len({tuple(i) for i in ids}) > 1
    assert draws(decoder, prompts, seed=seeds) == (ids, seeds)


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 2**63, 2**64 - 1])
def test_seeds_beyond_63_bits_are_kept(decoder, seed):
    ids, seeds = draws(decoder, torch.tensor([1]), seed=seed)
    assert seeds == [seed] and ids == draws(decoder, torch.tensor([1]), seed=seed)[0]


def test_draws_are_keyed_by_absolute_position():
    decoder = Decoder(ScriptedModel(V, lambda seen, i: [0.0] * V))
    options = {"seed": 1, "threshold": 0.0, "max_post_steps": 0}
    (ids,), _ = draws(decoder, torch.arange(4), max_new_tokens=16, **options)
    assert len({tuple(ids[i : i + 4]) for i in range(0, 16, 4)}) == 4
    (tail,), _ = draws(decoder, torch.arange(8), max_new_tokens=12, **options)
    assert tail == ids[4:]


def test_draws_of_a_real_model_do_not_depend_on_the_cache(golden_model):
    decoder = Decoder(golden_model)
    prompts = torch.randint(7, 120, (2, 11), generator=torch.Generator().manual_seed(0))
    options = {"mask_token_id": 127, "seed": 3, "block_length": 8, "max_new_tokens": 20}
    cached = draws(decoder, prompts, use_cache=True, **options)
    assert cached == draws(decoder, prompts, **options)
    assert cached[0][0] == draws(decoder, prompts[0], use_cache=True, **options)[0][0]


def test_greedy_needs_no_warning_and_ignores_top_k_and_top_p(decoder, recwarn):
    plain = decoder.generate(torch.tensor([1]), **SCRIPTED)
    same = decoder.generate(torch.tensor([1]), top_k=1, top_p=0.1, seed=3, **SCRIPTED)
    assert plain.sequences[0].tolist() == same.sequences[0].tolist()
    assert not recwarn.list


@pytest.mark.parametrize("sure", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-6}])
def test_a_draw_that_is_certain_is_the_best_token_with_confidence_one(decoder, sure):
    ((first, *_),), _ = draws(decoder, torch.tensor([1, 2, 3]), max_new_tokens=1, **sure)
    best = decoder.model.rule((1, 2, 3, MASK), 3)[:MASK].argmax()
    assert first == best
    decoder.model.calls.clear()
    draws(decoder, torch.tensor([1]), max_new_tokens=3, threshold=0.999, max_post_steps=0, **sure)
    assert len(decoder.model.calls) == 1


def test_the_config_of_the_decoder_is_the_default_of_every_call():
    model = ScriptedModel(V, saying([], V))
    decoder = Decoder(model, config=DecodeConfig(**SCRIPTED))
    assert len(decoder.generate(torch.tensor([1])).sequences[0]) == 6
    assert len(decoder.generate(torch.tensor([1]), gen_length=2).sequences[0]) == 2
    assert decoder.config == DecodeConfig(**SCRIPTED)


def test_a_plain_function_is_a_model():
    model = ScriptedModel(V, saying([], V, then=3))
    out = Decoder(lambda **inputs: model(**inputs)).generate(torch.tensor([1]), **SCRIPTED)
    assert out.sequences[0].tolist() == [3] * 6


OPTIONS = {"mask_token_id": 127, "block_length": 8, "max_new_tokens": 9, "eos_token_id": 126}


def newer(model, caches):
    def forward(input_ids, attention_mask, position_ids, cache, use_cache):
        caches.append(cache)
        return model(input_ids, attention_mask, position_ids, cache, use_cache=use_cache)

    return forward


def older(model, caches):
    def forward(input_ids, attention_mask, position_ids, past_key_values, use_cache):
        caches.append(past_key_values)
        return model(input_ids, attention_mask, position_ids, past_key_values, use_cache=use_cache)

    return forward


@pytest.mark.parametrize("naming", [newer, older])
def test_the_cache_comes_under_the_name_that_the_model_has(golden_model, naming):
    ids, caches = torch.arange(10, 21), []
    found = Decoder(naming(golden_model, caches)).generate(ids, **OPTIONS)
    assert len(caches) > 1 and {type(cache) for cache in caches} == {Rows}
    expected = Decoder(golden_model).generate(ids, **OPTIONS)
    assert torch.equal(found.sequences[0], expected.sequences[0])


@pytest.mark.parametrize("wrapper", ["none", "peft", "compile"])
def test_models_of_transformers_are_called_as_they_wish(wrapper):
    """No renamed argument, whichever transformers is installed, nor behind a wrapper."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=128, num_hidden_layers=1, num_key_value_heads=2, **sizes)
    model = LlamaForCausalLM(config).eval()
    if wrapper == "peft":
        with warnings.catch_warnings():  # peft asks for what transformers is about to drop
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    elif wrapper == "compile":
        model = torch.compile(model)
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("error", FutureWarning)
        out = Decoder(model).generate(torch.arange(10, 21), **OPTIONS)
    assert 1 <= len(out.sequences[0]) <= 9


def test_prompts_and_model_are_left_as_they_were(golden_model):
    ids = torch.arange(10, 21)
    kept = ids.clone()
    decoder = Decoder(golden_model)
    golden_model.train()
    try:
        one = decoder.generate(ids, **OPTIONS)
        assert golden_model.training
        next(events := decoder.stream(ids, **OPTIONS))
        assert not golden_model.training
        events.close()
        assert golden_model.training
    finally:
        golden_model.eval()
    assert torch.equal(ids, kept)
    assert one.sequences[0].tolist() == decoder.generate(ids, **OPTIONS).sequences[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_may_come_in_half_precision(dtype):
    model = ScriptedModel(V, saying([], V, then=3))

    def half(**inputs):
        out = model(**inputs)
        out.logits = out.logits.to(dtype)
        return out

    out = Decoder(half).generate(torch.tensor([1]), **SCRIPTED)
    assert out.sequences[0].tolist() == [3] * 6


def test_the_native_model_makes_no_copy_of_its_logits_in_fp32(golden, monkeypatch):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    model, dtypes = LLaDA2MoeModelLM.from_pretrained(golden, dtype="bfloat16").eval(), set()
    forward = ModelCall.__call__

    def watched(self, *args, **options):
        found = forward(self, *args, **options)
        dtypes.add(found.logits.dtype)
        return found

    monkeypatch.setattr(ModelCall, "__call__", watched)
    ours = Decoder(model).generate(torch.arange(1, 14), **GOLDEN)
    assert dtypes == {torch.bfloat16}
    # As the released model has them, whose forward knows no such option.
    released = Decoder(lambda **inputs: model(**inputs)).generate(torch.arange(1, 14), **GOLDEN)
    assert dtypes == {torch.bfloat16, torch.float32}
    assert ours.sequences[0].equal(released.sequences[0]) and ours.stats == released.stats


@pytest.mark.parametrize(
    "kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"]
)
def test_virtual_tokens_are_refused(golden, kind):
    """peft hands `generate` to the model inside, which would decode as if they were not there."""
    import peft

    from fastedit.models.llada2 import LLaDA2MoeModelLM

    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(LLaDA2MoeModelLM.from_pretrained(golden), config)
    prompt = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"adapter of type P.*virtual tokens"):
        model.generate(input_ids=prompt, max_new_tokens=8, mask_token_id=127)
    with pytest.raises(ValueError, match=r"adapter of type P.*virtual tokens"):
        Decoder(model).generate(prompt, mask_token_id=127)


def test_float64_is_refused(golden):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    model = LLaDA2MoeModelLM.from_pretrained(golden).double()
    with pytest.raises(ValueError, match="float64"):
        Decoder(model).generate(torch.tensor([[1, 2]]), mask_token_id=127)


def test_what_is_no_config_family_or_draft_is_named(golden_model):
    for given, words in (
        ({"config": {"threshold": 0.5}}, r"config must be a DecodeConfig; got \{'threshold'"),
        ({"family": "llada"}, "family must be a fastedit.models.Family; got 'llada'"),
    ):
        with pytest.raises(TypeError, match=words):
            Decoder(golden_model, **given)
    with pytest.raises(TypeError, match=r"draft must be a text, ids, .*got int 3"):
        Decoder(golden_model).generate(torch.tensor([5, 6]), None, None, 3)
