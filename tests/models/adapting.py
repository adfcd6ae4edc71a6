"""Adapters made by peft on the golden checkpoint, which comes fused or with a module per expert."""

from __future__ import annotations

import copy
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fastedit.models.adapters import merge_adapter, read_adapter
from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.models.llada2.modeling import LLaDA2MoeMLP

GOLDEN = Path(__file__).parents[1] / "golden" / "llada2_tiny"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MLP = ["gate_proj", "up_proj", "down_proj"]


@functools.cache
def _golden() -> LLaDA2MoeModelLM:
    return LLaDA2MoeModelLM.from_pretrained(GOLDEN, dtype="float32").eval()


def base(**options: Any) -> LLaDA2MoeModelLM:
    """The golden checkpoint, or a random model with some options of its configuration changed."""
    if not options:
        return copy.deepcopy(_golden())
    torch.manual_seed(3)
    return LLaDA2MoeModelLM(LLaDA2MoeConfig.from_pretrained(GOLDEN, **options)).eval()


class Experts(nn.ModuleList):
    """One MLP per expert, as in the released code; the sum is that of the fused experts."""

    def forward(self, hidden, chosen, weights):
        outputs = torch.stack([expert(hidden) for expert in self], 1)
        picked = outputs.gather(1, chosen[..., None].expand(-1, -1, hidden.shape[1]))
        return (picked * weights[..., None]).sum(1).to(hidden.dtype)


def released(model: LLaDA2MoeModelLM) -> LLaDA2MoeModelLM:
    """A copy of `model` with a module per expert."""
    model = copy.deepcopy(model)
    for layer in model.model.layers:
        if not layer.is_sparse:
            continue
        fused, config = layer.mlp.experts, model.config
        experts = [
            LLaDA2MoeMLP(config, config.moe_intermediate_size) for _ in range(fused.num_experts)
        ]
        for index, expert in enumerate(experts):
            gate, up = fused.gate_up_proj.data[index].chunk(2)
            for linear, rows in zip(
                (expert.gate_proj, expert.up_proj, expert.down_proj),
                (gate, up, fused.down_proj.data[index]),
                strict=True,
            ):
                linear.weight.data.copy_(rows)
        layer.mlp.experts = Experts(experts)
    return model.eval()


def adapted(model: nn.Module, config: peft.PeftConfig, scale: float = 0.05) -> Any:
    """`model` inside peft, with every trained tensor moved away from where it starts."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += scale * torch.randn_like(parameter)
    return model.eval()


def saved(model: Any, folder: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, **options)
    return folder


def merged(folder: Path, model: LLaDA2MoeModelLM | None = None, tokenizer: Any = None) -> Any:
    adapter = read_adapter(folder, "mine")
    return merge_adapter(base() if model is None else model, adapter, tokenizer)


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.randint(0, 128, (2, 32), generator=torch.Generator().manual_seed(0))
    return model(input_ids=ids).logits


def edit_tensors(folder: Path, edit: Any) -> Path:
    """Rewrite the file of tensors with what `edit(tensors)` returns."""
    tensors = edit(load_file(folder / WEIGHTS))
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / WEIGHTS)
    return folder


def edit_config(folder: Path, **options: Any) -> Path:
    values = json.loads((folder / CONFIG).read_text()) | options
    (folder / CONFIG).write_text(json.dumps(values))
    return folder
