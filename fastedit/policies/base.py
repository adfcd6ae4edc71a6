"""What a decision rule is: its parameters, what it promises, and the rule itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastedit.policies.fields import Parameter, checked, parameter_of
from fastedit.policies.values import Buffer, Stats, View, Write

NEEDS = frozenset(
    {"current", "entropy", "top_k", "outside", "sample", "logit", "score", "next_token"}
)
PLANS = ("block", "shadow", "window")
# What a fused step does in its own way.
DECISION = frozenset({"rule", "decide", "heat", "nucleus", "bad"})


class Policy:
    """A decision rule. Subclasses are frozen dataclasses whose fields are the parameters.

    Fields that are strings or flags are static: read them from `self`. The others have one value
    per request, on the device: read them from `view.parameters`, tensors [n].

    needs    of "current", "entropy", "top_k", "outside", "sample", "logit", "score", "next_token":
             what `Stats` must hold; whatever is not named costs nothing
    ranks    how many best tokens "top_k" stands for
    buffers  what is kept of a block, by name
    plan     which rows a forward takes: "block"; "shadow" (the block and, for each of its
             positions, a row that sees a mask there); or "window" (the block and, where a rule
             reopens them, those before it)
    window   of that plan: blocks that are reopened together, the active one last; they see each
             other then
    judges_tokens  whether tokens may change as well as masks; where False, the logits of a position
             that holds a token are not read, and do not matter if they are bad
    reads_tokens  whether the rule looks at the statistics of positions that hold a token; where
             False, their logits are not read either, but for those of shadow rows
    noise    whether blocks start from random ids, so that it has to be known how many there are
    wide     whether a decision may write all generated positions up to the end of the active block,
             and not only those of the block. Statistics and buffers are then of all of them, with
             those behind the block, which may not change yet
    rewrites  whether it inserts and deletes: whether there may be `keep` and `insert` in a `Write`
    chooses_mask  whether the mask is among the ids to choose from; the rule sees to it that a block
             which is done has none
    variable  whether sequences shrink and grow, as tokens are deleted and inserted: then there is
             one block, of all that is generated behind the last token of the prompt, and every
             forward computes everything
    fills    whether the rule may fill masks for `correction`: it needs no rows but those of its
             block, shows the model what is held, and says itself when a block is done
    stateless  whether a greedy decision depends on nothing but the ids while a mask is left
    needs_training  what a model has to have been trained for beyond filling masks, as the end of "a
             model trained ..."; None: nothing
    may_reach_bound  whether a block may take `bound` forwards: then the last of them fills what
             masks are left, and the request counts as capped. A block that takes more forwards
             without this flag is a bug of the policy, and fails its request
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    ranks: ClassVar[int] = 2
    buffers: ClassVar[Mapping[str, Buffer]] = {}
    plan: ClassVar[str] = "block"
    window: ClassVar[int] = 1
    judges_tokens: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = True
    noise: ClassVar[bool] = False
    wide: ClassVar[bool] = False
    rewrites: ClassVar[bool] = False
    chooses_mask: ClassVar[bool] = False
    variable: ClassVar[bool] = False
    fills: ClassVar[bool] = False
    stateless: ClassVar[bool] = False
    needs_training: ClassVar[str | None] = None
    may_reach_bound: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        own = vars(cls)
        cls.name = own.get("name", "")  # not that of a registered rule it derives from
        if "twin" not in own and not DECISION.isdisjoint(own):
            cls.twin = Policy.twin  # type: ignore[method-assign]  # nor what decides as that does

    def __post_init__(self) -> None:
        for name, parameter in self.parameters().items():
            object.__setattr__(self, name, checked(name, getattr(self, name), parameter.check))

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """What each parameter takes, by name."""
        return {field.name: parameter_of(field) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    def static(self) -> tuple[Any, ...]:
        """What requests that decode together must share: the rule and its static parameters."""
        fixed = (name for name, what in self.parameters().items() if what.dtype is None)
        return type(self), *(getattr(self, name) for name in fixed)

    def unread(self) -> frozenset[str]:
        """Parameters without an effect, as the others are: a caller who gives one is told so."""
        return frozenset()

    def on_device(self) -> dict[str, tuple[Parameter, Any]]:
        """Parameters with one value per request, and the values; by the name that a view has."""
        named = self.parameters().items()
        return {name: (what, getattr(self, name)) for name, what in named if what.dtype is not None}

    def within(self, full: bool) -> Policy:
        """This policy where all positions see each other in every forward (`full`), or do not."""
        return self

    @property
    def control_ids(self) -> tuple[int, ...]:
        """Ids that stand for what is to be done with a position, and for no text."""
        return ()

    def named_ids(self) -> dict[str, int]:
        """The token ids among its parameters, by the parameter."""
        named = (name for name, parameter in self.parameters().items() if parameter.keys)
        values = ((name, getattr(self, name)) for name in named)
        return {name: value for name, value in values if value is not None}

    def sized(self, masks: int, most: int) -> Policy:
        """This policy for a text that begins with so many masks and may become `most` tokens long,
        its prompt included."""
        return self

    def drafted(self, draft: Tensor) -> Tensor:
        """What a text [D] is to begin with that is given as a draft."""
        return draft

    def open(self, view: View) -> Tensor:
        """Ids [n, L] of fresh blocks: masks, unless a policy starts from something else."""
        return torch.full_like(view.ids, view.mask_token_id)

    def shown(self, view: View) -> Tensor:
        """Ids [n, L] that the next forward takes, where a policy tries others than are held.

        The decision that finishes a block changes ids, or was shown those that are held.
        """
        return view.ids

    @property
    def reopens(self) -> bool:
        """Whether blocks of a window may be reopened, with these parameters."""
        return self.window > 1

    def heat(self, view: View) -> Tensor | None:
        """Temperatures [n] of this step's statistics and draws, where the policy sets them."""
        return None

    def nucleus(self, view: View) -> Tensor | None:
        """What this step's draws keep of the probability, [n], where the policy sets it (top-p)."""
        return None

    def reads(self, view: View, following: bool) -> Tensor | None:
        """Positions [n, L] whose statistics the rule looks at, of the head for the next token where
        `following`; those of the others are not read. None: all. Where the head for the next token
        has nothing to choose from, its token is -1."""
        return None

    def excluded(self, view: View) -> Tensor | None:
        """Ids int64 [n, k] that this step's statistics leave out altogether, as if their logits
        were -inf; negative: none. Not those of the head for the next token."""
        return None

    @property
    def most_tokens(self) -> int | None:
        """How long a sequence with variable length may become, its prompt included; None: as long
        as it begins."""
        return None

    @property
    def padding(self) -> int | None:
        """The id that fills what is behind the end of sequences with variable lengths."""
        return None

    @property
    def never_next(self) -> tuple[int, ...]:
        """Ids, beside the mask, that the head for the next token may not choose."""
        return ()

    def wants_next(self, view: View) -> Tensor:
        """Blocks [n] that need the head for the next token in this step."""
        return torch.full_like(view.done, "next_token" in self.needs)

    def rule(self, stats: Stats, view: View) -> Write:
        """One decision for n blocks, a pure function of what it is given."""
        raise NotImplementedError

    def decide(self, stats: Stats, view: View) -> Write:
        """What a step calls: `rule`, but for a policy that has a parameter of that name."""
        return self.rule(stats, view)

    def reads_scores(self, view: View) -> Tensor | None:
        """Blocks [n] whose scores this decision looks at, if it needs any; None: all."""
        return None

    def bad(self, stats: Stats, view: View) -> Tensor:
        """Positions [n, L] whose bad logits matter, of those that may change."""
        return stats.bad

    def most_forwards(self, length: int) -> int:
        """Forwards that a block with `length` positions to decide can take at most."""
        raise NotImplementedError

    def twin(self, view: View) -> Callable[[Tensor, bool], bool] | None:
        """A fused step on `view`, equal to `rule`: takes logits and whether any row draws, and
        returns whether it has taken the step."""
        return None

    def as_dict(self) -> dict[str, Any]:
        """Its text and every parameter, ready for JSON."""
        return {
            "policy": str(self),
            "parameters": {name: self.told(name) for name in self.parameters()},
        }

    def told(self, name: str) -> Any:
        """The value of a parameter, as it is written down."""
        return getattr(self, name)

    def __str__(self) -> str:
        """As `parse` reads it: the name, and the parameters that differ from their defaults."""
        values = [
            f"{field.name}={_spelt(self.told(field.name))}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return (self.name or type(self).__name__) + (f":{','.join(values)}" if values else "")


def _spelt(value: Any) -> str:
    return "none" if value is None else str(value)
