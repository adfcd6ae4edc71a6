"""What a policy declares and what its rule returns, held against what the loop can take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastedit.ops.row_stats import MOST_RANKS
from fastedit.policies.base import NEEDS, PLANS, Policy
from fastedit.policies.values import Write


def check_declared(policy: Policy) -> None:
    """Raises ValueError for statistics, a plan or a combination that there is not."""
    name = name_of(policy)
    if not NEEDS.issuperset(policy.needs) or isinstance(policy.needs, str):
        raise ValueError(
            f"policy {name} needs {policy.needs!r}: give a set of {', '.join(sorted(NEEDS))}"
        )
    if "top_k" in policy.needs and policy.ranks not in range(1, MOST_RANKS + 1):
        raise ValueError(f"policy {name} has ranks={policy.ranks!r}: give 1 to {MOST_RANKS}")
    if policy.rewrites and (policy.wide or policy.plan == "window"):
        raise ValueError(
            f"policy {name} inserts and deletes, so its blocks must be final one by one: not "
            "wide, and no plan of windows"
        )
    if policy.plan not in PLANS:
        raise ValueError(f"policy {name} has plan {policy.plan!r}; it is {' or '.join(PLANS)}")


def bound_of(policy: Policy, length: int) -> int:
    """Forwards that a block with `length` positions to decide may take, as int32 holds it.

    Raises ValueError for what is no number of forwards.
    """
    most = policy.most_forwards(length)
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most_forwards of policy {policy} must be at least 1; got {most!r}")
    return min(most, 2**31 - 1)


def check_write(policy: Policy, write: Any, ids: Tensor) -> None:
    """Raises TypeError or ValueError for what a rule cannot return, of blocks that hold `ids`."""
    name = name_of(policy)
    if not isinstance(write, Write):
        raise TypeError(f"the rule of policy {name} must return a Write; got {write!r:.80}")
    expected = ("ids", torch.int64, ids.shape), ("done", torch.bool, ids.shape[:1])
    for field, dtype, shape in expected:
        value = getattr(write, field)
        if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != shape:
            known = isinstance(value, Tensor)
            found = f"{value.dtype} {list(value.shape)}" if known else f"{value!r:.80}"
            raise ValueError(
                f"the rule of policy {name} must write {field} as {dtype} {list(shape)}; "
                f"got {found}"
            )
    unknown = sorted(write.buffers.keys() - policy.buffers.keys())
    if unknown:
        raise ValueError(f"policy {name} has no buffer {unknown[0]!r}: name it in `buffers`")
    if not policy.rewrites and not (write.keep is None and write.insert is None):
        raise ValueError(f"policy {name} inserts or deletes: say so, with `rewrites = True`")


def check_ids(
    policy: Policy, wanted: Tensor, may: Tensor, done: Tensor, mask_token_id: int, vocab: int
) -> None:
    """Raises ValueError where an id [n, L] would be written that there is not.

    Looked at on a CPU alone: elsewhere it would have to be waited for.
    """
    if wanted.device.type != "cpu" or not wanted.numel():
        return
    least, most = wanted.aminmax()
    if least >= 0 and most < vocab:
        return
    wrong = may & ~done[:, None] & ((wanted < 0) | (wanted >= vocab)) & (wanted != mask_token_id)
    if wrong.any():
        raise ValueError(
            f"policy {name_of(policy)} writes id {int(wanted[wrong][0])}, and there are {vocab}: "
            "see its rule, or `draws`"
        )


def name_of(policy: Policy) -> str:
    return policy.name or type(policy).__name__
