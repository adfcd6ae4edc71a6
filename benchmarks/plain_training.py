"""A step of token editing written plainly: both halves in every pass, logits of every position.

As released training code does it (inclusionAI/dFactory, `tasks/train_llada2_bd.py`; drafts as in
czg1225/DMax, `tasks/train_llada2_bd_oput.py`, but of the noisy half alone). Noise and labels are
given, so that both sides train on the same ids.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from plain_masks import doubled_block_mask
from torch import Tensor


def noisy_logits(model, ids: Tensor, batch: dict[str, Tensor], block_size: int) -> Tensor:
    """Logits [B, L, V] of the noisy half."""
    length = ids.shape[1]
    hidden = model.model(
        torch.cat([ids, batch["input_ids"]], dim=1),
        attention_mask=doubled_block_mask(length, block_size, document_ids=batch["example"]),
        position_ids=torch.cat([batch["positions"]] * 2, dim=1),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[:, :length])


def step(
    model,
    ids: Tensor,
    labelled: Tensor,
    drafted: Tensor,
    batch: dict[str, Tensor],
    *,
    block_size: int,
    mask_token_id: int,
) -> tuple[Tensor, int]:
    """Summed cross entropy of the clean ids at `labelled`, and how many of them are the argmax.

    Masks at `drafted` positions are first filled with the model's argmax, if there are any.
    """
    fill = drafted & (ids == mask_token_id)
    if fill.any():
        with torch.no_grad():
            logits = noisy_logits(model, ids, batch, block_size)
            logits[..., mask_token_id] = -torch.inf
            ids = torch.where(fill, logits.argmax(-1), ids)
            del logits
    logits = noisy_logits(model, ids, batch, block_size).float()
    labels = batch["input_ids"].masked_fill(~labelled, -100)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return loss, int((logits.detach().argmax(-1) == labels).sum())
