"""The embedded checkpoint, from nothing: `python -m recipes.tiny --output DIR [--resume]`.

DIR/start has the tokenizer and a model without training, DIR/checkpoint the result of the first
stage, DIR/edited/checkpoint that of the second. Both are runs as of `fastedit train`, with its
logs and checkpoints beside them; a run that goes on ends as if it had never stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from recipes.tiny.recipe import first_stage, make, second_stage


def main() -> None:
    parser = argparse.ArgumentParser("python -m recipes.tiny", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000, help="of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with what is in OUTPUT")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    first = first_stage(asked.output, asked.steps, asked.seed)
    print(f"result in {make(first, second_stage(asked.output, asked.seed), resume=asked.resume)}")


if __name__ == "__main__":
    main()
