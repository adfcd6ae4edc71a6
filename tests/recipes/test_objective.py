"""The loss against plain arithmetic, and the shortened doubled sequence against the whole one."""

from __future__ import annotations

import math

import torch
from editing import MASK, tiny_model

from fastedit.models.llada2 import doubled_block_mask
from recipes.tiny.dense_experts import DENSE, balance
from recipes.tiny.noise import Noisy
from recipes.tiny.objective import LossWeights, denoising_loss, doubled_layout


def batch() -> tuple[Noisy, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    clean = torch.randint(2, 24, (3, 12))
    response = torch.arange(12) >= torch.tensor([[3], [0], [7]])
    masked = response & (torch.rand(3, 12) < 0.5)
    replaced = response & ~masked & (torch.rand(3, 12) < 0.4)
    ids = torch.where(replaced, 2 + (clean - 1) % 22, clean).masked_fill(masked, MASK)
    return Noisy(ids, masked, replaced), clean, response


def test_loss_is_the_weighted_cross_entropy_of_every_position_by_hand():
    model, (noisy, clean, response) = tiny_model(), batch()
    weights = LossWeights(mask=1.0, edit=3.0, keep=0.25)

    def trunk(ids, mask, positions):
        return model.model(ids, mask, positions).last_hidden_state

    result = denoising_loss(
        trunk, model.lm_head, noisy, clean, response, block_size=4, weights=weights
    )
    logits = model(
        torch.cat([noisy.ids, clean], 1),
        attention_mask=doubled_block_mask(12, 4),
        position_ids=torch.arange(12).repeat(2)[None],
    ).logits[:, :12]
    expected, hits, counts = 0.0, [0, 0, 0], [0, 0, 0]
    for row in range(3):
        for i in range(12):
            if not response[row, i]:
                continue
            kind = 0 if noisy.masked[row, i] else 1 if noisy.replaced[row, i] else 2
            values = logits[row, i].tolist()
            peak = max(values)
            total = math.log(sum(math.exp(v - peak) for v in values)) + peak
            expected += weights[kind] * (total - values[clean[row, i]])
            hits[kind] += values.index(peak) == clean[row, i]
            counts[kind] += 1
    assert math.isclose(float(result.loss), expected, rel_tol=1e-5)
    assert result.hits.tolist() == hits and result.counts.tolist() == counts
    assert int(result.labels) == sum(counts) and min(counts) > 0


def test_layout_only_leaves_out_keys_that_no_loss_query_sees():
    mask, positions = doubled_layout(12, 4)
    whole = doubled_block_mask(12, 4)
    assert mask.shape == (1, 1, 20, 20) and torch.equal(mask, whole[..., :20, :20])
    assert not whole[..., :20, 20:].any()
    assert positions.tolist() == [[*range(12), *range(8)]]
    one_block, _ = doubled_layout(4, 4)
    assert one_block.shape[-1] == 4 and one_block.all()


def test_prompt_and_later_clean_blocks_get_no_gradient_from_an_early_label():
    model, (noisy, clean, _) = tiny_model(), batch()
    seen = []

    def trunk(ids, mask, positions):
        embedded = model.model.word_embeddings(ids).detach().requires_grad_()
        seen.append(embedded)
        return model.model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions
        ).last_hidden_state

    response = torch.zeros(3, 12, dtype=torch.bool)
    response[:, 5] = True
    denoising_loss(trunk, model.lm_head, noisy, clean, response, block_size=4).loss.backward()
    reached = seen[0].grad.abs().sum((0, 2)) > 0
    assert reached.nonzero().flatten().tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


def test_dense_experts_equal_the_eager_ones():
    model = tiny_model()
    ids = torch.randint(0, 24, (4, 16))
    eager = model(ids).logits
    eager.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_experts_implementation(DENSE)
    dense = model(ids).logits
    torch.testing.assert_close(dense, eager, atol=1e-5, rtol=1e-4)
    dense.square().sum().backward()
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-3, rtol=1e-3)


def test_balance_moves_the_bias_against_the_load():
    model = tiny_model()
    model.set_experts_implementation(DENSE)
    model(torch.randint(0, 24, (4, 16)))
    balance(model, 0.5)
    for layer in model.model.layers[1:]:
        load = layer.mlp.experts.load.float()
        assert int(load.sum()) == 4 * 16 * 2
        assert torch.equal(layer.mlp.gate.expert_bias, 0.5 * torch.sign(load.mean() - load))
