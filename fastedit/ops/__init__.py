"""The one door to the kernels: per operation a contract, a readable reference, the dispatch.

| module | what is in it |
|---|---|
| `row_stats` | contract of the row statistics: one read of the logits, a few numbers per row |
| `joint_threshold` | contract of the decision step: M2T commits and T2T edits, in place |
| `draft_and_corrupt` | contract of the drafts of training: masks become the model's own tokens |
| `partials` | statistics and step from shards of the vocabulary: a few numbers per row and rank |
| `sampling` | what a sampled draw depends on, and the random words behind it |
| `reference` | the operations in plain torch: the truth for other back ends, and the fallback |
| `cpp` | the operations on the CPU in C++ (`csrc/`) |
| `triton` | the operations as Triton kernels (`kernels/`) |
| `registration` | the operations as `torch.ops.fastedit.*`, for `torch.compile` |
| `dispatch` | which back end serves which operation, and why the others do not |
"""

from fastedit.ops import registration as registration  # defines torch.ops.fastedit
from fastedit.ops.dispatch import backend_report, use_backend
from fastedit.ops.draft_and_corrupt import Drafted, DraftKey, DraftOptions, draft_and_corrupt
from fastedit.ops.joint_threshold import StepState, joint_threshold_step_
from fastedit.ops.partials import (
    RowPartials,
    joint_threshold_step_from_partials_,
    merge_partials,
    row_partials,
)
from fastedit.ops.row_stats import RowStats, row_stats
from fastedit.ops.sampling import Sampling

__all__ = [
    "DraftKey",
    "DraftOptions",
    "Drafted",
    "RowPartials",
    "RowStats",
    "Sampling",
    "StepState",
    "backend_report",
    "draft_and_corrupt",
    "joint_threshold_step_",
    "joint_threshold_step_from_partials_",
    "merge_partials",
    "row_partials",
    "row_stats",
    "use_backend",
]
