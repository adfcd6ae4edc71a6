"""What a decoding forward costs: bytes it has to read and write, and operations, by part.

Counted from the configuration alone, so a model that fits nowhere near this machine can be planned.
"""

from __future__ import annotations

from dataclasses import dataclass

from .configuration import LLaDA2MoeConfig

LOGITS = 2  # the head writes them and the decision reads them: once each


@dataclass(frozen=True)
class ForwardCost:
    """One forward of `rows` blocks over their cached prefixes, on one of the ranks.

    read, flops   by part: bytes, and floating-point operations (a multiply-add is two)
    """

    read: dict[str, float]
    flops: dict[str, float]

    @property
    def bytes(self) -> float:
        return sum(self.read.values())

    @property
    def operations(self) -> float:
        return sum(self.flops.values())

    def seconds(self, bandwidth: float, speed: float) -> float:
        """The roofline: each part takes its bytes at `bandwidth` (bytes/s) or its operations at
        `speed` (flop/s), whichever is longer, and parts come one after another."""
        return sum(max(self.read[p] / bandwidth, self.flops[p] / speed) for p in self.read)


def experts_touched(config: LLaDA2MoeConfig, rows: int, length: int) -> float:
    """Mean number of routed experts of a layer that `rows` blocks of `length` tokens choose.

    Every token picks its experts uniformly and independently of the others, which overstates it:
    the tokens of a block agree far more (LLaDA2.2 report). With `expert_capacity` a block has that
    many experts at most, again drawn uniformly.
    """
    total, chosen = config.num_experts, config.num_experts_per_tok
    alone = total * (1 - (1 - chosen / total) ** length)
    block = min(alone, config.expert_capacity or total)
    return total * (1 - (1 - block / total) ** rows)


def forward_cost(
    config: LLaDA2MoeConfig,
    rows: int,
    length: int,
    prefix: int,
    *,
    item: int = 2,
    ranks: int = 1,
    experts: float | None = None,
) -> ForwardCost:
    """The cost of a forward of `rows` blocks of `length` tokens after `prefix` tokens each.

    item     bytes of a weight, an activation and a cached key: 2 for bf16
    ranks    of tensor parallelism: heads, intermediate sizes and the vocabulary are divided, and
             heads of keys and values down to one a rank: beyond, several ranks hold the same one,
             its weights and its cache. What ranks send each other is not counted
    experts  routed experts that a layer reads; None: `experts_touched`

    Weights are read once; keys and values of the prefix once per row; logits are written and read
    again once. Other activations are small and stay in caches.
    """
    tokens, hidden = rows * length, config.hidden_size
    layers, dense = config.num_hidden_layers, config.first_k_dense_replace
    sparse = layers - dense
    queries = config.num_attention_heads * config.head_dim
    keys = max(config.num_key_value_heads, ranks) * config.head_dim  # of all ranks together
    if experts is None:
        experts = experts_touched(config, rows, length)

    expert = 3 * hidden * config.moe_intermediate_size
    weights = {
        "attention": layers * hidden * (2 * queries + 2 * keys),
        "routed experts": sparse * experts * expert,
        "shared experts": sparse * config.num_shared_experts * expert,
        "dense layers": dense * 3 * hidden * config.intermediate_size,
        "router": sparse * hidden * config.num_experts * ranks,  # every rank has all of it
        "head": hidden * config.vocab_size,
    }
    used = weights | {"routed experts": sparse * config.num_experts_per_tok * expert}
    cached = 2 * layers * keys * (prefix + length) * rows
    scores = 2 * layers * queries * (prefix + length) * tokens
    logits = LOGITS * tokens * config.vocab_size
    read = {part: item * count / ranks for part, count in weights.items()}
    flops = {part: 2.0 * tokens * count / ranks for part, count in used.items()}
    read["cache"], flops["cache"] = item * cached / ranks, 2.0 * scores / ranks
    read["head"] += item * logits / ranks
    return ForwardCost(read, flops)
