"""A training run from its options to its result; `fastedit train` is this with a progress bar."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from fastedit import extras
from fastedit.heads import NextTokenHead
from fastedit.models.identity import identity
from fastedit.models.load import load
from fastedit.prompts.tokens import special_ids
from fastedit.training.data.documents import Form
from fastedit.training.data.order import RunOrder
from fastedit.training.data.texts import check_sources
from fastedit.training.reading import Reading
from fastedit.training.refinement.checks import check_reading
from fastedit.training.runs.amounts import learning_rate_of, steps_of
from fastedit.training.runs.checkpoints import StepLog, checkpoints, last_step
from fastedit.training.runs.control_tokens import control_tokens
from fastedit.training.runs.curves import Curves
from fastedit.training.runs.data import RunData, validates
from fastedit.training.runs.folder import (
    ADAPTER,
    HEAD,
    METRICS,
    SAMPLES,
    VALIDATION,
    WEIGHTS,
    begin,
    check_resumed,
    check_same,
    check_writable,
    clean,
    held,
    run_to_go_on,
)
from fastedit.training.runs.lora import default_targets, trainable
from fastedit.training.runs.samples import Sample, Samples
from fastedit.training.runs.settings import RunOptions
from fastedit.training.runs.steps import step_of
from fastedit.training.runs.trackers import check_trackers

try:
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from fastedit.training.runs.trainer import EditTrainer
except ImportError as error:
    package = (error.name or "accelerate").partition(".")[0]
    raise extras.missing(package, "train", "training needs") from error


def run(
    options: RunOptions,
    *,
    resume: bool | str | os.PathLike[str] = False,
    say: Callable[[str], None] = lambda line: None,
    show: Callable[[Sample], None] = lambda sample: None,
    callbacks: Sequence[TrainerCallback] = (),
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] | None = None,
) -> Path:
    """Train; returns the folder of the result: `adapter`, `checkpoint` or `head` in `output`.

    resume  go on from the last complete checkpoint in `output`, or start where there is none; a
            path must be that of `output` or of this checkpoint
    say     gets remarks, a line each; show gets decoded examples; both in the first process only
    optimizer  (module, learning rate) -> its optimiser, in place of AdamW; the rates of its groups
            warm up and fall as that of AdamW would

    Every process of a distributed run calls this with the same options; the first one holds
    `output`, see `fastedit.files.locks`. Raises BlockingIOError where another run has it,
    FileExistsError where it holds a run and `resume` is off, or files that are no run's; ValueError
    for options or data that cannot be trained on, DataError for bad lines, ImportError without peft
    for LoRA, FloatingPointError where the loss diverges, OSError where the disk fills up.
    """
    check_trackers(options.report_to or ())
    if options.lora_rank and not options.head:
        extras.require("peft", "train", "LoRA needs")
    refines = options.edit.labels == "levenshtein"
    if (options.head or refines) and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise ValueError("a head trains beside a whole model: use ddp.yaml, not fsdp2.yaml")
    if options.refinement.start is not None:
        NextTokenHead.read_config(Path(options.refinement.start) / HEAD)  # raises
    output = Path(options.output)
    check_writable(output)
    with held(output):
        return _run(options, output, resume, say, show, callbacks, optimizer)


def _run(
    options: RunOptions,
    output: Path,
    resume: bool | str | os.PathLike[str],
    say: Callable[[str], None],
    show: Callable[[Sample], None],
    callbacks: Sequence[TrainerCallback],
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] | None,
) -> Path:
    check_sources([*options.data, *([options.eval_data] if options.eval_data else [])])
    # Processes first wait for each other in _arguments: until then none of them writes.
    before = run_to_go_on(output, resume is not False)
    last = checkpoints(output)[-1] if before and checkpoints(output) else None
    if not isinstance(resume, bool):
        check_resumed(Path(resume), output, last)
    arguments = _arguments(options, validate=validates(options))
    first = arguments.process_index == 0
    say = say if first else lambda line: None
    if last is None and last_step(output / METRICS):
        say(f"{output} holds no checkpoint of its run: it begins anew")
    origin = identity(options.checkpoint)
    model, tokenizer = _load(options, last, arguments.device)
    form = Form.of(model, tokenizer, options.max_length)
    options = _settled(options, model, tokenizer, form)
    control = control_tokens(options.edit, model, tokenizer, form.mask_token_id)
    form = form._replace(control_ids=control.ids if control else ())
    data = RunData.read(options, tokenizer, form)
    say(data.describe())
    if cut := data.cut_off(model.config.max_position_embeddings):
        say(cut)
    options = _measured_out(options, data, model.config.hidden_size, say)
    steps = cast(int, options.steps)
    arguments.max_steps, arguments.learning_rate = steps, cast(float, options.learning_rate)
    # A run of which the warmup is less than a step has none: it would be a step at rate 0.
    warmup = options.warmup * steps
    arguments.warmup_steps = math.ceil(warmup) if warmup >= 1 else 0
    fingerprint = data.training.fingerprint()
    if before:
        check_same(before, options, fingerprint, origin)
    torch.manual_seed(options.seed)  # the first weights of an adapter or a head
    step = step_of(options, model, tokenizer, form, control)
    say(str(trainable(step)))
    done = int(last.name.rpartition("-")[2]) if last else 0
    order = RunOrder(data.rows, batch_size=options.batch_size, steps=steps, seed=options.seed)
    if first:  # from here on there is a run
        begin(options, fingerprint, before, origin)
    samples_log = StepLog(output / SAMPLES, done) if first and not options.head else None
    trainer = EditTrainer(
        model=step,
        args=arguments,
        data_collator=data.collator,
        train_dataset=order,
        eval_dataset=data.validation_rows(
            arguments.world_size * arguments.per_device_eval_batch_size
        ),
        processing_class=None if options.head else tokenizer,  # what is saved beside the weights
        callbacks=list(callbacks) if first else [],
        log=StepLog(output / METRICS, done) if first else None,
        validation_log=StepLog(output / VALIDATION, done) if first else None,
        samples_log=samples_log,
        optimizer=optimizer,
    )
    trainer.remove_callback(PrinterCallback)
    if first:
        trainer.add_callback(Curves(output, say))
    # A sharded model decodes in all processes or none; text without a prompt asks for nothing.
    if samples_log and data.example and not trainer.is_fsdp_enabled:
        trainer.add_callback(
            Samples(
                data.example,
                tokenizer,
                samples_log,
                options.eval_every,
                form.block_size,
                form.mask_token_id,
                say,
                show,
                step.policy,
            )
        )
    if last:
        if done < steps:
            say(f"going on after step {done} of {steps}, from {last}")
        else:
            say(f"nothing is left to train: all {done} steps are done")
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    advice = trainer.step.advice(trainer.seen) if done < steps else None
    if advice:
        say(advice)
    result = output / (HEAD if options.head else ADAPTER if options.lora_rank else WEIGHTS)
    trainer.export(result)
    if step.beside is not None:
        what = (
            f"--checkpoint {options.checkpoint} --adapter" if options.lora_rank else "--checkpoint"
        )
        how = f"--head {output / HEAD} --policy {step.policy}"
        say(f"try it: fastedit generate {what} {result} {how} ...")
    if first:
        clean(output)
    return result


def _measured_out(
    options: RunOptions, data: RunData, width: int, say: Callable[[str], None]
) -> RunOptions:
    """`options` with what they leave to the data filled in; what that is, is said."""
    chosen = []
    if options.steps is None:
        steps, passes = steps_of(len(data.rows), options.batch_size)
        options = replace(options, steps=steps)
        times = "once" if passes == 1 else f"{passes} times"
        chosen.append(f"steps={steps}: the data is read {times}; --steps takes another number")
    if options.learning_rate is None:
        rate = learning_rate_of(options, cast(int, options.steps), width)
        options = replace(options, learning_rate=rate)
        chosen.append(f"learning_rate={rate:g}; --learning-rate takes another one")
    for line in chosen:
        say(line)
    return replace(options, packing=data.packed)


def _settled(options: RunOptions, model: Any, tokenizer: Any, form: Form) -> RunOptions:
    """`options` with what they leave to the model filled in, as `run.json` holds them."""
    reading = Reading.of(model)
    options = replace(options, max_length=form.max_length)
    if options.head:
        banned = sorted(set(special_ids(tokenizer)) - {form.eos_token_id, form.mask_token_id})
        return replace(
            options, correction=options.correction.settled(reading.attention, tuple(banned))
        )
    edit = options.edit.for_attention(reading.attention)
    if edit.labels == "levenshtein":
        check_reading(reading)  # before the data is read
        named = [getattr(owner, "pad_token_id", None) for owner in (model.config, tokenizer)]
        refinement = options.refinement.settled(named, form.eos_token_id)
        options = replace(options, refinement=refinement)
    return replace(
        options,
        edit=edit,
        lora_targets=options.lora_targets or default_targets(model),
    )


def _arguments(options: RunOptions, validate: bool) -> TrainingArguments:
    """The Trainer's arguments. Raises ValueError where the batch does not divide evenly."""
    cpu = options.device == "cpu" or not torch.accelerator.is_available()
    rows, micro_batches = options.micro_batches(PartialState(cpu=cpu).num_processes)
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported() and not cpu
    arguments = TrainingArguments(
        output_dir=options.output,
        max_steps=options.steps or 1,  # what they are is known when the data has been read
        seed=options.seed,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=rows,
        gradient_accumulation_steps=micro_batches,
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": options.min_learning_rate},
        use_cpu=cpu,
        bf16=options.precision == "bf16" or (options.precision == "auto" and bf16),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=options.save_every,
        save_total_limit=options.keep,
        eval_strategy="steps" if validate else "no",
        eval_steps=options.eval_every,
        report_to=list(options.report_to or ()),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not cpu,
        ddp_find_unused_parameters=False,
    )
    # One process uses one GPU; several would be nn.DataParallel, which splits rows behind our back.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _load(options: RunOptions, last: Path | None, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer; where all weights train, those of the last checkpoint."""
    dtype = "float32" if options.dtype == "auto" and not options.lora_rank else options.dtype
    whole = last is not None and not options.head and (last / "config.json").exists()
    return load(str(last) if whole else options.checkpoint, None, dtype, device, None)
