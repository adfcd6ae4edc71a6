"""What a policy from outside declares, and what its rule returns, where either is wrong."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from types import SimpleNamespace

import pytest
import torch

from fastedit import Decoder, policies
from fastedit.models import Family
from fastedit.policies import Buffer, Policy, Write

V, MASK = 8, 7
FAMILY = Family(attention="full", mask_token_id=MASK, block_length=4)


@dataclass(frozen=True)
class Fill(Policy):
    """Fills everything at once."""

    buffers = {"seen": Buffer()}  # noqa: RUF012

    def rule(self, stats, view):
        filled = torch.where(view.masked(), stats.token, view.ids)
        return Write(filled, torch.ones_like(view.done))

    def most_forwards(self, length):
        return length


def with_rule(change):
    """`Fill` whose rule returns `change(write, view)`."""

    def rule(self, stats, view):
        return change(Fill.rule(self, stats, view), view)

    return make_dataclass("Changed", [], bases=(Fill,), namespace={"rule": rule}, frozen=True)()


def declaring(**names):
    return make_dataclass("Declared", [], bases=(Fill,), namespace=names, frozen=True)()


class Model:
    config = SimpleNamespace(vocab_size=V)

    def __init__(self):
        self.calls = 0

    def __call__(self, input_ids, **_):
        self.calls += 1
        logits = torch.zeros(*input_ids.shape, V)
        logits[..., 3] = 5.0
        return SimpleNamespace(logits=logits)


def generate(policy, model):
    decoder = Decoder(model, family=FAMILY)
    return decoder.generate(torch.tensor([1]), policy=policy, max_new_tokens=8, eos_token_id=[])


@pytest.mark.parametrize(
    "policy, said",
    [
        (declaring(needs=frozenset({"color"})), "needs .*color"),
        (declaring(needs=frozenset({"top_k"}), ranks=99), "ranks=99: give 1 to 8"),
        (declaring(plan="sideways"), "plan 'sideways'"),
        (declaring(most_forwards=lambda self, length: 0), "at least 1; got 0"),
        (declaring(most_forwards=lambda self, length: 1.5), r"at least 1; got 1\.5"),
        (declaring(most_forwards=lambda self, length: None), "at least 1; got None"),
    ],
)
def test_a_wrong_declaration_is_told_before_any_model_call(policy, said):
    model = Model()
    with pytest.raises(ValueError, match=said):
        generate(policy, model)
    assert model.calls == 0
    with pytest.raises(ValueError, match=said):
        policies.step_(
            policies.open(policy, torch.full((1, 4), MASK), mask_token_id=MASK),
            torch.zeros(1, 4, V),
        )


WRITES = [
    (lambda write, view: None, TypeError, "must return a Write; got None"),
    (lambda write, view: write.ids, TypeError, "must return a Write; got tensor"),
    (lambda write, view: write._replace(ids=3), ValueError, r"ids as torch.int64 \[1, 4\]; got 3"),
    (lambda write, view: write._replace(ids=write.ids[:, :1]), ValueError, r"got .*\[1, 1\]"),
    (lambda write, view: write._replace(ids=write.ids.int()), ValueError, "got torch.int32"),
    (lambda write, view: write._replace(done=True), ValueError, "done as torch.bool .*got True"),
    (lambda write, view: write._replace(done=write.done.float()), ValueError, "got torch.float32"),
    (lambda write, view: write._replace(buffers={"zz": view.ids}), ValueError, "no buffer 'zz'"),
    (
        lambda write, view: write._replace(buffers={"seen": torch.zeros(7, 3)}),
        ValueError,
        r"buffer 'seen' .*got \[7, 3\]",
    ),
    (lambda write, view: write._replace(ids=write.ids - 8), ValueError, "id -5, and there are 8"),
    (lambda write, view: write._replace(ids=write.ids + 5), ValueError, "id 8, and there are 8"),
    (lambda write, view: write._replace(keep=view.masked()), ValueError, "rewrites = True"),
]


@pytest.mark.parametrize("change, kind, said", WRITES)
def test_what_a_rule_cannot_return_is_told_with_the_policy(change, kind, said):
    with pytest.raises(kind, match=said) as raised:
        generate(with_rule(change), Model())
    assert "Changed" in str(raised.value)


def test_an_exception_of_a_rule_tells_the_policy():
    def change(write, view):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as raised:
        generate(with_rule(change), Model())
    assert "raised by the rule of policy Changed" in raised.value.__notes__


def test_what_a_rule_says_of_done_and_protected_positions_does_not_matter():
    """Ids that there are not included, and a mask that is none of the logits' ids."""

    def change(write, view):
        return write._replace(ids=torch.where(view.masked(), write.ids, -1))

    ids = torch.tensor([[MASK, 1], [MASK, MASK]])
    state = policies.open(with_rule(change), ids, ids == MASK, mask_token_id=MASK)
    for _ in range(2):
        policies.step_(state, torch.eye(V)[3].expand(2, 2, V).contiguous())
    assert state.ids.tolist() == [[3, 1], [3, 3]] and state.done.all()


@pytest.mark.parametrize("name", ["start", "lengths"])
@pytest.mark.parametrize("value", ["a", 2**63, True, [True], 1.5, object()])
def test_numbers_of_blocks_are_integers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*integer"):
        policies.open("me_dlm", torch.full((1, 4), 2), mask_token_id=MASK, **{name: value})


@pytest.mark.parametrize(
    "policy, name, value, said",
    [
        ("wino", "shadow_logits", torch.zeros(1, 4, V + 1), r"must be \[1, 4, 8\], .*\[1, 4, 9\]"),
        ("wino", "shadow_logits", torch.zeros(1, 4), r"must be \[1, 4, 8\], .*got \[1, 4\]"),
        ("me_dlm", "next_logits", torch.zeros(1, 4, 20), r"must be \[1, 4, 8\], .*\[1, 4, 20\]"),
        ("self_correction", "draws", torch.zeros(1, 4), "draws must be int64 .*torch.float32"),
        ("self_correction", "draws", torch.full((1, 4), 99), "id 99, and there are 8"),
        ("self_correction", "draws", torch.full((1, 4), -1), "id -1, and there are 8"),
    ],
)
def test_what_a_step_is_given_fits_the_logits(policy, name, value, said):
    options = "" if policy != "me_dlm" else ":delete_token_id=5"
    state = policies.open(policy + options, torch.full((1, 4), MASK), mask_token_id=MASK)
    logits = torch.randn(1, 4, V, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=said):
        policies.step_(state, logits, **{name: value})


@pytest.mark.parametrize("policy", ["joint_threshold", "multi_block"])
def test_a_token_that_becomes_a_mask_is_a_remask(policy):
    """By the fused step as by the plain rule, which drawn tokens make it take."""
    logits = torch.eye(V)[MASK].expand(1, 3, V).contiguous() * 20
    for draws in (None, torch.full((1, 3), MASK)):
        ids = torch.tensor([[0, MASK, 2]])
        state = policies.open(policy, ids, mask_token_id=MASK, strict_reference=True)
        policies.step_(state, logits, draws=draws)
        assert state.ids.tolist() == [[MASK] * 3]
        assert (int(state.counts.remasks), int(state.counts.t2t_edits)) == (2, 0)
