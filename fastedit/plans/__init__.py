"""Plans: which rows a forward takes, what they see, and where their keys and values go.

| plan | rows of a forward | sees |
|---|---|---|
| `Block` | the active block | its committed prefix in the cache, and itself |
| `Lookahead` | now and then also the block behind it | that one all before it |
| `Window` | now and then also the last few blocks | each other, in both directions |
| `Shadow` | also a mask for each of its positions | the same, but not the row at its own position |
| `Full` | everything, without a cache | by the family: all blocks up to its own, or all there are |
| `Varying` | all of texts that shrink and grow, end to end where the model can | its text |
| `Approximate` | everything, then the block alone or from it on | everything, not all of it fresh |
"""

from __future__ import annotations

from fastedit.plans.approximate import Approximate
from fastedit.plans.base import Logits, Piece, Plan
from fastedit.plans.block import Block, Lookahead
from fastedit.plans.call import ModelCall
from fastedit.plans.full import Full
from fastedit.plans.varying import Varying
from fastedit.plans.window import Window
from fastedit.policies import Policy
from fastedit.request.request import Request
from fastedit.request.slots import Slots

__all__ = [
    "Approximate",
    "Block",
    "Full",
    "Logits",
    "Lookahead",
    "Piece",
    "Plan",
    "Varying",
    "Window",
    "plan_for",
]


def plan_for(call: ModelCall, slots: Slots, request: Request) -> Plan:
    """The plan of `request` and of all that decode together with it."""
    family, shadow = request.family, request.policy.plan == "shadow"
    if request.config.approximate:
        return Approximate(call, slots, shadow, family.shift, request.config.cache == "prefix")
    if request.policy.variable:
        return Varying(call, slots)
    if not request.cached:
        everything = family.attention == "full"
        return Full(call, slots, shadow, everything, family.shift)
    if slots.earlier:
        return Window(call, slots)
    # A block that rides along rides as masks: a rule that opens it otherwise goes on without.
    masks = type(request.policy).open is Policy.open
    ahead = request.config.lookahead and request.policy.plan == "block" and masks
    return Lookahead(call, slots) if ahead else Block(call, slots, shadow)
