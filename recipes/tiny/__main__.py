"""The embedded checkpoint, from nothing: `python -m recipes.tiny --output DIR [--resume]`.

DIR/start is the tokenizer and a model without training, DIR/checkpoint the result of the first
stage and DIR/edited/checkpoint that of the second. Both stages are runs of `fastedit train`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from recipes.tiny.recipe import make


def main() -> None:
    parser = argparse.ArgumentParser("python -m recipes.tiny", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000, help="of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with what is in OUTPUT")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    make(options.output, options.steps, options.seed, resume=options.resume)


if __name__ == "__main__":
    main()
