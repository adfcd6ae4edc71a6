"""LoRA with peft: what is adapted by default, and what stays frozen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from fastedit.training.runs.token_rows import narrow, tables

# Linear modules that choose experts, by the ends of their names in transformers.
ROUTERS = ("gate", "router", "shared_expert_gate")
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class Trainable(NamedTuple):
    """How much of a model trains: parameters, and the names of what is adapted."""

    trained: int
    total: int
    names: list[str]  # without layer numbers, each once

    def __str__(self) -> str:
        share = 100 * self.trained / self.total
        names = f": {', '.join(self.names)}" if self.names else ""
        return f"{self.trained:,} of {self.total:,} parameters train ({share:.2f} %){names}"


def add_lora(
    model: Any,
    *,
    rank: int = 16,
    alpha: int = 32,
    targets: Sequence[str] | None = None,
    experts: bool = False,
    tokens: Sequence[int] = (),
) -> Any:
    """`model` as a `peft.PeftModel` with fp32 adapters, everything else frozen.

    targets  ends of module names; None: `default_targets`
    experts  adapt the routed experts too, with rank max(1, rank // experts of a layer) each and the
             scale alpha / rank of the others. Their weights are rebuilt in every forward.
    tokens   ids whose rows of embedding and head train too, see `token_rows`

    There is no dropout: the draft and the supervised pass must see one model. Raises ValueError for
    a target that matches nothing, and for one whose rows train as `tokens` do.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = default_targets(model) if targets is None else targets
    _check_matches(targets, modules, "linear modules")
    head = model.get_output_embeddings() if tokens else None
    of_head = [name for name, module in model.named_modules() if module is head]
    for target in targets:
        if any(_matches(target, name) for name in of_head):
            raise ValueError(
                f"LoRA target {target!r} has rows of control tokens, which train by themselves: "
                "leave it out, or train all weights (--full)"
            )
    patterns: dict[str, Any] = {}
    if experts:
        parameters = [name for name, _ in model.named_parameters()]
        _check_matches(EXPERTS, parameters, "parameters")
        expert_rank = max(1, rank // model.config.num_experts)
        patterns = {
            "target_parameters": list(EXPERTS),
            "rank_pattern": dict.fromkeys(EXPERTS, expert_rank),
            "alpha_pattern": dict.fromkeys(EXPERTS, alpha * expert_rank / rank),
        }
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(targets),
        trainable_token_indices={name: list(tokens) for name in tables(model)} if tokens else None,
        task_type=None,  # CAUSAL_LM asks for prepare_inputs_for_generation (huggingface/peft#2769)
        **patterns,
    )
    with warnings.catch_warnings():
        # peft looks for the patterns of parameters among modules, where they are not.
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match")
        warnings.filterwarnings("ignore", category=FutureWarning)
        adapted = get_peft_model(model, config)
    narrow(adapted)
    return adapted


def go_on_from(model: Any, folder: Path) -> None:
    """Give the adapter of a `PeftModel` the weights of an earlier one like it, in `folder`.

    Raises FileNotFoundError where there is none, ValueError for one of another kind.
    """
    from peft import PeftConfig

    if not (folder / "adapter_config.json").exists():
        raise FileNotFoundError(f"there is no adapter in {folder} to go on from")
    name = model.active_adapter
    before, now = PeftConfig.from_pretrained(str(folder)), model.peft_config[name]
    for key in ("r", "lora_alpha", "target_modules", "trainable_token_indices"):
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            raise ValueError(
                f"the adapter in {folder} was trained with {key}={old}, and this run has {new}: "
                "give the same options"
            )
    model.load_adapter(str(folder), name, is_trainable=True)


def default_targets(model: Any) -> tuple[str, ...]:
    """Ends of the names of the linear modules in the layers of `model`, in the order they stand.

    Attention, and the MLPs that every token passes: dense layers and shared experts. Routers, the
    routed experts (which are no modules), embeddings and head stay frozen.
    """
    layers = (
        name for name, module in model.model.layers.named_modules() if isinstance(module, nn.Linear)
    )
    ends = dict.fromkeys(name.rpartition(".")[2] for name in layers)
    return tuple(end for end in ends if end not in ROUTERS)


def trainable(model: nn.Module) -> Trainable:
    """What of `model` has gradients; for a `PeftModel` also which modules are adapted."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    adapted = [
        *getattr(model, "targeted_module_names", ()),
        *(getattr(model, "targeted_parameter_names", None) or ()),
    ]
    names = sorted({name.partition("layers.")[2].partition(".")[2] or name for name in adapted})
    return Trainable(sum(n for n, on in counts if on), sum(n for n, _ in counts), names)


def _matches(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _check_matches(targets: Sequence[str], names: Sequence[str], kind: str) -> None:
    for target in targets:
        if not any(_matches(target, name) for name in names):
            ends = sorted({name.rpartition(".")[2] for name in names})
            raise ValueError(
                f"LoRA target {target!r} matches none of the model's {kind}, which end in "
                f"{', '.join(ends)}"
            )
