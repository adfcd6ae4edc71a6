"""`DecodeConfig`: how to decode, validated before any model call."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fastedit.aliases import ALIASES
from fastedit.option_checks import APPROXIMATE, CHECKS, flag
from fastedit.policies import Policy, parse
from fastedit.policies.fields import checked
from fastedit.policies.registry import given_in

MODES = {
    "quality": {"threshold": 0.7, "editing_threshold": 0.5},
    "speed": {"threshold": 0.5, "editing_threshold": 0.0},
}
# Options that set the field of their name of the policy, where they are given.
OF_THE_POLICY = ("threshold", "editing_threshold", "max_post_steps", "num_to_transfer", "steps")
# Accepted because released code passes it; it has no effect in the released 2.1 loop.
IGNORED = ("minimal_topk",)
# What a policy that is not given is: the rule of LLaDA2.x, unless the model's family has another.
DEFAULT_POLICY = "joint_threshold"


class UnknownOptionError(TypeError, ValueError):
    """A name that `DecodeConfig` does not know."""


@dataclass(frozen=True, init=False)
class DecodeConfig:
    """How to decode. Immutable; `replace` gives a changed copy.

    policy             decision rule: an object of `fastedit.policies`, or `name:field=value,...`;
                       None: the one that the model's family was released with
    threshold          masks with a confidence above it commit (strict)
    editing_threshold  tokens whose rival has a confidence above it are replaced; None = off,
                       0.0 = every change
    max_post_steps     forwards that a block may take once it has no mask
    num_to_transfer    least number of commits per forward, as long as there are masks
    steps              forwards of a block's schedule, of policies that have one. These five set the
                       field of their name of the policy, where they are given
    block_length       tokens per block; where it is not given, the `block_size` of the model's
                       config, else 32. Another one than the model's brings a warning
    max_new_tokens     generated tokens per request at most
    temperature        0.0 = greedy, then top_p and top_k have no effect
    seed               int: the same for every request; list: one per request; None: fresh ones
    eos_token_id       id or ids; None: those of the model and tokenizer
    eos_early_stop     stop after the block that holds an EOS
    stop               text or texts that end a generation
    mask_token_id      None: from the model's config, then from the tokenizer
    strict_reference   let the mask token be chosen, as the released loop does; draws stay ours
    cache              "exact": what can be kept without changing a result, so nothing with full
                       attention; "none" to recompute everything at every forward; "prefix" or
                       "dual", Fast-dLLM's approximate caches, for models with full attention:
                       results may differ from the exact ones
    lookahead          a forward over a block that has no mask left takes the next block along,
                       and is that block's first one if it changes nothing: the same rule with
                       fewer forwards, most of all for few requests. The model must take two
                       blocks at once; without a cache it has no effect
    cuda_graphs        on CUDA, replay steps from graphs, captured as they are needed; not with
                       lookahead, drafts, without a cache or for a model over several devices

    Other spellings: gen_length, max_tokens and max_completion_tokens, block_size, edit_threshold,
    max_post_edit_steps, mask_id, eos_id; `use_cache=False` is cache="none";
    `mode="quality" | "speed"` sets both thresholds. `minimal_topk` is ignored with a warning, as is
    `steps` by the rule of LLaDA2.1. Raises UnknownOptionError (a TypeError and ValueError) for any
    other name and ValueError for values out of range, or that the policy does not have.
    """

    threshold: float = 0.7
    editing_threshold: float | None = 0.5
    max_post_steps: int = 16
    num_to_transfer: int = 1
    steps: int | None = None
    block_length: int = 32
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    eos_early_stop: bool = True
    stop: str | list[str] | None = None
    mask_token_id: int | None = None
    policy: str | Policy | None = None
    strict_reference: bool = False
    cache: str = "exact"
    lookahead: bool = False
    cuda_graphs: bool = True

    _given: ClassVar[frozenset[str]]  # of each instance: the fields that were given

    def __init__(self, **options: Any) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(type(self))}
        given = _normalise(options)
        for name, value in (defaults | given).items():
            check = CHECKS.get(name)
            object.__setattr__(self, name, checked(name, value, check) if check else value)
        object.__setattr__(self, "_given", frozenset(given))
        if self.policy is not None:
            self.rule()

    def __repr__(self) -> str:
        """What was given, and how many tokens; the rule of the model's family where none was."""
        given = {name: getattr(self, name) for name in (f.name for f in dataclasses.fields(self))}
        given = {name: value for name, value in given.items() if self.gives(name)}
        policy = given.pop("policy", None)
        first = "policy=<the family's>" if policy is None else f"policy={str(policy)!r}"
        given = {"max_new_tokens": self.max_new_tokens} | given
        return f"DecodeConfig({', '.join([first, *(f'{n}={v!r}' for n, v in given.items())])})"

    def _values(self) -> tuple[Any, ...]:
        """What decoding LLaDA2.x follows: a block length that is not given is the model's."""
        rule = None if self.policy is None else self.rule()
        covered = ("policy", *OF_THE_POLICY) if rule else ()
        names = (field.name for field in dataclasses.fields(self) if field.name not in covered)
        values = (getattr(self, name) for name in names)
        hashable = (tuple(v) if isinstance(v, list) else v for v in values)
        return *hashable, self.gives("block_length"), rule

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DecodeConfig) and self._values() == other._values()

    def __hash__(self) -> int:
        """Equal configs have equal hashes, lists among their values or not."""
        return hash(self._values())

    @classmethod
    def quality(cls, **options: Any) -> DecodeConfig:
        """Threshold 0.7, editing threshold 0.5: the default."""
        return cls(mode="quality", **options)

    @classmethod
    def speed(cls, **options: Any) -> DecodeConfig:
        """Threshold 0.5, editing threshold 0.0: more tokens per forward, more edits."""
        return cls(mode="speed", **options)

    def replace(self, **options: Any) -> DecodeConfig:
        """A copy with these options changed; takes every spelling the constructor takes."""
        current = {name: getattr(self, name) for name in self._given}
        return DecodeConfig(**(current | _normalise(options)))

    @property
    def use_cache(self) -> bool:
        return self.cache != "none"

    @property
    def approximate(self) -> bool:
        """Whether results may differ from those without a cache."""
        return self.cache in APPROXIMATE

    def rule(self, default: str = DEFAULT_POLICY) -> Policy:
        """The policy with what this config sets of it; `default` is that of the model's family.

        The rule of LLaDA2.1 ignores `steps`, as released. Raises ValueError for an option that the
        policy does not have, that is given beside a policy object, or that a policy given as a text
        sets to another value; what only the default sets gives way.
        """
        given = {name: getattr(self, name) for name in OF_THE_POLICY if self.gives(name)}
        if given.get("steps", 0) is None:
            del given["steps"]
        if isinstance(self.policy, Policy):
            if self.policy.name == DEFAULT_POLICY:
                given.pop("steps", None)
            if given:
                raise ValueError(
                    f"{', '.join(given)} cannot be given beside the policy object {self.policy}: "
                    "set it in the policy"
                )
            return self.policy
        text = default if self.policy is None else self.policy
        policy = parse(text)
        known, spelled = policy.parameters(), given_in(self.policy or "")
        if policy.name == DEFAULT_POLICY:
            given.pop("steps", None)
        for name, value in given.items():
            if name not in known:
                raise ValueError(
                    f"{name}={value!r} is not of policy {policy.name}, whose parameters are "
                    f"{', '.join(known)}: leave it out (a mode sets both thresholds), or choose "
                    "another policy"
                )
            if name in spelled and getattr(policy, name) != value:
                raise ValueError(f"policy={text!r} and {name}={value!r} disagree: give one of them")
        return dataclasses.replace(policy, **given)  # type: ignore[type-var]

    def given_to(self, rule: Policy) -> set[str]:
        """Parameters of `rule`, the policy of this config, that it or its caller set."""
        if isinstance(self.policy, Policy):
            fields = dataclasses.fields(self.policy)  # type: ignore[arg-type]
            return {f.name for f in fields if getattr(self.policy, f.name) != f.default}
        named = {name for name in OF_THE_POLICY if self.gives(name)}
        return (named | set(given_in(self.policy or ""))) & rule.parameters().keys()

    def gives(self, name: str) -> bool:
        """Whether the field `name` was given, and is not merely its default."""
        return name in self._given


