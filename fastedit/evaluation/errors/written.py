"""Tokens that a model wrote, whichever way: drafted into masks, or held while decoding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

FAR = 1 << 30


class Written(NamedTuple):
    """One row per token; every field [n].

    sample    int64    number of the document
    group     int64    which of several passes over the samples: the mask rate of a draft
    position  int64    within the document
    relative  float64  place among the response positions over their number, from 0 to below 1
    distance  int64    to the nearest token that the model saw; 0 where it saw none
    prob      float64  the model's probability of the token when it wrote it
    wrong     bool     whether it belongs to the errors E
    kind      int64    of the error, an index of `rules.KINDS`; -1 where it is none
    """

    sample: np.ndarray
    group: np.ndarray
    position: np.ndarray
    relative: np.ndarray
    distance: np.ndarray
    prob: np.ndarray
    wrong: np.ndarray
    kind: np.ndarray

    @classmethod
    def of_columns(cls, *columns: Iterable[float]) -> Written:
        """From columns in the order of the fields."""
        types = (np.int64, np.int64, np.int64, float, np.int64, float, bool, np.int64)
        pairs = zip(columns, types, strict=True)
        return cls(*(np.asarray(column, dtype=dtype) for column, dtype in pairs))

    @classmethod
    def joined(cls, parts: Iterable[Written]) -> Written:
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def where(self, rows: np.ndarray) -> Written:
        return Written(*(column[rows] for column in self))


def nearest_visible(visible: np.ndarray, before: np.ndarray) -> np.ndarray:
    """How far the nearest other token is that the model sees, int64 [n, B]; 0 where it sees none.

    visible  [n, B] bool  tokens of a block that are no masks
    before   [n] bool     whether a block stands before it: that is seen without masks, the blocks
                          behind it are not seen
    """
    places = np.arange(visible.shape[1])
    gaps = np.abs(places[:, None] - places)
    np.fill_diagonal(gaps, FAR)
    own = np.where(visible[:, None, :], gaps, FAR).min(-1)
    nearest = np.minimum(own, np.where(before[:, None], places + 1, FAR))
    return np.where(nearest == FAR, 0, nearest)
