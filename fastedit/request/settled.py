"""What follows from the settings of a request, looked up once for all that have the same."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from fastedit.config import DecodeConfig
from fastedit.heads import CorrectionHead, Head, NextTokenHead
from fastedit.models.families import NEXT_HEAD, NEXT_LOGITS, Family
from fastedit.policies import Policy
from fastedit.policies.declared import bound_of, check_declared
from fastedit.prompts.stops import Stops
from fastedit.prompts.tokens import id_of, resolve_eos, resolve_mask, vocab_size

# Settings that are kept while prompts are read.
SETTINGS = 256


class Settled:
    """Rules, masks, ends and stop texts by config: a tokenizer may take long to tell its special
    tokens. Of configs without end, the first are forgotten.
    """

    def __init__(
        self, model: Any, tokenizer: Any, family: Family, head: Head | None = None
    ) -> None:
        self.model, self.tokenizer, self.family, self.head = model, tokenizer, family, head
        # By identity: equal configs may differ in what they leave to the family's policy.
        self._rules: dict[int, tuple[DecodeConfig, Policy, int]] = {}
        self._masks: dict[int | None, int] = {}  # by what was asked for
        self._ends: dict[Any, frozenset[int]] = {}
        self._stops: dict[Any, Stops | None] = {}

    def rule_and_mask(self, config: DecodeConfig) -> tuple[Policy, int]:
        """Raises ValueError for what does not go together."""
        if id(config) not in self._rules:
            rule = _with_ids(rule_of(config, self.family), config, self.model, self.tokenizer)
            check_declared(rule)
            bound_of(rule, config.block_length)
            _check_together(config, rule, self.family, vocab_size(self.model))
            if "score" in rule.needs:
                _check_scores(config, rule, self.head)
            if rule.variable:
                _check_variable(config, rule, self.family)
            if "next_token" in rule.needs:
                _check_next(rule, self.model, self.head)
            asked = config.mask_token_id
            if asked not in self._masks:
                mask = mask_of(config, self.model, self.tokenizer, self.family)
                _keep(self._masks, asked, mask)
            _check_ids(rule, self._masks[asked], vocab_size(self.model))
            _keep(self._rules, id(config), (config, rule, self._masks[asked]))
        _, rule, mask = self._rules[id(config)]
        return rule, mask

    def eos(self, config: DecodeConfig, mask: int) -> frozenset[int]:
        key = _hashable(config.eos_token_id), mask
        if key not in self._ends:
            _keep(self._ends, key, _ends(config, self.model, self.tokenizer, mask))
        return self._ends[key]

    def stops(self, config: DecodeConfig) -> Stops | None:
        key = _hashable(config.stop)
        if key not in self._stops:
            _keep(self._stops, key, _stops(config, self.tokenizer))
        return self._stops[key]


def mask_of(config: DecodeConfig, model: Any, tokenizer: Any, family: Family) -> int:
    """The mask of a request; see `tokens.resolve_mask`."""
    given = config.mask_token_id
    return resolve_mask(family.mask_token_id if given is None else given, model, tokenizer)


def _keep(known: dict[Any, Any], key: Any, value: Any) -> None:
    if len(known) >= SETTINGS:
        del known[next(iter(known))]
    known[key] = value


def rule_of(config: DecodeConfig, family: Family) -> Policy:
    """The policy that `config` has for models of `family`, as it decodes.

    Raises ValueError for options that the policy does not have.
    """
    # Where every forward computes all positions, any of them may change.
    whole = family.attention == "full" and not config.approximate
    return config.rule(family.policy).within(whole)


def _with_ids(rule: Policy, config: DecodeConfig, model: Any, tokenizer: Any) -> Policy:
    """`rule` with the ids that it leaves open and that `config`, the model's own one or the
    tokenizer names, in this order."""
    found: dict[str, int | None] = {}
    for name, parameter in rule.parameters().items():
        if not parameter.keys or getattr(rule, name) is not None:
            continue
        owners = getattr(model, "config", None), tokenizer
        named = [getattr(owner, key, None) for owner in owners for key in parameter.keys]
        if parameter.text is not None:
            named.append(id_of(tokenizer, parameter.text))
        for key in filter(config.gives, parameter.keys):
            named.insert(0, getattr(config, key))
        value = next((value for value in named if value is not None), None)
        if isinstance(value, (list, tuple)):  # several may end a text, and one is written
            value = value[0] if value else None
        found[name] = value
    return dataclasses.replace(rule, **found) if found else rule  # type: ignore[type-var]


def _check_ids(rule: Policy, mask: int, vocab: int | None) -> None:
    """Raises ValueError for a model that has no such ids, and for one that is the mask."""
    beyond = [token for token in rule.control_ids if vocab is not None and token >= vocab]
    if beyond:
        names = (name for name, parameter in rule.parameters().items() if parameter.keys)
        raise ValueError(
            f"policy {rule} needs a model trained {rule.needs_training}: this one has {vocab} ids, "
            f"and no {beyond[0]}. Where it has others for that, give {', '.join(names)}"
        )
    if mask in rule.control_ids:
        raise ValueError(f"id {mask} is both the mask token and a control id of policy {rule}")
    for name, token in rule.named_ids().items():
        if token == mask:
            raise ValueError(
                f"id {mask} is both the mask token and {name}: give the policy another"
            )
        if vocab is not None and token >= vocab:
            raise ValueError(
                f"{name}={token} of policy {rule} is no id of this model, which has {vocab}: give "
                f"the policy a {name} below"
            )


def _check_together(config: DecodeConfig, rule: Policy, family: Family, vocab: int | None) -> None:
    """Raises ValueError for options, a rule and a model that do not go together."""
    if config.steps is not None and "steps" not in rule.parameters():
        warnings.warn(
            f"steps={config.steps} has no effect in LLaDA2.1 decoding: the thresholds say how many "
            "forwards a block takes",
            stacklevel=6,
        )
    unread = sorted(config.given_to(rule) & rule.unread())
    if unread:
        warnings.warn(
            f"policy {rule}: {', '.join(unread)} has no effect beside its other parameters: leave "
            "it out, or change them (docs/policies.md)",
            stacklevel=6,
        )
    if config.temperature > 0.0 and "editing_threshold" in rule.parameters():
        warnings.warn(
            "temperature > 0 draws anew at every forward, so blocks keep changing until "
            "max_post_steps",
            stacklevel=6,
        )
    if config.temperature > 0.0 and type(rule).heat is not Policy.heat:
        raise ValueError(
            f"policy {rule} has temperatures of its own; leave temperature={config.temperature} out"
        )
    if config.top_p is not None and type(rule).nucleus is not Policy.nucleus:
        raise ValueError(
            f"policy {rule} has a top_p of its own; set it there and leave top_p={config.top_p} out"
        )
    if rule.noise and vocab is None:
        raise ValueError(
            f"policy {rule} starts from random ids and has to know how many there are: give the "
            "model a config with vocab_size"
        )
    if rule.noise and config.strict_reference:
        raise ValueError(
            f"strict_reference is for rules that fill masks; policy {rule} starts from random ids"
        )
    if rule.wide and (config.approximate or (config.use_cache and family.exact_cache)):
        raise ValueError(
            f"policy {rule} writes to earlier blocks, whose keys and values are cached: set "
            'cache="none" or scope="block"'
        )
    if config.approximate and family.attention != "full":
        raise ValueError(
            f'cache="{config.cache}" is an approximation for models with full attention; this one '
            'is block-causal: use cache="exact"'
        )
    if config.approximate and rule.window > 1:
        raise ValueError(
            f"policy {rule} reopens blocks, which forwards under cache={config.cache!r} do not "
            'compute: use cache="none"'
        )
    if family.shift and rule.plan == "shadow":
        raise ValueError(f"policy {rule} needs shadows, which a model with shift=1 does not have")


def _check_variable(config: DecodeConfig, rule: Policy, family: Family) -> None:
    """Raises ValueError where sequences cannot shrink and grow."""
    if family.attention != "full" or family.shift:
        raise ValueError(
            f"policy {rule} moves tokens of the whole text, and needs a model with full attention "
            f"and no shift; this one has attention={family.attention!r} and shift={family.shift}"
        )
    if config.approximate:
        raise ValueError(
            f"policy {rule} moves tokens, whose keys and values cache={config.cache!r} would keep: "
            'use cache="exact"'
        )
    if config.strict_reference:
        raise ValueError(
            f"strict_reference lets the mask be chosen, which policy {rule} would never fill: "
            "leave it out"
        )


def _check_next(rule: Policy, model: Any, head: Head | None) -> None:
    """Raises ValueError for a model that certainly says nothing of the next token."""
    from transformers import PreTrainedModel

    says = isinstance(head, NextTokenHead) or hasattr(model, NEXT_HEAD)
    if not says and isinstance(model, PreTrainedModel) and not getattr(model, NEXT_LOGITS, False):
        raise ValueError(
            f"policy {rule} needs a second head, which predicts the next token, and there is none: "
            "give Decoder(..., head=...) a NextTokenHead that was trained on this model"
        )


def _check_scores(config: DecodeConfig, rule: Policy, head: Head | None) -> None:
    """Raises ValueError where there are none."""
    if not isinstance(head, CorrectionHead):
        raise ValueError(
            f"policy {rule} needs the scores of a correction head, and there is none: give "
            "Decoder(..., head=...), or --head, a head that was trained on this model, or take "
            "scorer=confidence, which needs none"
        )
    if config.approximate:
        raise ValueError(
            f"policy {rule} needs scores from hidden states of all positions, which forwards under "
            f'cache={config.cache!r} do not compute: use cache="exact"'
        )
    if rule.window > 1:
        raise ValueError(f"policy {rule} reopens blocks, for which there are no scores")


def _ends(config: DecodeConfig, model: Any, tokenizer: Any, mask: int) -> frozenset[int]:
    eos = resolve_eos(config.eos_token_id, model, tokenizer)
    if mask in eos:
        raise ValueError(f"id {mask} is both the mask token and an EOS: set eos_token_id")
    return eos


def _stops(config: DecodeConfig, tokenizer: Any) -> Stops | None:
    texts = [config.stop] if isinstance(config.stop, str) else config.stop or []
    if texts and tokenizer is None:
        raise ValueError("stop texts need a tokenizer; use eos_token_id for ids")
    return Stops(tokenizer, texts) if tokenizer is not None else None


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
