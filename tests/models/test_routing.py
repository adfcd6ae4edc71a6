"""The router against its equations in plain Python, per token and per block."""

from __future__ import annotations

import math

import pytest
import torch

from fastedit.models.llada2 import LLaDA2MoeConfig
from fastedit.models.llada2.routing import LLaDA2MoeRouter, routing_blocks

EXPERTS, GROUPS, KEPT, TOP_K = 12, 4, 2, 3


def router(**overrides) -> LLaDA2MoeRouter:
    config = LLaDA2MoeConfig(
        hidden_size=8,
        num_experts=EXPERTS,
        n_group=GROUPS,
        topk_group=KEPT,
        num_experts_per_tok=TOP_K,
        block_size=4,
        **overrides,
    )
    module = LLaDA2MoeRouter(config)
    torch.nn.init.normal_(module.weight)
    module.expert_bias.normal_()
    return module


def best(scores: list[float], candidates, count: int) -> list[int]:
    return sorted(candidates, key=lambda index: (-scores[index], index))[:count]


def scores_of(module: LLaDA2MoeRouter, hidden: torch.Tensor) -> tuple[list, list]:
    plain = (hidden.float() @ module.weight.float().T).sigmoid()
    return plain.tolist(), (plain + module.expert_bias).tolist()


def check_weights(experts, weights, plain) -> None:
    for row, ids in enumerate(experts.tolist()):
        total = sum(plain[row][index] for index in ids) + 1e-20
        for column, index in enumerate(ids):
            assert math.isclose(weights[row, column], 2.5 * plain[row][index] / total, rel_tol=1e-5)


def test_group_limited_top_k():
    torch.manual_seed(0)
    module, hidden = router(), torch.randn(50, 8)
    experts, weights = module(hidden, None)
    plain, biased = scores_of(module, hidden)
    size = EXPERTS // GROUPS
    for row, ids in enumerate(experts.tolist()):
        groups = [sorted(biased[row][g * size : (g + 1) * size])[-2:] for g in range(GROUPS)]
        kept = best([sum(pair) for pair in groups], range(GROUPS), KEPT)
        candidates = [index for index in range(EXPERTS) if index // size in kept]
        assert ids == best(biased[row], candidates, TOP_K)
    check_weights(experts, weights.detach(), plain)


@pytest.mark.parametrize("capacity", [None, 5])
def test_ties_go_to_the_lowest_expert(capacity):
    module = router(expert_capacity=capacity)
    torch.nn.init.zeros_(module.weight)
    module.expert_bias.zero_()
    blocks = routing_blocks(torch.arange(4)[None], None, 4)
    experts, weights = module(torch.randn(4, 8), blocks)
    assert experts.tolist() == [[0, 1, 2]] * 4
    assert torch.allclose(weights, torch.full((4, 3), 2.5 / 3))


def test_block_routing_admits_what_the_block_wants_most():
    torch.manual_seed(0)
    module, hidden = router(expert_capacity=5), torch.randn(2 * 10, 8)
    positions = torch.arange(10).expand(2, -1)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[1, 7:] = False
    mask = valid[:, None, None, :].expand(2, 1, 10, 10)
    experts, weights = module(hidden, routing_blocks(positions, mask, 4))
    plain, biased = scores_of(module, hidden)
    for row in range(2):
        for start in range(0, 10, 4):
            members = [row * 10 + i for i in range(start, min(start + 4, 10))]
            voters = [m for m in members if valid.flatten()[m]]
            wanted = [
                max((biased[m][e] for m in voters), default=-math.inf) for e in range(EXPERTS)
            ]
            pool = best(wanted, range(EXPERTS), 5)
            for member in members:
                assert experts[member].tolist() == best(biased[member], pool, TOP_K)
    check_weights(experts, weights.detach(), plain)


def test_blocks_of_rows_halves_and_documents_stay_apart():
    doubled = torch.arange(4).repeat(2)[None]
    assert routing_blocks(doubled, None, 4).ids.tolist() == [0] * 4 + [1] * 4
    packed = torch.tensor([[0, 1, 0, 1, 2, 3, 4, 5]])
    assert routing_blocks(packed, None, 4).ids.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    rows = torch.arange(3).expand(2, -1)
    assert routing_blocks(rows, None, 4).ids.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_bias_stays_fp32_through_casts():
    module = router()
    bias = module.expert_bias.clone()
    for cast in (module.bfloat16, module.half, module.float, module.double):
        cast()
        assert module.expert_bias.dtype == torch.float32 and torch.equal(module.expert_bias, bias)
    assert "expert_bias" in module.state_dict()
