"""Edit labels: arguments that are refused, each with the value named."""

import subprocess
import sys

import pytest
import torch

from fastedit import ops

BLOCK_IDS = {"mask_token_id": 1, "delete_token_id": 2, "insert_token_id": 3}
IDS, CU = torch.arange(4), torch.tensor([0, 1, 4])
ROWS, LENGTHS = torch.arange(6).reshape(2, 3), torch.tensor([3, 1])


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"noisy": IDS.int()}, TypeError, "noisy must be int64, got torch.int32"),
        ({"clean": IDS[None]}, ValueError, r"clean .*\[1, 4\]"),
        ({"clean": torch.empty(4, dtype=torch.int64, device="meta")}, ValueError, "meta"),
        ({"noisy_cu": CU.float()}, TypeError, "noisy_cu must be int64 or int32"),
        ({"noisy_cu": torch.tensor([0, 3, 5])}, ValueError, r"noisy_cu .*0 to 4.*\[0, 3, 5\]"),
        ({"noisy_cu": torch.tensor([0, 5, 4])}, ValueError, r"without falling.*\[0, 5, 4\]"),
        ({"clean_cu": torch.tensor([1, 4, 4])}, ValueError, r"clean_cu .*\[1, 4, 4\]"),
        ({"clean_cu": CU[:0]}, ValueError, r"clean_cu .*\[\]"),
        ({"clean_cu": torch.tensor([0, 4])}, ValueError, "one length.*3 and 2"),
        ({"delete_token_id": None}, TypeError, "delete_token_id .*None"),
        ({"eos_token_id": 2**63}, ValueError, "eos_token_id .*9223372036854775808"),
        ({"eos_token_id": 8}, ValueError, "must differ; got 8, 8"),
        ({"canonical_first_gap": "loose"}, ValueError, "canonical_first_gap .*'loose'"),
    ],
)
def test_wrong_pairs_raise_and_name_the_value(change, error, named):
    arguments = {"noisy": IDS, "noisy_cu": CU, "clean": IDS, "clean_cu": CU}
    ids = {"delete_token_id": 8, "eos_token_id": 9}
    with pytest.raises(error, match=named):
        ops.levenshtein_labels(**(arguments | ids | change))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"draft": ROWS.float()}, TypeError, "draft must be int64, got torch.float32"),
        ({"target": IDS}, ValueError, r"target .*\[4\]"),
        ({"target": ROWS[:1]}, ValueError, r"\[2, 3\] and \[1, 3\]"),
        ({"draft_len": LENGTHS[:1]}, ValueError, "draft_len .*2; got 1"),
        ({"target_len": LENGTHS.bool()}, TypeError, "target_len .*torch.bool"),
        ({"draft_len": torch.tensor([3, -1])}, ValueError, "draft_len .*0 to 3.*-1"),
        ({"target_len": torch.tensor([4, 1])}, ValueError, "target_len .*0 to 3.*4"),
        ({"mask_token_id": 1.0}, TypeError, "mask_token_id .*1.0"),
        ({"insert_token_id": 2}, ValueError, "must differ; got 1, 2, 2"),
    ],
)
def test_wrong_blocks_raise_and_name_the_value(change, error, named):
    arguments = {"draft": ROWS, "target": ROWS, "draft_len": LENGTHS, "target_len": LENGTHS}
    with pytest.raises(error, match=named):
        ops.lcs_labels(**(arguments | BLOCK_IDS | change))


SHORT_OF_MEMORY = """
import resource, torch
from fastedit import ops
ids, cu, length = torch.arange(100_000), torch.tensor([0, 100_000]), torch.tensor([100_000])
few = torch.ones(2, dtype=torch.int64)
ends = {"delete_token_id": -1, "eos_token_id": -2}
ops.levenshtein_labels(few, torch.tensor([0, 2]), few, torch.tensor([0, 2]), **ends)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
for label in (
    lambda: ops.levenshtein_labels(ids, cu, ids, cu, **ends),
    lambda: ops.lcs_labels(ids[None], ids[None], length, length, mask_token_id=-1,
                           delete_token_id=-2, insert_token_id=-3),
):
    try:
        label()
    except MemoryError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_shortage_of_memory_is_an_error_of_the_call():
    command = [sys.executable, "-c", SHORT_OF_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not enough memory for texts of this length") == 2
