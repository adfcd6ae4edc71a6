"""What a rule is given and what it returns: a view of its blocks, statistics, a write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.planes import Planes


class View(Protocol):
    """What a rule sees of n blocks of `length` positions: the state, which it does not write.

    ids, editable        int64, bool [n, L]  what they hold, and what is not prompt or padding
    done                 bool [n]            blocks whose decision will be discarded
    reopened             bool [n]            whether the blocks before it may change too, again
    alone                                    whether it is known that none is reopened
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
    alone: bool
    counts: Planes
    parameters: Planes
    buffers: Planes
    sampling: ops.Sampling
    limit: Tensor
    moves: Tensor | None
    lengths: Tensor | None
    limits: Tensor | None

    @property
    def length(self) -> int: ...

    def positions(self) -> Tensor:
        """Of the request, int64 [n, L]: what draws are keyed by."""
        ...

    def changing(self) -> ops.Blocks:
        """What a fused step changes, and what of it may."""
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


class Watch(Protocol):
    """What is shown a decision while it is taken, and does not change it."""

    def saw(self, stats: Stats) -> None:
        """What the rule goes by, before anything is written."""
        ...

    def wrote(self, ids: Tensor) -> None:
        """What the blocks hold, [n, L], before tokens are taken out or put in. A fused step, which
        does neither, does not call this."""
        ...


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
