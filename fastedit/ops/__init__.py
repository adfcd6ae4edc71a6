"""The one door to the kernels: per operation a contract, a readable reference, the fast paths.

| folder | the operations |
|---|---|
| `row_stats` | row statistics: one read of the logits, a few numbers per row |
| `best_outside` | the best token of a row outside a set of its own |
| `row_partials` | statistics and step from shards of the vocabulary, a few numbers per rank |
| `joint_threshold` | the decision step: M2T commits and T2T edits, in place |
| `joint_threshold_indel` | that of LLaDA2.2, with inserts and deletes, on a CPU |
| `entropy_bound` | that of DiffusionGemma, on a CPU |
| `correction` | that which fills by a clock and takes back what is doubted, on a CPU |
| `remask` | that which fills by a threshold and masks again what is doubted, on a CPU |
| `draft_and_corrupt` | the drafts of training: masks become the model's own tokens |
| `edit_labels` | labels of models that delete and insert, from drafts and targets |
| `contents` | which positions of blocks hold masks, which tokens |
| `highest` | the positions of each block that a rule chooses by score |
| `within_budget` | those that cost the least, as many as a budget allows |
| `write_blocks` | what a rule decided, into its blocks, with counts of what changed |
| `compact` | inserts and deletes: what positions emit, in blocks or packed sequences |
| `uniform` | random numbers and ids that follow from seed, position, forward and purpose |

In each, `__init__.py` is the contract: arguments, results, checks. `reference.py` is the operation
in plain torch: the truth for other back ends, and the fallback. `cpp.py` runs it on the CPU in C++
(`csrc/`), `triton.py` as a Triton kernel (`kernels/`).

| module | what several of them share |
|---|---|
| `dispatch` | which back end serves which operation, and why the others do not |
| `registration` | the operations as `torch.ops.fastedit.*`, for `torch.compile` |
| `logits` | which logits they take |
| `blocks`, `steps` | the blocks that a step on a CPU decides, and what its references share |
| `sampling` | what a sampled draw depends on, and the random words behind it |
| `plain`, `library`, `launch` | the back ends: plain torch, the C++ library, Triton |
"""

from fastedit.ops import registration as registration  # defines torch.ops.fastedit
from fastedit.ops.best_outside import best_outside
from fastedit.ops.blocks import Blocks
from fastedit.ops.compact import compact, rewrite_blocks
from fastedit.ops.contents import Contents, contents
from fastedit.ops.correction import correction_step_
from fastedit.ops.dispatch import backend_report, serves, use_backend
from fastedit.ops.draft_and_corrupt import Drafted, DraftKey, DraftOptions, draft_and_corrupt
from fastedit.ops.edit_labels import lcs_labels, levenshtein_labels
from fastedit.ops.entropy_bound import entropy_bound_step_
from fastedit.ops.highest import highest
from fastedit.ops.joint_threshold import StepState, joint_threshold_step_
from fastedit.ops.joint_threshold_indel import InDelState, joint_threshold_indel_step_
from fastedit.ops.remask import remask_step_
from fastedit.ops.row_partials import (
    RowPartials,
    joint_threshold_step_from_partials_,
    merge_partials,
    row_partials,
)
from fastedit.ops.row_stats import RowStats, row_stats
from fastedit.ops.sampling import RowDraws, Sampling
from fastedit.ops.uniform import random_ids, uniform
from fastedit.ops.within_budget import within_budget
from fastedit.ops.write_blocks import write_blocks_

# Where a folder and a function have one name, it is the function here.

__all__ = [
    "Blocks",
    "Contents",
    "DraftKey",
    "DraftOptions",
    "Drafted",
    "InDelState",
    "RowDraws",
    "RowPartials",
    "RowStats",
    "Sampling",
    "StepState",
    "backend_report",
    "best_outside",
    "compact",
    "contents",
    "correction_step_",
    "draft_and_corrupt",
    "entropy_bound_step_",
    "highest",
    "joint_threshold_indel_step_",
    "joint_threshold_step_",
    "joint_threshold_step_from_partials_",
    "lcs_labels",
    "levenshtein_labels",
    "merge_partials",
    "random_ids",
    "remask_step_",
    "rewrite_blocks",
    "row_partials",
    "row_stats",
    "serves",
    "uniform",
    "use_backend",
    "within_budget",
    "write_blocks_",
]
