"""What a decision rule is: its parameters, what it keeps of a block, and the rule itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.fields import Parameter, checked, parameter_of
from fastedit.policies.planes import Planes


class View(Protocol):
    """What a rule sees of n blocks of `length` positions: the state, which it does not write.

    ids, editable        int64, bool [n, L]  what they hold, and what is not prompt or padding
    done                 bool [n]            blocks whose decision will be discarded
    reopened             bool [n]            whether the blocks before it may change too, again
    counts               int32 [n] each      `forwards` before this one, and what has changed
    parameters, buffers                      of the policy, by name
    moves                int64 [3, n, L]     of the last decision, as of `State`; or None
    sampling             seed, start, ... [n], for noise
    lengths, limits      int64 [n] each, of a policy with variable lengths: how many of the L
                         positions there are, and how many there may be; None for others
    strict, vocab                            whether the mask may be chosen; how many ids there are
    """

    mask_token_id: int
    strict: bool
    vocab: int | None
    ids: Tensor
    editable: Tensor
    done: Tensor
    dirty: Tensor
    bad: Tensor
    reopened: Tensor
    counts: Planes
    parameters: Planes
    buffers: Planes
    sampling: ops.Sampling
    moves: Tensor | None
    lengths: Tensor | None
    limits: Tensor | None

    @property
    def length(self) -> int: ...

    def positions(self) -> Tensor:
        """Of the request, int64 [n, L]: what draws are keyed by."""
        ...

    def contents(self) -> ops.Contents:
        """`masked` and `tokens`, bool [n, L], of what may change; how many: `masks`, `held` [n]."""
        ...

    def masked(self) -> Tensor:
        """Where a mask is still to be committed, bool [n, L]."""
        ...

    def may_change(self) -> Tensor:
        """Positions that a decision may write, bool [n, L]."""
        ...


@dataclass(frozen=True)
class Buffer:
    """What a policy keeps of each block from forward to forward, reset when a block opens.

    dtype    of the tensor: [n, L], or [n] where it is not per position
    initial  what a fresh block has, and a position that a rewrite inserts or pads with
    history  a plane of positions for each forward that a block may take, [n, most_forwards, L]

    Those per position move with their tokens where a rule inserts or deletes; a history does not.
    Where a policy is `wide`, those per position last as long as its positions do.
    """

    dtype: torch.dtype = torch.float32
    initial: float = 0
    per_position: bool = True
    history: bool = False


@dataclass(eq=False)
class Stats:
    """What one forward says of each position of n blocks; fields are [n, L].

    token, prob    int64, fp32  best token that may be chosen and its probability; a drawn token and
                                its probability in rows with a temperature
    prob_current   fp32         probability of the token that the position holds
    entropy        fp32         in nats; None unless the policy needs "entropy"
    top_tokens, top_probs       [n, L, k], the best ones, `ranks` of the policy; None unless it
                                needs "top_k"
    sample, sample_prob         one draw and its probability after all filters; None unless it needs
                                "sample"
    logit, logit_current        fp32, of `token` and of the held one; None unless it needs "logit"
    scores         fp32         of a head; None unless it needs "score"
    shadow         Stats        of the shadow rows; None unless its plan is "shadow"
    following      Stats        of the head that predicts the next token, where it is needed: of the
                                token behind each position
    excluded       fp32         [n, L, k], logits of what `Policy.excluded` names, which the other
                                fields know nothing of; None where it names nothing
    outside        of (excluded [n, L, K], only [n, L]): the best id of each position in `only` that
                   is none of its `excluded` ones, int64 [n, L]; -1 where there is none, and
                   elsewhere. Those positions are read once more; None unless it needs "outside"
    bad            bool         NaN or +inf among the logits, or nothing to choose from
    vocab                       how many ids there are
    """

    token: Tensor
    prob: Tensor
    prob_current: Tensor
    bad: Tensor
    vocab: int
    entropy: Tensor | None = None
    top_tokens: Tensor | None = None
    top_probs: Tensor | None = None
    sample: Tensor | None = None
    sample_prob: Tensor | None = None
    logit: Tensor | None = None
    logit_current: Tensor | None = None
    scores: Tensor | None = None
    shadow: Stats | None = None
    following: Stats | None = None
    excluded: Tensor | None = None
    outside: Callable[[Tensor, Tensor], Tensor] | None = None


class Write(NamedTuple):
    """What a rule decided.

    ids      int64 [n, L]  what the blocks hold from now on; positions that may not change and rows
                           that are done keep theirs, whatever stands here
    done     bool [n]      the block is finished; ignored while a mask is left in it
    buffers                new contents of the policy's buffers, by name
    reopen   bool [n]      from the next forward on, the block and those before it in its window may
                           change together, until it is done; None: nowhere
    keep, insert           bool [n, L], of rules that insert and delete. Once `ids` are written, a
                           mask is put before the positions in `insert`, and those that are not in
                           `keep` are taken out. What stands between two positions that may not
                           change is then cut, or padded with masks: these stay where they are.
                           None: all are kept, and nothing is inserted
    inserted int64 [n, L]  what is put there in place of a mask, where lengths vary: then nothing is
                           cut or padded
    padding  bool [n]      what is not kept of these blocks was padding: no delete is counted
    """

    ids: Tensor
    done: Tensor
    buffers: Mapping[str, Tensor] = {}
    reopen: Tensor | None = None
    keep: Tensor | None = None
    insert: Tensor | None = None
    inserted: Tensor | None = None
    padding: Tensor | None = None


NEEDS = frozenset(
    {"current", "entropy", "top_k", "outside", "sample", "logit", "score", "next_token"}
)
PLANS = ("block", "shadow", "window")


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
             False, their logits are not read either
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
        cls.name = vars(cls).get("name", "")  # not that of a registered rule it derives from

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
            f"{field.name}={self.told(field.name)}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return (self.name or type(self).__name__) + (f":{','.join(values)}" if values else "")
