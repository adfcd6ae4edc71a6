"""Triton kernels for block-wise diffusion decoding. They know tensors and nothing else.

| module | what is in it |
|---|---|
| `splits` | how a row is cut, what is kept of each piece, how the pieces are merged |
| `arrivals` | the workspace, and how the last program to finish a row or a block finds out |
| `sampling` | one draw from a row, with top-k and top-p |
| `row_stats` | kernel: a few numbers per row of logits |
| `row_partials` | kernel: the same for a shard of the vocabulary, before any division |
| `joint_threshold` | kernel: a whole decision step for a batch of blocks |
| `draft_and_corrupt` | kernel: drafts for the masks of a training batch, corrupted, with labels |
"""
