"""Policies by name: `register` adds one, `parse` reads `name:field=value,...`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from fastedit.aliases import ALIASES
from fastedit.policies.base import Policy
from fastedit.policies.fields import from_text

# Every policy by its name; `register` adds one.
POLICIES: dict[str, type[Policy]] = {}


def register(name: str) -> Callable[[type[Policy]], type[Policy]]:
    """Decorates a policy: `policy="name:field=value"` finds it from then on.

    The class has to be a frozen dataclass derived from `Policy`, with defaults for all fields.
    Raises ValueError for a name that is taken, and TypeError for another kind of class.
    """

    def add(policy: type[Policy]) -> type[Policy]:
        if not (dataclasses.is_dataclass(policy) and issubclass(policy, Policy)):
            raise TypeError(f"{policy.__name__} must be a dataclass derived from Policy")
        if not policy.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(f"{policy.__name__} must be frozen: @dataclass(frozen=True)")
        for field in dataclasses.fields(policy):
            if field.default is dataclasses.MISSING:
                raise TypeError(f"{policy.__name__}.{field.name} must have a default")
        before = POLICIES.get(name, policy)  # the same class may come again, by a reload
        if (before.__module__, before.__qualname__) != (policy.__module__, policy.__qualname__):
            raise ValueError(f"there is a policy {name!r} already: {before.__name__}")
        policy.name = name
        POLICIES[name] = policy
        return policy

    return add


def parse(text: str) -> Policy:
    """The policy that `name:field=value,...` names; a bare name has the defaults.

    Values are read as their field's type, `none` as None. Raises ValueError for an unknown name or
    field, with the known ones, and for values out of range.
    """
    name, _, settings = str(text).strip().partition(":")
    if name not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(sorted(POLICIES))}; got {text!r}")
    kind = POLICIES[name]
    known = kind.parameters()
    values: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        field, equals, value = (part.strip() for part in setting.partition("="))
        name_of_alias = ALIASES.get(field)
        if field not in known and name_of_alias in known:
            field = name_of_alias
        if field not in known:
            raise ValueError(
                f"policy {text!r}: {name} has no {field!r}; its parameters are {', '.join(known)}"
            )
        if not equals or field in values:
            raise ValueError(f"policy {text!r}: give {field}=value, once, and commas between them")
        try:
            values[field] = from_text(value, known[field])
        except ValueError:
            wanted = known[field].type.__name__
            raise ValueError(
                f"policy {text!r}: {field} is of type {wanted}, not {value!r}"
            ) from None
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"policy {text!r}: {error}") from None


def given_in(text: str) -> list[str]:
    """Names of the fields that the text of a policy sets."""
    return [ALIASES.get(name, name) for name in re.findall(r"[:,]\s*(\w+)\s*=", text)]
