"""A small batch of packed rows, and the editing step written plainly: full logits, both halves."""

from __future__ import annotations

import torch

from fastedit.models.llada2 import doubled_block_mask

MASK, SPECIAL, BLOCK = 1, 0, 4


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


def gradients(module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
