"""The step that a run trains, around its model: an adapter, a second head, what trains of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from fastedit.heads import CorrectionHead, CorrectionHeadConfig
from fastedit.prompts.tokens import special_ids
from fastedit.training.base import Step
from fastedit.training.control import ControlTokens
from fastedit.training.correction.step import CorrectionStep
from fastedit.training.data.documents import Form
from fastedit.training.indel import InDelStep
from fastedit.training.reading import Reading
from fastedit.training.refinement.start import next_token_head
from fastedit.training.refinement.step import RefinementStep
from fastedit.training.runs.folder import ADAPTER, HEAD
from fastedit.training.runs.lora import add_lora, go_on_from
from fastedit.training.runs.settings import RunOptions
from fastedit.training.step import EditStep


def step_of(
    options: RunOptions, model: Any, tokenizer: Any, form: Form, control: ControlTokens | None
) -> Step:
    """What is trained of `model`; `options` are settled. New weights are drawn from torch's own
    generator.

    Raises ValueError where options and model do not go together, OSError where there is nothing to
    go on from.
    """
    if options.head:
        return _correction_step(options, model, form)
    if control and options.edit.labels == "levenshtein":
        return _refinement_step(options, model, form, control)
    return _edit_step(options, model, tokenizer, form, control)


def _edit_step(
    options: RunOptions, model: Any, tokenizer: Any, form: Form, control: ControlTokens | None
) -> Step:
    kind = InDelStep if options.edit.labels == "lcs" else EditStep
    return kind(
        _to_train(options, model, form),
        options.edit,
        seed=options.seed,
        mask_token_id=form.mask_token_id,
        forbid_ids=_never_drawn(tokenizer, model.config.vocab_size),
        control=control,
    )


def _to_train(options: RunOptions, model: Any, form: Form) -> Any:
    """The model, or an adapter around it."""
    if options.gradient_checkpointing:
        _checkpoint_layers(model)
    if not options.lora_rank:
        return model
    return add_lora(
        model,
        rank=options.lora_rank,
        alpha=options.lora_alpha,
        targets=options.lora_targets,
        experts=options.lora_experts,
        tokens=form.control_ids,
    )


def _refinement_step(options: RunOptions, model: Any, form: Form, control: ControlTokens) -> Step:
    """Around a second head, new or of an earlier run; what is resumed is read into it later."""
    asked = options.refinement
    start = None if asked.start is None else Path(asked.start)
    head = next_token_head(model, start and start / HEAD, whole=not options.lora_rank)
    model = _to_train(options, model, form)
    if start is not None and options.lora_rank:
        go_on_from(model, start / ADAPTER)
    return RefinementStep(
        model,
        head,
        options.edit,
        asked,
        seed=options.seed,
        mask_token_id=form.mask_token_id,
        delete_token_id=control.delete,
        eos_token_id=cast(int, asked.eos_token_id),
        pad_token_id=cast(int, asked.pad_token_id),
    )


def _correction_step(options: RunOptions, model: Any, form: Form) -> Step:
    """Around a new head; what is resumed is read into it later."""
    asked = options.correction
    sizes = {"depth": asked.depth, "width": asked.width, "layer": asked.layer}
    config = CorrectionHeadConfig.of(model.config, Reading.of(model).attention, **sizes)
    head = CorrectionHead(config).to(next(model.parameters()).device)
    return CorrectionStep(model, head, asked, seed=options.seed, mask_token_id=form.mask_token_id)


def _checkpoint_layers(model: Any) -> None:
    """Compute activations again in the backward pass; newer transformers have another name."""
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})  # the other kind cuts the gradient of shared clean keys


def _never_drawn(tokenizer: Any, vocab_size: int) -> list[int]:
    """What is no wrong token: special ids, and ids that no token has."""
    return sorted({*special_ids(tokenizer), *range(len(tokenizer), vocab_size)})
