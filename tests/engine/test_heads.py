"""A head reads hidden states of the step's own forward, of every family, and where it may."""

from __future__ import annotations

import pytest
import torch
from cases import GOLDEN, prompt, results
from every_family import NAMES, decoder
from spread_head import spread_head
from tape import Tape

from fastedit import Decoder, ops
from fastedit.engine import engine
from fastedit.engine import graphs as graph
from fastedit.heads import CorrectionHead, CorrectionHeadConfig
from fastedit.models import Family

PROMPTS = [prompt(length) for length in (3, 9, 16, 30)]
OFTEN = "correction:tau=.5,stride=2"
OPTIONS = {key: GOLDEN[key] for key in ("mask_token_id", "block_length", "seed")} | {
    "max_new_tokens": 20,
    "eos_token_id": [],
    "policy": OFTEN,
}


class Noting(CorrectionHead):
    """Keeps what it was given, by position."""

    def forward(self, hidden, attention_mask=None, position_ids=None):
        self.given = hidden, attention_mask, position_ids
        return super().forward(hidden, attention_mask, position_ids)


@pytest.mark.parametrize("layer", [-2, 0])
@pytest.mark.parametrize("name", ["llada2", *NAMES])
@pytest.mark.filterwarnings("ignore:block_length")
def test_hidden_states_are_those_of_the_forward(golden_model, name, layer):
    """Of the last one, without a cache: what the model says of the same ids when it is asked."""
    plain = Decoder(golden_model) if name == "llada2" else decoder(name)
    model, family = plain.model, plain.family
    head = Noting(CorrectionHeadConfig.of(model.config, family.attention, depth=0, layer=layer))
    own = Decoder(model, plain.tokenizer, plain.config, head=head)
    calls = []
    hook = model.register_forward_pre_hook(
        lambda _, args, given: calls.append(given), with_kwargs=True
    )
    options = {"policy": "correction:steps=5,stride=1", "eos_token_id": [], "cache": "none"}
    if name == "llada2":
        options |= {"mask_token_id": 127, "block_length": 8}
    ids = torch.arange(2, 13)
    out = own.generate(ids, max_new_tokens=8, **options)
    hook.remove()
    assert len(calls) == out.stats[0].forwards + out.stats[0].prefill_forwards
    # The last forward in which there was a token to judge is the last of all.
    asked = {key: value for key, value in calls[-1].items() if key != "hidden_layer"}
    hidden, mask, positions = head.given
    with torch.no_grad():
        states = model(**asked | {"output_hidden_states": True}).hidden_states
    assert torch.equal(hidden, states[layer][:, positions[0]])
    if family.attention == "full":
        assert mask.shape == (1, 1, 1, hidden.shape[1]) and bool(mask.all())
        assert torch.equal(positions[0], torch.arange(19))
    else:  # the active block, counted from the first id of the prompt
        block = plain.config.block_length if name == "fast_dllm_v2" else len(positions[0])
        assert mask is None and positions.shape == (len(positions), block)
        assert int(positions[-1, 0]) % block == 0


def test_the_model_returns_the_layer_that_is_asked_for(golden_model):
    ids = torch.arange(7, 23)[None]
    with torch.no_grad():
        want = golden_model(ids, output_hidden_states=True).hidden_states
        for layer in range(golden_model.config.num_hidden_layers):
            (got,) = golden_model(ids, hidden_layer=layer).hidden_states
            assert torch.equal(got, want[layer])
    assert golden_model(ids).hidden_states is None


def test_blocks_that_ride_along_have_scores(golden_model):
    own = Decoder(golden_model, head=spread_head(golden_model.config))
    for draft in (None, [torch.arange(20, 36)] * 2):
        plain, ahead = (
            own.generate(PROMPTS[1:3], draft=draft, lookahead=on, **OPTIONS) for on in (False, True)
        )
        assert [ids.tolist() for ids in ahead.sequences] == [i.tolist() for i in plain.sequences]
        assert [s.remasks for s in ahead.stats] == [s.remasks for s in plain.stats]
        assert sum(s.remasks for s in plain.stats) > 2


