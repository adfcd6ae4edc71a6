"""Golden cases of the edit labels, the ids that tests use, and labels of many texts as lists."""

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from edit_pairs import DELETE, EOS, INSERT, REAL, packed, rectangle, unpacked

from fastedit import ops
from fastedit.ops import library

FOLDER = Path(__file__).parents[1] / "golden" / "edit_labels"
GOLDEN_IDS = {"delete_token_id": -1, "eos_token_id": -2}
GOLDEN_LCS = {"mask_token_id": 1, "delete_token_id": 2, "insert_token_id": 3}
REAL_IDS = {"delete_token_id": DELETE, "eos_token_id": EOS}
# The mask is among the ids of the targets, too.
REAL_LCS = {"mask_token_id": REAL, "delete_token_id": DELETE, "insert_token_id": INSERT}
FIRST_GAPS = [True, False, "strict"]
needs_cpp = pytest.mark.skipif(bool(library.why_not()), reason="the C++ back end is not here")


@cache
def golden(name):
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def levenshtein(noisy, clean, backend="cpp", **options):
    """(current, next) of each pair, as lists."""
    (ids, cu), other = packed(noisy), packed(clean)
    with ops.use_backend(backend):
        current, following = ops.levenshtein_labels(ids, cu, *other, **options)
    return unpacked(current, cu), unpacked(following, cu, more=1)


def lcs(drafts, targets, backend="cpp", **options):
    """Labels of each block, as lists; what is behind them has none."""
    (ids, lengths), (other, other_lengths) = rectangle(drafts), rectangle(targets)
    with ops.use_backend(backend):
        labels = ops.lcs_labels(ids, other, lengths, other_lengths, **options)
    valid = torch.arange(ids.shape[1]) < lengths[:, None]
    assert labels.shape == ids.shape and (labels[~valid] == -100).all()
    return [row[:n] for row, n in zip(labels.tolist(), lengths.tolist(), strict=True)]
