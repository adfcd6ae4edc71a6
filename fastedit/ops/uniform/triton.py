"""Uniform random numbers on a GPU: plain torch, whose small kernels a captured step replays."""

from fastedit.ops.uniform.reference import random_ids as random_ids
from fastedit.ops.uniform.reference import uniform as uniform
