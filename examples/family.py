"""A family of one's own: a row of the table, and its checkpoints load and decode.

    python examples/family.py

The checkpoint is made here, with random weights: a Qwen3 under names of its own, which reads its
canvas block by block.
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from fastedit import Decoder
from fastedit.models import Checkpoints, Family, families

MASK = 60

families.register(
    Checkpoints(
        name="Mine",
        model_types=("my_diffusion_lm",),
        architectures=("MyDiffusionLM",),
        model="Qwen3ForCausalLM",
        keys={"width": "hidden_size"},
        supported={"use_sliding_window": (False,)},
        family=Family(mask_token_id=MASK, block_length=8, policy="low_confidence:threshold=.9"),
    )
)


def make_checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}
    Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "my_diffusion_lm", "architectures": ["MyDiffusionLM"]}
    config["width"] = config.pop("hidden_size")
    (folder / "config.json").write_text(json.dumps(config))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder))
        decoder = Decoder.from_pretrained(folder)
    model = decoder.model
    print(f"{type(model).__name__} of width {model.config.width}, rule {decoder.family.policy}")
    out = decoder.generate(torch.arange(5, 15), max_new_tokens=24)
    print(f"{out.stats[0].tokens} tokens in {out.stats[0].forwards} forwards")


if __name__ == "__main__":
    main()
