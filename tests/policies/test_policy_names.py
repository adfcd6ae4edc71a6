"""Policies by name: what a text spells, what config options set, and what is refused."""

from dataclasses import dataclass

import pytest
import torch

from fastedit import DecodeConfig, policies
from fastedit.policies import POLICIES, JointThreshold, LowConfidence, Policy, Remask, parse


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("remask", Remask()),
        ("remask:trigger=t2t,tau=.9", Remask(trigger="t2t", tau=0.9)),
        (" remask : tau = 1 , cap = 2 ", Remask(tau=1.0, cap=2)),
        ("low_confidence:steps=none,threshold=1", LowConfidence(threshold=1.0)),
        ("low_confidence:steps=7,rank=entropy", LowConfidence(steps=7, rank="entropy")),
        ("joint_threshold:editing_threshold=None", JointThreshold(editing_threshold=None)),
        ("joint_threshold:threshold=1", JointThreshold(threshold=1.0)),
        ("joint_threshold:", JointThreshold()),
    ],
)
def test_a_text_spells_a_policy(text, policy):
    assert parse(text.replace(" : ", ":")) == policy
    assert DecodeConfig(policy=text.replace(" : ", ":")).rule() == policy


@pytest.mark.parametrize("policy", [kind() for kind in POLICIES.values()], ids=str)
def test_a_policy_is_what_its_text_spells(policy):
    assert parse(str(policy)) == policy and str(policy) == policy.name
    assert hash(parse(str(policy))) == hash(policy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("remsk", "remask"),
        ("remask:tua=1", "'tua'.*trigger, tau, cap"),
        ("remask:tau", "give tau=value"),
        ("remask:tau=1,tau=2", "give tau=value, once"),
        ("remask:tau=much", "tau is of type float, not 'much'"),
        ("remask:cap=1.5", "cap is of type int, not '1.5'"),
        ("remask:tau=-1", "tau must be a number from 0 to 1; got -1.0"),
        ("remask:share=2", "share must be a number from 0 to 1; got 2.0"),
        ("remask:trigger=never", "'low_prob', 't2t', 'logit_diff'; got 'never'"),
        ("remask:tau=none", "tau must be"),
        ("", "joint_threshold"),
    ],
)
def test_what_it_does_not_spell_is_named_with_what_there_is(text, words):
    with pytest.raises(ValueError, match=words):
        parse(text)
    with pytest.raises(ValueError, match=words):
        DecodeConfig(policy=text)


def test_options_set_the_fields_of_their_names():
    config = DecodeConfig(policy="remask:tau=.2", threshold=0.9, max_post_steps=3)
    assert config.rule() == Remask(tau=0.2, threshold=0.9, max_post_steps=3)
    assert DecodeConfig(policy="low_confidence", steps=4).rule() == LowConfidence(steps=4)
    assert DecodeConfig(steps=4).rule("low_confidence:threshold=1").threshold == 1.0
    # What is not given leaves the policy's own defaults alone.
    assert DecodeConfig(policy="low_confidence").rule() == LowConfidence(threshold=0.95)
    assert DecodeConfig().rule("low_confidence:threshold=.4").threshold == 0.4
    assert DecodeConfig.speed().rule() == JointThreshold(0.5, 0.0)
    assert DecodeConfig(editing_threshold=None).rule() == JointThreshold(editing_threshold=None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": Remask(), "threshold": 0.5}, "threshold cannot be given beside"),
        ({"policy": "low_confidence", "editing_threshold": 0.5}, "editing_threshold=0.5 is not"),
        ({"policy": "entropy_bound", "mode": "speed"}, "threshold=0.5 is not of policy"),
        ({"policy": "remask", "steps": 4}, "steps=4 is not of policy remask"),
        ({"policy": "remask:threshold=.4", "threshold": 0.5}, "disagree"),
    ],
)
def test_an_option_that_the_policy_does_not_have_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        DecodeConfig(**options)


def test_configs_are_equal_where_they_decode_alike():
    given = DecodeConfig(policy="low_confidence", threshold=0.7)
    assert given != DecodeConfig(policy="low_confidence")
    assert given == DecodeConfig(policy="low_confidence:threshold=.7", threshold=0.7)
    assert hash(given) != hash(DecodeConfig(policy="low_confidence"))
    assert DecodeConfig(policy=JointThreshold(), steps=4).rule() == JointThreshold()


