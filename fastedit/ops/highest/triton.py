"""Highest scores on a GPU: plain torch, whose small kernels a captured step replays."""

from fastedit.ops.highest.reference import highest as highest
