"""Small heads on hidden states of a model, trained for it and stored beside it or its adapter."""

from __future__ import annotations

from fastedit.heads.correction import CorrectionHead, CorrectionHeadConfig

__all__ = ["CorrectionHead", "CorrectionHeadConfig"]
