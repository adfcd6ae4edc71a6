"""Correction over other rules that fill, and its scores: planted errors are taken back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fastedit import DecodeConfig, Decoder, policies
from fastedit.heads import CorrectionHead, CorrectionHeadConfig
from fastedit.models import Family
from fastedit.policies import Correction, parse

V, MASK, LENGTH = 12, 11, 8
FILLS = {
    "low_confidence": policies.LowConfidence(threshold=1.0),
    "low_confidence;steps=3": policies.LowConfidence(threshold=1.0, steps=3),
    "low_confidence;rank=entropy": policies.LowConfidence(threshold=1.0, rank="entropy"),
    "low_confidence;steps=5;rank=margin": policies.LowConfidence(1.0, 5, "margin"),
    "low_confidence;threshold=0.3": policies.LowConfidence(threshold=0.3),
    "low_confidence;schedule=dream": policies.LowConfidence(threshold=1.0, schedule="dream"),
    "confidence;threshold=0.3": policies.Confidence(threshold=0.3),
    "confidence;rule=factor": policies.Confidence(rule="factor"),
    "confidence;rule=schedule;steps=3": policies.Confidence(rule="schedule", steps=3),
    "joint_threshold;threshold=0.3;editing_threshold=0.2": policies.JointThreshold(0.3, 0.2),
    "joint_threshold;threshold=0.3;editing_threshold=None": policies.JointThreshold(0.3, None),
    "saber;least=1": policies.Saber(least=1),
}


@pytest.mark.parametrize("text", FILLS)
def test_a_fill_is_an_object_or_its_text(text):
    policy = Correction(fill=text, tau=0.5)
    assert policy == Correction(fill=FILLS[text], tau=0.5)
    assert parse(f"correction:fill={text},tau=.5") == policy == parse(str(policy))
    assert policy.as_dict()["parameters"]["fill"] == text


def test_fills_that_are_none_and_steps_that_do_not_fit_are_named():
    reopens = policies.MultiBlock()  # derived from a rule that fills
    for fill in ("wino", "multi_block", "correction", "nothing", 3, reopens):
        with pytest.raises(ValueError, match="fill must be a policy that fills"):
            Correction(fill=fill)
    with pytest.raises(ValueError, match="joint_threshold has no 'tau'"):
        parse("correction:fill=joint_threshold;tau=.5")
    with pytest.raises(ValueError, match=r"steps=4 .*fill=joint_threshold"):
        Correction(fill="joint_threshold", steps=4)
    with pytest.raises(ValueError, match=r"steps=4.*steps=3: give one"):
        Correction(fill="low_confidence;steps=3", steps=4)
    assert Correction(fill="low_confidence;steps=3") != Correction(steps=3)
    assert Correction(fill="low_confidence;steps=3").most_forwards(LENGTH) == 9
    assert Correction(steps=3).most_forwards(LENGTH) == 9


def logits_of(seed: int, rows: int = 3) -> Tensor:
    return torch.randn(rows, LENGTH, V, generator=torch.Generator().manual_seed(seed)) * 2


def steps_of(policy, scores: float | None, forwards: int = 60):
    """Ids of three blocks behind every forward, on the same logits whatever the policy."""
    ids = torch.full((3, LENGTH), MASK)
    ids[1, :3] = torch.tensor([4, MASK, 5])  # a draft, and a block that is partly prompt
    editable = torch.ones(3, LENGTH, dtype=torch.bool)
    editable[2, :2], ids[2, :2] = False, 3
    state = policies.open(policy, ids, editable, mask_token_id=MASK)
    given = None if scores is None else torch.full((3, LENGTH), scores)
    shown = []
    for forward in range(forwards):
        if bool(state.done.all()):
            break
        policies.step_(state, logits_of(forward), scores=given)
        shown.append(state.ids.clone())
    return shown, state


@pytest.mark.parametrize("text", FILLS)
def test_without_an_error_the_fill_is_as_it_is_alone(text):
    alone, before = steps_of(FILLS[text], None)
    got, after = steps_of(Correction(fill=text, stride=1), 0.75)  # not above tau
    assert before.done.all() and after.done.all() and not after.counts.remasks.any()
    if not Correction(fill=text).clocked or "steps" not in text:
        # A clock and a schedule of so many steps round differently.
        assert len(alone) == len(got) and all(map(torch.equal, alone, got))
        assert torch.equal(after.count_rows, before.count_rows)


@pytest.mark.parametrize("text", FILLS)
def test_a_head_that_trusts_nothing_ends_at_the_bound(text):
    policy = Correction(fill=text, stride=1, budget=3, ring=0)
    bound = policy.most_forwards(LENGTH)
    shown, state = steps_of(policy, 1.0, bound + 1)
    assert state.done.all() and not (state.ids == MASK).any() and len(shown) <= bound
    assert state.counts.remasks.max() > 0 and (state.counts.remasks < 3 * bound).all()


class Drafter(nn.Module):
    """Where a block is all masks, every third position says a wrong token, surely; later, like all
    others, the right one. Whatever is held is kept, and hidden states tell ids.

    calls  counts its forwards
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.layers = nn.ModuleList([nn.Identity()])
        self.config = SimpleNamespace(vocab_size=V, hidden_size=V, num_hidden_layers=1)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=False,
    ):
        self.calls += 1
        ids = self.layers[0](nn.functional.one_hot(input_ids, V).float()).argmax(-1)
        fresh = (ids == MASK).unflatten(1, (-1, LENGTH)).all(-1).repeat_interleave(LENGTH, 1)
        planted = (position_ids % 3 == 1).expand_as(ids)
        right = TRUTH[position_ids].expand_as(ids)
        says = torch.where(planted & fresh, (right + 1) % MASK, right)
        says = torch.where(ids == MASK, says, ids)
        sure = torch.where(planted, torch.where(fresh, 9.0, 2.5), 3.0)
        return SimpleNamespace(logits=nn.functional.one_hot(says, V) * sure[..., None])


