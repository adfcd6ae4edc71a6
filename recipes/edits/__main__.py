"""The bases of the study of edits, from nothing: `python -m recipes.edits --output DIR [--resume]`.

DIR/block_causal and DIR/full_attention are runs as of `fastedit train`, with the model before
training in their folders `start`, and the result in `checkpoint`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from recipes.edits.recipe import BASES, base, make


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m recipes.edits", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", choices=BASES, action="append", help="one of them; repeatable")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with what is in OUTPUT")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    for kind in asked.base or BASES:
        options = base(kind, asked.output / kind, asked.steps, asked.seed)
        print(f"result in {make(kind, options, resume=asked.resume)}")


if __name__ == "__main__":
    main()
