"""No model makes a rule loop, touch a prompt, finish with a mask, or take others down with it."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from every_policy import RULES, VARIABLE, small
from spread_head import spread_head
from torch import Tensor, nn

from fastedit import BadLogitsError, DecodeConfig, Decoder, ops, policies

VOCAB, MASK, LENGTH, TOKENS = 8, 7, 4, 10
BAD_PROMPT = 4  # the first id of the prompt whose request is to fail


def flat(ids: Tensor, value: float = 0.0) -> Tensor:
    return torch.full((*ids.shape, VOCAB), value)


def one_hot(token: Tensor, height: float = 20.0) -> Tensor:
    return nn.functional.one_hot(token, VOCAB) * height


def flips(ids: Tensor) -> Tensor:
    """1 becomes 2 and all else 1, both with confidence."""
    return one_hot(torch.where(ids == 1, 2, 1))


def regrets(ids: Tensor) -> Tensor:
    """A mask becomes 1 with confidence, and whatever is held has no probability."""
    held = nn.functional.one_hot(ids, VOCAB)
    return torch.where((ids == MASK)[..., None], one_hot(torch.ones_like(ids)), -40.0 * held)


def cools(ids: Tensor) -> Tensor:
    """Each token is a little less liked than the one before it: 1, 2, 3, ... and again."""
    return one_hot((ids + 1) % (VOCAB - 1), 3.0)


def half(ids: Tensor) -> Tensor:
    """Two tokens, each at exactly one half."""
    logits = flat(ids, -math.inf)
    logits[..., 1:3] = 0.0
    return logits


ADVERSARIES = {
    "flips": flips,
    "regrets": regrets,
    "cools": cools,
    "ties of all": flat,
    "ties of two": lambda ids: one_hot(torch.ones_like(ids)) + one_hot(torch.full_like(ids, 2)),
    "at the threshold": half,
    "only masks": lambda ids: one_hot(torch.full_like(ids, MASK)),
    "masks by a little": lambda ids: one_hot(torch.full_like(ids, MASK), 1.0),
    "held for ever": lambda ids: one_hot(ids),
}
BAD = {
    "a NaN": [math.nan] + [0.0] * (VOCAB - 1),
    "only NaN": [math.nan] * VOCAB,
    "infinity": [0.0, math.inf] + [0.0] * (VOCAB - 2),
    "nothing finite": [-math.inf] * VOCAB,
    "nothing but the mask": [-math.inf] * (VOCAB - 1) + [0.0],
}


class Adversary(nn.Module):
    """The model contract over a rule of each position's own id; keeps the ids of every call.

    bad: logits in place of the rule's, where `place(positions)` says so, for the request whose
    prompt begins with `BAD_PROMPT`.
    """

    def __init__(self, rule, bad=None, place=lambda positions: positions >= 0) -> None:
        super().__init__()
        self.rule, self.bad, self.place = rule, bad, place
        self.config = SimpleNamespace(
            vocab_size=VOCAB, hidden_size=VOCAB, num_hidden_layers=1, model_type="adversary"
        )
        self.layers = nn.ModuleList([nn.Identity()])
        self.calls: list[Tensor] = []

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=False,
    ):
        assert past_key_values is None and not use_cache
        self.calls.append(input_ids.clone())
        self.layers[0](one_hot(input_ids).float())
        logits = self.rule(input_ids).float()
        if self.bad is not None:
            spoilt = self.place(position_ids) & (input_ids[:, :1] == BAD_PROMPT)
            logits = torch.where(spoilt[..., None], torch.tensor(self.bad), logits)
        return SimpleNamespace(logits=logits, next_logits=logits)


def decoder_of(model: Adversary, name: str, attention: str, **options) -> Decoder:
    from fastedit.models import Family

    attention = "full" if name in VARIABLE else attention
    family = Family(
        attention=attention,
        shift=0,
        blocks="aligned" if attention == "block_causal" else "after_prompt",
        mask_token_id=MASK,
        block_length=LENGTH,
    )
    config = DecodeConfig(
        policy=small(name, **options),
        max_new_tokens=TOKENS,
        eos_token_id=[],
        cache="none",
        seed=1,
    )
    head = spread_head(model.config, attention, layer=0) if "head" in name else None
    return Decoder(model, config=config, family=family, head=head)


def most_forwards(name: str, attention: str, prompt: int, **options) -> int:
    """The bound of every block, and a forward that commits its keys and values."""
    head = prompt % LENGTH if attention == "block_causal" else 0
    blocks = -(-(head + TOKENS) // LENGTH)
    return blocks * (small(name, **options).most_forwards(LENGTH) + 1)


@pytest.mark.parametrize("attention", ["block_causal", "full"])
@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("name", RULES)
def test_ends_within_its_bound_without_a_mask(name, adversary, attention):
    model = Adversary(ADVERSARIES[adversary])
    options = {"threshold": 0.5, "editing_threshold": 0.5, "tau": 0.5, "cap": 2}
    prompt = torch.tensor([1, 2, 0, 6, 3])
    out = decoder_of(model, name, attention, **options).generate(prompt)
    ids = out.sequences[0]
    assert len(ids) == TOKENS or (name in VARIABLE and len(ids) <= TOKENS)
    assert ((ids >= 0) & (ids < VOCAB) & (ids != MASK)).all()
    most = most_forwards(name, attention, len(prompt), **options)
    assert 0 < out.stats[0].forwards <= most
    assert all(call[0, : len(prompt)].equal(prompt) for call in model.calls)


@pytest.mark.parametrize("attention", ["block_causal", "full"])
@pytest.mark.parametrize("name", RULES)
def test_a_prompt_of_tokens_that_look_generated_stays(name, attention):
    """The prompt holds what the rule would edit, remask or fill elsewhere."""
    model = Adversary(flips)
    prompt = torch.tensor([1, 1, 2, 2, 1, 2])
    decoder_of(model, name, attention).generate([prompt, prompt[:3], prompt[:1]])
    for call in model.calls:
        for row in call:
            assert any(row[: len(p)].equal(p) for p in (prompt, prompt[:3], prompt[:1]))


BESIDE = [1, 2], [BAD_PROMPT, 0, 1], [6] * 5


@functools.cache
def unspoilt(name):
    """What each prompt beside the bad one gives alone, of a model that is never bad."""
    decoder = decoder_of(Adversary(cools), name, "block_causal")
    return {i: decoder.generate(torch.tensor(BESIDE[i])) for i in (0, 2)}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", RULES)
def test_a_bad_request_fails_alone(name, bad):
    """Its logits are bad everywhere, or at every third position; the others are as without it."""
    prompts = [torch.tensor(ids) for ids in BESIDE]
    alone = unspoilt(name)
    for place in (lambda at: at >= 0, lambda at: at % 3 == 2):
        decoder = decoder_of(Adversary(cools, BAD[bad], place), name, "block_causal")
        out = decoder.generate(prompts, errors="return")
        assert isinstance(out.errors[1], BadLogitsError), out.errors
        assert out.stats[1].finish_reason == "error"
        assert MASK not in out.sequences[1].tolist()
        for i in (0, 2):
            assert out.errors[i] is None
            assert out.sequences[i].equal(alone[i].sequences[0])
            assert out.stats[i].forwards == alone[i].stats[0].forwards


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("bad", ["only NaN", "nothing finite", "nothing but the mask"])
@pytest.mark.parametrize("name", RULES)
def test_a_row_with_nothing_to_choose_from_is_not_written(name, bad, backend):
    """Its mask stays one, and so does a token that the rule judges by it."""
    policy = small(name, threshold=0.5, tau=0.5, stride=1)
    state = policies.open(policy, torch.tensor([[1, MASK, 2, MASK]]), mask_token_id=MASK, seed=1)
    for _ in range(4):
        logits = regrets(state.ids).float()
        logits[:, :2] = torch.tensor(BAD[bad])
        given = {"next_logits": logits} if "next_token" in policy.needs else {}
        given |= {"shadow_logits": logits.clone()} if policy.plan == "shadow" else {}
        given |= {"scores": torch.zeros(1, 4)} if "score" in policy.needs else {}
        with ops.use_backend(backend):
            policies.step_(state, logits, **given)
    assert state.bad.all()
    reads = policy.reads_tokens or policy.plan == "shadow"
    mask_is_none = not policy.chooses_mask or bad != "nothing but the mask"
    judged = slice(0 if reads and mask_is_none else 1, 2)
    assert state.ids[0, judged].tolist() == [1, MASK][judged]


@pytest.mark.parametrize("name", RULES)
def test_all_requests_may_be_bad(name):
    decoder = decoder_of(Adversary(flat, BAD["only NaN"]), name, "block_causal")
    prompts = [torch.tensor([BAD_PROMPT] * n) for n in (1, 4, 6)]
    out = decoder.generate(prompts, errors="return")
    assert all(isinstance(error, BadLogitsError) for error in out.errors)
    with pytest.raises(BadLogitsError):
        decoder.generate(prompts[0])


@pytest.mark.parametrize("name", RULES)
def test_a_bound_is_a_number_of_forwards(name):
    """It grows with the block, and no block is free."""
    bounds = [small(name).most_forwards(length) for length in (1, 4, 32)]
    assert all(type(most) is int and most >= 1 for most in bounds)
    assert bounds == sorted(bounds)