class Oracle(CorrectionHead):
    """Knows what is right: an error where something else is held, masks aside."""

    def __init__(self, attention: str = "block") -> None:
        super().__init__(CorrectionHeadConfig(V, depth=0, layer=0, attention=attention))
        self.rows = 0

    def forward(self, hidden, attention_mask=None, position_ids=None):
        self.rows += len(hidden)
        ids = hidden.argmax(-1)
        return torch.where((ids != TRUTH[position_ids]) & (ids != MASK), 20.0, -20.0)


class Indifferent(Oracle):
    def forward(self, hidden, attention_mask=None, position_ids=None):
        return torch.full(hidden.shape[:2], 1.0)  # an error of .73


TRUTH = torch.randint(MASK, (48,), generator=torch.Generator().manual_seed(5))
PLANTED = {"block_causal": "low_confidence;steps=4", "full": "confidence;threshold=0.9"}


def decoded(head, attention: str, **options):
    family = Family(attention=attention, mask_token_id=MASK, block_length=LENGTH)
    policy = Correction(fill=PLANTED[attention], **{"stride": 1, "budget": 4, **options})
    config = DecodeConfig(policy=policy, max_new_tokens=24, eos_token_id=[], cache="none")
    decoder = Decoder(Drafter(), config=config, family=family, head=head)
    return decoder, decoder.generate([TRUTH[:8], TRUTH[:16]])


@pytest.mark.parametrize("attention", PLANTED)
def test_an_oracle_repairs_what_was_drafted_wrong(attention):
    pattern = {"block_causal": "block", "full": "full"}[attention]
    decoder, out = decoded(Oracle(pattern), attention)
    _, untouched = decoded(Indifferent(pattern), attention)
    for i, first in enumerate((8, 16)):
        right = TRUTH[first : first + 24]
        wrong = int((untouched.sequences[i] != right).sum())
        assert wrong >= 6 and untouched.stats[i].remasks == 0
        assert out.sequences[i].equal(right) and out.stats[i].remasks == wrong
        assert out.stats[i].forwards > untouched.stats[i].forwards
        assert not out.stats[i].capped
    # There is no second forward for the hidden states.
    assert decoder.model.calls == max(stats.forwards for stats in out.stats)


def test_the_head_runs_where_its_scores_are_read():
    """Every stride forwards, on blocks in which there is a token."""
    rows = {}
    for stride in (1, 2):
        head = Oracle()
        _, out = decoded(head, "block_causal", stride=stride)
        rows[stride] = head.rows
        assert 0 < head.rows < sum(stats.forwards for stats in out.stats)
    assert rows[2] < rows[1]


def test_the_ring_blocks_an_immediate_repeat():
    """Two positions are doubted in every forward; each comes back behind `ring` others."""
    logits = torch.zeros(1, 6, V)
    logits[0, :2, 4] = 9.0  # they are filled first
    scores = torch.tensor([[0.9, 0.8, 0.0, 0.0, 0.0, 0.0]])
    for ring, wanted in ((0, [0, 1, 0, 1, 0]), (1, [0, 1, 0, 1, 0]), (2, [0, 1])):
        policy = Correction(fill="confidence;threshold=1", stride=1, budget=1, ring=ring)
        state = policies.open(
            policy, torch.tensor([[1, 2, 3, MASK, MASK, MASK]]), mask_token_id=MASK
        )
        remasked = []
        for _ in range(5):
            before = state.ids.clone()
            policies.step_(state, logits, scores=scores)
            remasked += ((state.ids == MASK) & (before != MASK)).nonzero()[:, 1].tolist()
            state.ids[0, 3:] = MASK  # so that no forward is the last
        assert remasked == wanted


def test_the_ring_holds_what_scores_remasked_whatever_the_fill_remasks():
    doubted = torch.Generator().manual_seed(6)
    ids = torch.full((1, LENGTH), MASK)
    both = 0
    for number in range(12):
        policy = Correction(fill="saber;least=1", stride=1, budget=1, ring=3, tau=0.5)
        state, ring = policies.open(policy, ids, mask_token_id=MASK), []
        for forward in range(24):
            turn, remasks = state.buffers.turn.clone(), int(state.counts.remasks)
            scores = torch.rand(1, LENGTH, generator=doubted)
            policies.step_(state, logits_of(100 * number + forward, 1), scores=scores)
            new = (state.buffers.turn != turn).nonzero()[:, 1].tolist()
            both += int(state.counts.remasks) - remasks > len(new)
            assert not set(new) & set(ring[-3:])
            ring += new
    assert both > 10
