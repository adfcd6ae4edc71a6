"""What blocks hold, on a GPU: plain torch, whose small kernels a captured step replays."""

from fastedit.ops.contents.reference import contents as contents
