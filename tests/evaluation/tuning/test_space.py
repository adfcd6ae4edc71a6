"""What a search may try of a policy follows from how its parameters are declared."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from fastedit.evaluation.tuning.space import Space
from fastedit.policies import POLICIES, Policy, Remask, ReMDM, Saber, parse
from fastedit.policies.fields import choice, integer, number


@pytest.mark.parametrize("name", list(POLICIES))
def test_settings_of_every_policy_are_legal_differ_and_can_be_typed(name):
    base = parse(name)
    space, generator = Space.of(base), Random(0)
    drawn = [space.draw(generator, None, lambda policy: True) for _ in range(40)]
    assert all(parse(str(policy)) == policy for policy in drawn)
    for field in space.searched:
        assert len({getattr(policy, field) for policy in drawn}) > 1, field
    for around in drawn[:10]:
        other = space.draw(generator, around, lambda policy: True)
        assert sum(getattr(other, f) != getattr(around, f) for f in space.searched) <= 1


def test_what_is_given_stays():
    base = Remask(trigger="t2t", tau=0.8)
    space = Space.of(base, ["trigger", "tau"])
    for seed in range(20):
        drawn = space.draw(Random(seed), None, lambda policy: True)
        assert (drawn.trigger, drawn.tau) == ("t2t", 0.8)
    with pytest.raises(ValueError, match=r"nothing to search.*least, mu, scope"):
        Space.of(Saber(), ["least", "mu", "scope"])


def test_parameters_that_do_not_go_together_are_drawn_again():
    space = Space.of(ReMDM(variant="loop"), ["variant"])
    drawn = [space.draw(Random(seed), None, lambda policy: True) for seed in range(50)]
    assert all(policy.t_off <= policy.t_on for policy in drawn)


def test_declared_spans_are_kept_to_and_a_plain_field_is_left_alone():
    @dataclass(frozen=True)
    class Mine(Policy):
        share: float = number(2.0, least=1.0)
        wide: float = number(0.0, span=(0.0, 9.0))
        few: int = integer(10, most=12)
        count: int | None = integer(None, least=1, optional=True, span=(3, 5))
        flag: bool = choice(False, True)
        plain: float = 0.5

    space = Space.of(Mine())
    assert space.words() == {
        "share": "1 to 2",
        "wide": "0 to 9",
        "few": "0 to 12",
        "count": "3 to 5 or None",
        "flag": "False or True",
    }
    drawn = [space.draw(Random(seed), None, lambda policy: True) for seed in range(99)]
    assert {policy.plain for policy in drawn} == {0.5}
    assert {policy.count for policy in drawn} == {3, 4, 5, None}
    assert all(1 <= p.share <= 2 and 0 <= p.wide <= 9 and 0 <= p.few <= 12 for p in drawn)
    assert max(p.wide for p in drawn) > 8 and {p.flag for p in drawn} == {False, True}
    assert space.draw(Random(0), None, lambda policy: False) is None
