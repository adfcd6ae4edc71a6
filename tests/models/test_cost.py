"""The cost model beside numbers worked out elsewhere and beside a model's own tensors."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.models.llada2.cost import experts_touched, forward_cost


@pytest.mark.parametrize(
    ("tokens", "touched"), [(1, 8), (8, 57.4), (16, 102.0), (32, 163.3), (64, 222.4), (128, 251.6)]
)
def test_experts_of_a_block(tokens, touched):
    assert experts_touched(LLaDA2MoeConfig.mini(), 1, tokens) == pytest.approx(touched, abs=0.05)


def test_blocks_add_up_to_all_experts():
    mini = LLaDA2MoeConfig.mini()
    assert experts_touched(mini, 2, 32) == pytest.approx(experts_touched(mini, 1, 64))
    capped = LLaDA2MoeConfig.mini(expert_capacity=48)
    assert experts_touched(capped, 1, 32) == 48
    assert 48 < experts_touched(capped, 4, 32) < 4 * 48


@pytest.mark.parametrize(
    ("config", "gigabytes"), [(LLaDA2MoeConfig.mini(), 20.79), (LLaDA2MoeConfig.flash(), 132.2)]
)
def test_bytes_of_a_block_without_prefix_and_logits(config, gigabytes):
    cost = forward_cost(config, rows=1, length=32, prefix=0)
    logits = 2 * 2 * 32 * config.vocab_size
    own_keys = cost.read["cache"]
    assert (cost.bytes - logits - own_keys) / 1e9 == pytest.approx(gigabytes, rel=1e-3)


def small(**changes):
    shape = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    }
    return LLaDA2MoeConfig(**(shape | changes))


def test_all_experts_read_are_all_weights_but_the_embedding():
    model = LLaDA2MoeModelLM(small())
    config = model.config
    cost = forward_cost(config, 1, 32, 0, item=1, experts=config.num_experts)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1)
    matrices -= model.model.word_embeddings.weight.numel()
    logits, own_keys = 2 * 32 * config.vocab_size, cost.read["cache"]
    assert cost.bytes - logits - own_keys == matrices


def test_operations_are_those_torch_counts():
    """With every expert run on every token, which is how few experts are computed on a CPU."""
    config = small(num_experts_per_tok=4)
    model = LLaDA2MoeModelLM(config).eval()
    model.set_attn_implementation("eager")  # the counter does not see into fused attention
    ids = torch.ones(2, config.block_size, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids)
    cost = forward_cost(config, 2, config.block_size, 0)
    assert counter.get_total_flops() == pytest.approx(cost.operations, rel=0.01)


def test_a_rank_has_a_head_of_keys_and_values_at_least():
    """mini has four of them: eight ranks hold each twice, weights and cache."""
    mini = LLaDA2MoeConfig.mini()
    one, four, eight = (forward_cost(mini, 4, 32, 1000, ranks=ranks) for ranks in (1, 4, 8))
    assert four.read["cache"] == eight.read["cache"] == one.read["cache"] / 4
    assert four.read["attention"] == one.read["attention"] / 4
    layers, hidden, head = mini.num_hidden_layers, mini.hidden_size, mini.head_dim
    of_queries = 2 * mini.num_attention_heads // 8
    projections = layers * hidden * head * (of_queries + 2)  # and one head of each of the two
    assert eight.read["attention"] == 2 * projections
    assert eight.flops["attention"] == 2.0 * 4 * 32 * projections
    assert eight.flops["cache"] == one.flops["cache"] / 8  # that of the queries


def test_ranks_divide_all_but_the_router():
    mini = LLaDA2MoeConfig.mini()
    one, four = (forward_cost(mini, 4, 32, 1000, ranks=ranks) for ranks in (1, 4))
    assert four.read["router"] == one.read["router"]
    assert four.read["head"] == one.read["head"] / 4
    assert four.seconds(1e12, 1e14) < one.seconds(1e12, 1e14)
