"""Uniform random numbers in plain torch, on any device."""

from fastedit.ops.sampling import uniform as uniform