def test_steps_from_graphs_hold_the_head(countless_experts, monkeypatch):
    own = Decoder(countless_experts, head=spread_head(countless_experts.config))
    want = results(own.generate(PROMPTS, **OPTIONS))
    assert sum(stats.remasks for _, stats in want) > 3
    monkeypatch.setitem(engine.DELAY, "cpu", 1)
    monkeypatch.setitem(graph.CAPTURE, "cpu", Tape)
    monkeypatch.setattr(Tape, "made", [], raising=False)
    with ops.use_backend("reference"):
        own.close()
        got = results(own.generate(PROMPTS, max_batch=3, **OPTIONS))
    assert sum(tape.replays for tape in Tape.made) > 20
    assert got == want


def test_fills_of_other_numbers_decode_together(golden_model):
    own = Decoder(golden_model, head=spread_head(golden_model.config))
    fill = "correction:fill=joint_threshold;threshold={};editing_threshold={},tau={}"
    rules = [fill.format(*numbers) for numbers in FILLS]
    configs = [own.config.replace(**OPTIONS | {"policy": rule}) for rule in rules]
    together = own.generate(PROMPTS[:3], config=configs)
    assert len(own._kept.engine.lanes) == 1
    alone = [
        results(own.generate(ids, config=one)) for ids, one in zip(PROMPTS, configs, strict=False)
    ]
    assert [[result] for result in results(together)] == alone


FILLS = ((0.1, 0.3, 0.3), (0.5, "none", 0.6), (0.9, 0.0, 0.9))


def test_weights_of_the_head_may_change(golden_model):
    own = Decoder(golden_model, head=spread_head(golden_model.config))
    before = own.generate(PROMPTS[:2], **OPTIONS)
    assert sum(stats.remasks for stats in before.stats) > 0
    with torch.no_grad():
        own.head.score.weight.zero_()
    after = own.generate(PROMPTS[:2], **OPTIONS)
    assert sum(stats.remasks for stats in after.stats) == 0


def test_a_head_that_does_not_fit_is_refused_before_anything_is_computed(golden_model, tmp_path):
    def refused(words, head=None, model=golden_model, family=None, **options):
        with pytest.raises(ValueError, match=words) as caught:
            Decoder(model, family=family, head=head).generate(PROMPTS[0], **OPTIONS | options)
        assert "\n" not in str(caught.value)

    config = golden_model.config
    refused("head=.*scorer=confidence")
    refused("attention='full'", CorrectionHead(CorrectionHeadConfig.of(config, "full")))
    refused("hidden_size=8", CorrectionHead(CorrectionHeadConfig(hidden_size=8)))
    deep = CorrectionHeadConfig.of(config, "block_causal", layer=9)
    refused("layer=9", CorrectionHead(deep))
    plain = CorrectionHead(CorrectionHeadConfig(hidden_size=8))
    refused("ModuleList", plain, model=lambda **inputs: None)
    whole = Family(attention="full", mask_token_id=127, block_length=8)
    everywhere = spread_head(config, "full")
    refused('use cache="exact"', everywhere, family=whole, cache="dual")
    with pytest.raises(TypeError, match="head must be"):
        Decoder(golden_model, head=3)
    with pytest.raises(FileNotFoundError, match=r"has no correction_head\.json"):
        Decoder(golden_model, head=tmp_path)


def test_a_head_lies_alone_or_beside_an_adapter(golden, golden_model, tmp_path):
    """In the model's dtype, on its device."""
    import peft

    options = peft.LoraConfig(r=2, target_modules=["dense"], init_lora_weights=False)
    fresh = type(golden_model).from_pretrained(golden, dtype="float32")
    peft.get_peft_model(fresh, options).save_pretrained(tmp_path)
    head = spread_head(golden_model.config)
    head.save_pretrained(tmp_path)
    own = Decoder.from_pretrained(
        golden, adapter=tmp_path, head=tmp_path, dtype="bfloat16", device="cpu"
    )
    assert own.head.config == head.config and own.head.score.weight.dtype == torch.bfloat16
    alone = Decoder(golden_model, head=tmp_path)
    assert torch.equal(alone.head.score.weight, head.score.weight)
    out = alone.generate(PROMPTS, **OPTIONS)
    want = Decoder(golden_model, head=head).generate(PROMPTS, **OPTIONS)
    assert results(out) == results(want)
