"""A small model and batch of packed rows, and what a step is compared with, written plainly."""

from __future__ import annotations

import pytest
import torch
from plain_masks import doubled_block_mask

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.training.control import ControlTokens
from fastedit.training.indel import InDelStep
from fastedit.training.noise.corruption import corrupt
from fastedit.training.noise.draws import Draws
from fastedit.training.options import EditOptions
from fastedit.training.step import EditStep

MASK, SPECIAL, BLOCK, SEED = 1, 0, 4, 3
CONTROL = ControlTokens(delete=22, insert=23)
RECIPES = {
    "none": {"t2t": "none"},
    "random": {"t2t": "random", "r_edit": 0.5},
    "self": {"draft_share": 0.7, "p_random": 0.0},
    "drafts": {"draft_share": 1.0, "n_drafts": 2, "random_scope": "both", "p_random": 0.3},
    "sampled": {"draft_mode": "sample", "keep_mask": 0.3, "loss_region": "formerly_masked"},
    "rounds": {"turns": 3, "grad_rounds": "all"},
    "complementary": {"t2t": "none", "complementary": True, "mask_weight": "1/t"},
    "edits": {"labels": "lcs", "draft_share": 0.5, "turn_threshold": 0.07, "turn_steps": 2},
    "confident": {"t2t": "random", "cap_beta": 2.0, "denominator": "sequence"},
}


def tiny_model(seed: int = 0) -> LLaDA2MoeModelLM:
    torch.manual_seed(seed)
    config = LLaDA2MoeConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        initializer_range=0.2,
        max_position_embeddings=64,
    )
    return LLaDA2MoeModelLM(config)


def small_model(**config):
    model = tiny_model().train()
    model.config.block_size = BLOCK
    for name, value in config.items():
        setattr(model.config, name, value)
    return model


def adapted(dropout: float = 0.0, head: bool = False):
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4,
        lora_dropout=dropout,
        target_modules=["query_key_value", "dense", "up_proj"] + (["lm_head"] if head else []),
    )
    model = peft.get_peft_model(small_model(), config).train()
    with torch.no_grad():  # lora_B starts at zero, and then an adapter does nothing
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def edit_step(model, **options):
    given = {"seed": SEED, "mask_token_id": MASK, "forbid_ids": (SPECIAL,)}
    if options.get("labels") == "lcs":
        return InDelStep(model, EditOptions(**options), **given, control=CONTROL)
    return EditStep(model, EditOptions(**options), **given)


def packed(vocab: int = 24, block: int = BLOCK, seed: int = 1) -> dict[str, torch.Tensor]:
    """Two rows of four blocks: documents 5 and 6, then document 70 with a block of padding."""
    generator = torch.Generator().manual_seed(seed)
    length = 4 * block
    ids = torch.randint(2, vocab, (2, length), generator=generator)
    half = torch.arange(2 * block)
    example = torch.tensor([[5] * 2 * block + [6] * 2 * block, [70] * 3 * block + [-1] * block])
    tail = torch.cat([torch.arange(3 * block), torch.zeros(block, dtype=torch.int64)])
    response = torch.zeros(2, length, dtype=torch.bool)
    response[0, 3:-1] = True
    response[0, 2 * block : 2 * block + 2] = False  # the prompt of the second document
    response[1, block + 1 : 3 * block] = True
    positions = torch.stack([torch.cat([half, half]), tail])
    return {"input_ids": ids, "response": response, "positions": positions, "example": example}


def plain_logits(model, ids, batch, block: int = BLOCK):
    """Logits [B, L, V] of noisy `ids`: both halves whole, in one sequence."""
    return model(
        torch.cat([ids, batch["input_ids"]], dim=1),
        attention_mask=doubled_block_mask(ids.shape[1], block, document_ids=batch["example"]),
        position_ids=torch.cat([batch["positions"]] * 2, dim=1),
    ).logits[:, : ids.shape[1]]


def noise(batch, options, copy=0, epoch=0):
    vocab = torch.arange(24)
    return corrupt(
        batch["input_ids"],
        batch["response"],
        Draws(SEED, epoch, batch["example"], batch["positions"]),
        options,
        copy=copy,
        block_size=BLOCK,
        mask_token_id=MASK,
        candidates=vocab[(vocab != MASK) & (vocab != SPECIAL)],
    )


def best(logits):
    return logits.index_fill(-1, torch.tensor([MASK]), -torch.inf).argmax(-1)


def gradients(module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def with_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return gradients(model)


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = float(expected[name].abs().max())
        assert torch.allclose(
            found[name], expected[name], rtol=0.0, atol=tolerance * (1 + scale)
        ), name
