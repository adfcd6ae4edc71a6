"""The settings of a policy that a search may try, as its parameters declare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from random import Random
from typing import Any, NamedTuple

from fastedit.policies import Policy
from fastedit.policies.fields import Parameter

DIGITS = 3  # of real numbers, so that a setting can be read and typed
_TRIES = 200


class Space(NamedTuple):
    """Settings that differ from `base` in the parameters `searched` at most."""

    base: Policy
    searched: dict[str, Parameter]

    @classmethod
    def of(cls, base: Policy, fixed: Collection[str] = ()) -> Space:
        """All parameters of `base` that declare what to try, but those in `fixed`.

        Raises ValueError where none is left.
        """
        known = base.parameters()
        searched = {
            name: parameter
            for name, parameter in known.items()
            if name not in fixed and (parameter.span or len(parameter.values) > 1)
        }
        if not searched:
            given = f", and {', '.join(fixed)} given" if fixed else ""
            raise ValueError(
                f"policy {base} leaves nothing to search: its parameters are "
                f"{', '.join(known) or 'none'}{given}"
            )
        return cls(base, searched)

    def draw(
        self, generator: Random, around: Policy | None, fits: Callable[[Policy], bool]
    ) -> Policy | None:
        """A setting that `fits`: drawn anew, or that of `around` but for one parameter.

        None where none was found in many tries.
        """
        for _ in range(_TRIES):
            names = list(self.searched) if around is None else [generator.choice([*self.searched])]
            values = {name: _drawn(self.searched[name], generator) for name in names}
            try:
                policy = dataclasses.replace(around or self.base, **values)  # type: ignore[type-var]
            except ValueError:  # two parameters that do not go together
                continue
            if fits(policy):
                return policy
        return None

    def words(self) -> dict[str, str]:
        """What is tried of each parameter, to be read."""
        return {name: _words(parameter) for name, parameter in self.searched.items()}


def _drawn(parameter: Parameter, generator: Random) -> Any:
    """From the span, or now and then one of the values that stand beside it."""
    if parameter.span is None or (parameter.values and generator.random() < 0.25):
        return generator.choice(parameter.values)
    low, high = parameter.span
    if parameter.type is int:
        return generator.randint(int(low), int(high))
    return min(max(round(generator.uniform(low, high), DIGITS), low), high)


def _words(parameter: Parameter) -> str:
    values = [str(value) for value in parameter.values]
    if parameter.span:
        low, high = parameter.span
        values.insert(0, f"{low:g} to {high:g}")
    return " or ".join(values)
