"""Uniform random numbers on a GPU: plain torch, whose small kernels a captured step replays."""

from fastedit.ops.sampling import uniform as uniform