@functools.cache
def option_names() -> frozenset[str]:
    """Every name that `DecodeConfig` takes."""
    fields = (field.name for field in dataclasses.fields(DecodeConfig))
    return frozenset([*fields, *ALIASES, *IGNORED, "mode", "use_cache"])


def _normalise(options: Mapping[str, Any]) -> dict[str, Any]:
    """Aliases, presets and ignored names -> field names. Two spellings must agree."""
    known = {field.name for field in dataclasses.fields(DecodeConfig)}
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in options.items():
        field = ALIASES.get(name, name)
        if name in IGNORED:
            continue
        if name == "use_cache":
            field, value = "cache", "exact" if checked(name, value, flag) else "none"
        if name == "mode":
            if value is not None and value not in MODES:
                raise ValueError(f"mode must be one of {', '.join(MODES)}; got {value!r}")
        elif field not in known:
            near = difflib.get_close_matches(name, option_names(), n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            names = ", ".join(sorted({*known, "mode"}))
            raise UnknownOptionError(f"unknown decoding option {name!r}; {hint}known: {names}")
        elif field in values and values[field] != value:
            raise ValueError(
                f"{spelled[field]}={options[spelled[field]]!r} and {name}={options[name]!r} are "
                "the same option: give one of them"
            )
        else:
            values[field], spelled[field] = value, name
    ignored = [name for name in IGNORED if options.get(name) is not None]
    if ignored:
        warnings.warn(f"no effect in LLaDA2.1 decoding: {', '.join(ignored)}", stacklevel=4)
    return MODES.get(options.get("mode") or "", {}) | values
