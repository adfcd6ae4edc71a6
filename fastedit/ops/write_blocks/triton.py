"""Writing into blocks on a GPU: plain torch, whose small kernels a captured step replays."""

from fastedit.ops.write_blocks.reference import write_blocks_ as write_blocks_
