"""Small heads on hidden states of a model, trained for it and stored beside it or its adapter."""

from __future__ import annotations

from fastedit.heads.base import Head
from fastedit.heads.correction import CorrectionHead, CorrectionHeadConfig
from fastedit.heads.next_token import NextTokenHead, NextTokenHeadConfig

__all__ = ["CorrectionHead", "CorrectionHeadConfig", "Head", "NextTokenHead", "NextTokenHeadConfig"]
