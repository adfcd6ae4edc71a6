"""Edit labels of tensors on a GPU: made on the CPU, in C++ where it is compiled."""

from fastedit.ops import library

if library.why_not():
    from fastedit.ops.edit_labels.reference import lcs_labels, levenshtein_labels
else:
    from fastedit.ops.edit_labels.cpp import lcs_labels, levenshtein_labels

__all__ = ["lcs_labels", "levenshtein_labels"]
