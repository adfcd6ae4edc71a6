"""A correction head without training whose scores are all over 0 to 1."""

from __future__ import annotations

from typing import Any

import torch

from fastedit.heads import CorrectionHead, CorrectionHeadConfig


def spread_head(config: Any, attention: str = "block_causal", **options: Any) -> CorrectionHead:
    """For a model with this config, of a family with that attention."""
    torch.manual_seed(7)
    head = CorrectionHead(CorrectionHeadConfig.of(config, attention, **options)).eval()
    with torch.no_grad():
        for weights in head.parameters():
            if weights.ndim == 2:
                weights.mul_(10)
    return head