def test_the_same_value_twice_is_no_contradiction():
    assert DecodeConfig(policy="remask:threshold=.5", threshold=0.5).rule().threshold == 0.5


@pytest.mark.parametrize(
    ("kind", "values"),
    {
        JointThreshold: {"threshold": [-1, None, "a", True], "max_post_steps": [-1, 0.5, None]},
        LowConfidence: {"steps": [0, 1.5], "rank": ["best", None, 1], "eps": [-1, 2]},
        Remask: {"cap": [-1, None], "share": [1.5, float("nan")], "trigger": [""]},
        policies.EntropyBound: {"steps": [0, None], "bound": [-0.1], "t_min": [0.9, float("inf")]},
    }.items(),
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parameters_out_of_range_are_named(kind, values):
    for name, wrong in values.items():
        for value in wrong:
            with pytest.raises(ValueError, match=f"{name} must be") as caught:
                kind(**{name: value})
            assert repr(value) in str(caught.value)


@pytest.mark.parametrize("kind", POLICIES.values(), ids=lambda kind: kind.name)
def test_what_is_compared_with_probabilities_is_one(kind):
    """1 is never: nothing is above it. What is larger is a mistake, such as 90 for 0.9."""
    known = ("threshold", "editing_threshold", "verify_threshold", "tau", "share", "eta", "top_p")
    for name in kind.parameters().keys() & {*known, "alpha_on", "t_on", "eps"}:
        assert getattr(kind(**{name: 1}), name) == 1.0
        for wrong in (1.5, 90, -0.1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match=f"{name} must be .*from 0 to 1; got"):
                kind(**{name: wrong})


def test_a_parameter_without_an_effect_is_told_where_a_caller_gives_it():
    """Of every policy: what it calls unread changes no decision."""
    given = {
        "low_confidence:schedule=dream": {"threshold": 0.2},
        "low_confidence": {"eps": 0.5},
        "confidence": {"factor": 0.3, "steps": 2},
        "confidence:rule=factor": {"threshold": 0.3, "steps": 2},
        "confidence:rule=schedule": {"threshold": 0.3, "quirk": True},
        "correction:mode=rank": {"budget": 9, "stride": 1, "tau": 0.1},
        "proseco:threshold=.3": {"steps": 2},
        "remdm": {"t_on": 0.9, "alpha_on": 0.2},
    }
    for text, unread in given.items():
        assert unread.keys() <= parse(text).unread()
        settings = ",".join(f"{name}={value}" for name, value in unread.items())
        both = text + (":" if ":" not in text else ",") + settings
        logits = torch.randn(5, 2, 6, 10, generator=torch.Generator().manual_seed(0)) * 3
        states = [policies.open(t, torch.full((2, 6), 9), mask_token_id=9) for t in (text, both)]
        for step in logits:
            for state in states:
                policies.step_(state, step)
        assert states[0].ids.equal(states[1].ids)
        assert DecodeConfig(policy=both).given_to(parse(both)) >= unread.keys()
        assert DecodeConfig(policy=parse(both)).given_to(parse(both)) >= unread.keys()
    assert not parse("low_confidence:schedule=even").unread() & {"threshold", "steps", "rank"}


def test_what_is_registered_has_to_be_a_policy_of_a_free_name():
    with pytest.raises(TypeError, match="derived from Policy"):
        policies.register("mine")(type("Mine", (), {}))
    with pytest.raises(TypeError, match="Soft must be frozen"):

        @policies.register("soft")
        @dataclass
        class Soft(Policy):
            pass

    with pytest.raises(TypeError, match=r"Open\.strength must have a default"):

        @policies.register("open_ended")
        @dataclass(frozen=True)
        class Open(Policy):
            strength: float

    assert not {"soft", "open_ended"} & POLICIES.keys()
    with pytest.raises(ValueError, match="'remask' already: Remask"):

        @policies.register("remask")
        @dataclass(frozen=True)
        class Other(Policy):
            pass

    assert POLICIES["remask"] is Remask


def test_a_registered_policy_is_found_and_its_plain_fields_are_parameters():
    try:

        @policies.register("plain_fields")
        @dataclass(frozen=True)
        class Mine(Policy):
            strength: float = 1.0
            count: int = 2
            sort: str = "best"
            careful: bool = False

        assert parse("plain_fields:strength=2,count=3,sort=worst,careful=true") == Mine(
            2.0, 3, "worst", True
        )
        assert Mine().static() == (Mine, "best", False)
    finally:
        POLICIES.pop("plain_fields", None)


def test_what_the_step_of_others_is_given_is_checked():
    ids = torch.full((2, 4), 9)
    with pytest.raises(ValueError, match="int64"):
        policies.open("remask", ids.int(), mask_token_id=9)
    with pytest.raises(ValueError, match=r"editable must be a tensor bool \[2, 4\]"):
        policies.open("remask", ids, ids[:1] > 0, mask_token_id=9)
    with pytest.raises(ValueError, match=r"editable must be .*got \[\[True"):
        policies.open("remask", ids, [[True] * 4] * 2, mask_token_id=9)
    with pytest.raises(TypeError, match="mask_token_id must be an integer; got None"):
        policies.open("remask", ids)
    with pytest.raises(TypeError, match=r"seed must be an integer; got \[1, 2\]"):
        policies.open("remask", ids, None, 9, [1, 2])
    for start in (1.5, torch.tensor([1, 2, 3])):
        with pytest.raises(ValueError, match=r"start must be one integer, or integers \[2\]"):
            policies.open("remask", ids, None, 9, 0, start)
    with pytest.raises(ValueError, match="joint_threshold"):
        policies.open("nothing", ids, mask_token_id=9)
    with pytest.raises(TypeError, match="policy must be a policy or its text; got 3"):
        policies.open(3, ids, mask_token_id=9)
    with pytest.raises(ValueError, match="temperature must be"):
        policies.open("remask", ids, mask_token_id=9, temperature=-1)
    state = policies.open("joint_threshold", ids, mask_token_id=9)
    with pytest.raises(ValueError, match="joint_threshold needs logits"):
        policies.step_(state, None)
    policies.step_(state, torch.randn(2, 4, 10))
    assert ids.eq(9).all() and state.counts.forwards.tolist() == [1, 1]
    assert set(state.buffers) == {"post_steps"}
    with pytest.raises(ValueError, match=r"ids must be int64 \[2, 3\] to match logits"):
        policies.step_(state, torch.randn(2, 3, 10))
    other = policies.open("low_confidence", ids, mask_token_id=9)  # it has no fused step
    with pytest.raises(ValueError, match=r"logits must be \[2, 4, ...\].*got \[2, 3, 10\]"):
        policies.step_(other, torch.randn(2, 3, 10))
    with pytest.raises(ValueError, match=r"draws must be \[2, 4, ...\]"):
        policies.step_(state, torch.randn(2, 4, 10), draws=ids[:1])
    with pytest.raises(AttributeError, match=r"no 'nothing' here; there are forwards"):
        _ = state.counts.nothing


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"needs": frozenset({"logitz"})}, "needs.*logitz.*entropy"),
        ({"needs": "entropy"}, "a set of"),
        ({"plan": "tree"}, "plan 'tree'; it is block or shadow or window"),
        ({"most_forwards": lambda self, length: 0}, "most_forwards.*got 0"),
    ],
)
def test_what_a_policy_says_of_itself_is_checked(wrong, words):
    kind = dataclass(frozen=True)(type("Wrong", (LowConfidence,), wrong))
    with pytest.raises(ValueError, match=words):
        policies.open(kind(), torch.full((1, 4), 9), mask_token_id=9)


def test_scores_and_the_statistics_of_a_second_head_reach_the_rule():
    seen = []

    @dataclass(frozen=True)
    class Headed(LowConfidence):
        needs = frozenset({"score", "next_token"})

        def rule(self, stats, view):
            seen.append((stats.scores, stats.following.token))
            return super().rule(stats, view)

    state = policies.open(Headed(), torch.full((2, 4), 9), mask_token_id=9)
    logits, scores = torch.randn(2, 4, 10), torch.rand(2, 4)
    with pytest.raises(ValueError, match="Headed needs scores"):
        policies.step_(state, logits)
    with pytest.raises(ValueError, match="Headed needs next_logits"):
        policies.step_(state, logits, scores)
    for wrong in (scores.tolist(), scores[..., None], scores[:, :2], scores.int()):
        with pytest.raises(ValueError, match="scores must be"):
            policies.step_(state, logits, wrong, -logits)
    policies.step_(state, logits, scores, -logits)
    # The mask is chosen by no head.
    assert seen[0][0] is scores and seen[0][1].equal((-logits)[..., :9].argmax(-1))
    policies.step_(state, logits, scores.double(), -logits)
    assert seen[1][0].equal(scores)
