"""One training step, ours and the plain one, as `benchmarks/test_training.py` times them."""

from __future__ import annotations

import plain_training
import torch
from peft import LoraConfig, get_peft_model

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.training.noise.corruption import corrupt
from fastedit.training.noise.draws import Draws
from fastedit.training.options import EditOptions
from fastedit.training.step import EditStep

VOCAB, MASK, SEED = 157_184, 156_895, 0
RECIPES = {
    "random": EditOptions(t2t="random"),
    "self": EditOptions(t2t="self", draft_share=1.0, p_random=0.0),
}


def build_model(vocab: int, width: int, layers: int, weights: str):
    """A small LLaDA2.x in fp32; `weights` that are trained: "lora" or "all"."""
    torch.manual_seed(SEED)
    config = LLaDA2MoeConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        moe_intermediate_size=width // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 256),
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        max_position_embeddings=4096,
    )
    model = LLaDA2MoeModelLM(config).train()
    if weights == "lora":
        targets = ["query_key_value", "dense", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets))
    return model.train()


def build_batch(vocab: int, rows: int, prompt: int, response: int) -> dict[str, torch.Tensor]:
    """One document per row, random ids."""
    length = prompt + response
    generator = torch.Generator().manual_seed(SEED)
    positions = torch.arange(length).expand(rows, -1)
    return {
        "input_ids": torch.randint(0, vocab - 1000, (rows, length), generator=generator),
        "response": positions >= prompt,
        "positions": positions,
        "example": torch.arange(rows)[:, None].expand(-1, length),
    }


class Case:
    """A model with a full-sized vocabulary on a small trunk, and both steps on the same batch."""

    def __init__(self, recipe: str, weights: str) -> None:
        self.options = RECIPES[recipe]
        self.model = build_model(VOCAB, 256, 2, weights)
        embeddings = self.model.get_input_embeddings().weight.data
        self.model.get_output_embeddings().weight.data = embeddings.clone()  # some argmax is right
        self.batch = build_batch(VOCAB, rows=4, prompt=96, response=160)
        self.step = EditStep(self.model, self.options, seed=SEED, mask_token_id=MASK)
        self.base = self.step.base
        self.noisy = corrupt(
            self.batch["input_ids"],
            self.batch["response"],
            Draws(SEED, 0, self.batch["example"], self.batch["positions"]),
            self.options,
            copy=0,
            block_size=self.base.config.block_size,
            mask_token_id=MASK,
            candidates=self.step.candidates,
        )

    def fastedit(self) -> tuple[torch.Tensor, int]:
        output = self.step(**self.batch)
        output.loss.backward()
        return output.loss.detach(), int(output.hits.sum())

    def plain(self) -> tuple[torch.Tensor, int]:
        loss, hits = plain_training.step(
            self.base,
            self.noisy.ids,
            self.noisy.labelled,
            self.noisy.drafted,
            self.batch,
            block_size=self.base.config.block_size,
            mask_token_id=MASK,
        )
        loss.backward()
        return loss.detach(), hits

    def gradients(self) -> dict[str, torch.Tensor]:
        """Taken away from the parameters, so that the next step starts without."""
        named = [(n, p) for n, p in self.model.named_parameters() if p.grad is not None]
        found = {name: parameter.grad for name, parameter in named}
        self.model.zero_grad()
        return found
