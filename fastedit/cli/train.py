"""`fastedit train`: teach a checkpoint to repair its own drafts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastedit.cli.errors import InterruptedRunError, UserError, one_line
from fastedit.cli.options import option
from fastedit.files.jsonl import DataError, as_line

if TYPE_CHECKING:
    from fastedit.training.runs.settings import RunOptions


_RUN, _DATA, _MODEL = "Run", "Data", "Model and optimiser"


def train_command(
    checkpoint: Annotated[
        str | None, option("Folder, Hub id, or 'tiny' (default).", _RUN, metavar="PATH|ID")
    ] = None,
    data: Annotated[
        list[str] | None,
        option(
            "JSON Lines (.gz too) of messages, prompt and completion, or text; or task:NAME. "
            "Repeatable.",
            _RUN,
            metavar="FILE|task:NAME",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option("Folder of checkpoints, metrics.jsonl and the result; default: run.", _RUN),
    ] = None,
    t2t: Annotated[
        str | None,
        option(
            "Wrong tokens to repair: none, random or the model's own drafts.",
            _RUN,
            metavar="none|random|self",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        option(
            "What drafts are taught: plain, the data's tokens; lcs, to insert and delete in blocks "
            "(block-causal); levenshtein, the same in texts (full attention).",
            _RUN,
            metavar="plain|lcs|levenshtein",
        ),
    ] = None,
    head: Annotated[
        str | None,
        option(
            "Train a correction head on the frozen checkpoint's errors.", _RUN, metavar="correction"
        ),
    ] = None,
    steps: Annotated[int | None, option("Optimiser steps; default: by the data.", _RUN)] = None,
    seed: Annotated[int | None, option("Of order, noise and the adapter's start.", _RUN)] = None,
    config: Annotated[
        Path | None, option("YAML with any option of docs/training.md; flags win.", _RUN)
    ] = None,
    resume: Annotated[
        bool, option("Go on from the last checkpoint, if there is one.", _RUN, "--resume")
    ] = False,
    set: Annotated[
        list[str] | None,
        option(
            "Any other option; edit.NAME for the step's, correction.NAME for the head's.",
            _RUN,
            metavar="NAME=VALUE",
        ),
    ] = None,
    eval_data: Annotated[
        str | None, option("As --data; tasks give held-out problems.", _DATA)
    ] = None,
    on_bad_line: Annotated[
        str | None, option("What a bad line does.", _DATA, metavar="stop|skip")
    ] = None,
    max_length: Annotated[
        int | None,
        option(
            "Tokens per row; longer is cut off. Default: 2048, or the model's positions.", _DATA
        ),
    ] = None,
    packing: Annotated[
        bool | None, option("Several documents in a row.", _DATA, "--packing/--no-packing")
    ] = None,
    batch_size: Annotated[int | None, option("Rows per step, all processes.", _MODEL)] = None,
    micro_batch: Annotated[int | None, option("Rows per forward, if not all.", _MODEL)] = None,
    learning_rate: Annotated[
        float | None, option("The highest; default: by the steps.", _MODEL)
    ] = None,
    lora_rank: Annotated[int | None, option("0: train every weight.", _MODEL)] = None,
    full: Annotated[bool, option("As --lora-rank 0.", _MODEL, "--full")] = False,
    dtype: Annotated[str | None, option("Of the weights; auto: as stored.", _MODEL)] = None,
    device: Annotated[str | None, option("Where it runs.", _MODEL, metavar="auto|cpu")] = None,
    save_every: Annotated[int | None, option("Steps between checkpoints.", _RUN)] = None,
    eval_every: Annotated[
        int | None, option("Steps between validations and example decodes.", _RUN)
    ] = None,
    report_to: Annotated[
        list[str] | None,
        option("Also report to it; repeatable.", _RUN, metavar="tensorboard|wandb|..."),
    ] = None,
) -> None:
    """Train a LoRA adapter, or all weights, on wrong tokens as well as on masks; or a head that
    finds them.

    Start it with `accelerate launch` or `torchrun` to use several processes.
    """
    given: dict[str, Any] = {
        "checkpoint": checkpoint,
        "data": data or None,
        "output": None if output is None else str(output),
        "head": head,
        "steps": steps,
        "seed": seed,
        "eval_data": eval_data,
        "on_bad_line": on_bad_line,
        "max_length": max_length,
        "packing": packing,
        "batch_size": batch_size,
        "micro_batch": micro_batch,
        "learning_rate": learning_rate,
        "lora_rank": _rank(lora_rank, full),
        "dtype": dtype,
        "device": device,
        "save_every": save_every,
        "eval_every": eval_every,
        "report_to": report_to or None,
    }
    flags = {n: v for n, v in given.items() if v is not None}
    values = _merged(config, flags, set or [], {"t2t": t2t, "labels": labels})
    unsaid = []
    if not values.get("output"):
        unsaid.append("the run goes to run; --output names it")
    if not values.get("checkpoint"):
        unsaid.append("the embedded checkpoint trains, tiny; --checkpoint names another")
    _train(_run_options(values), resume, unsaid)


def _rank(lora_rank: int | None, full: bool) -> int | None:
    if full and lora_rank:
        raise UserError(f"--full trains every weight, and --lora-rank {lora_rank} does not")
    return 0 if full else lora_rank


def _merged(
    config: Path | None, flags: dict[str, Any], settings: list[str], edit: dict[str, str | None]
) -> dict[str, Any]:
    """The file, then --set, then flags; `edit` holds the flags of the step."""
    import yaml

    from fastedit.training.runs.settings import PARTS

    values: Any = {}
    if config is not None:
        try:
            values = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise UserError(f"cannot read {config}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeError) as error:
            raise UserError(f"{config} is not YAML: {as_line(error)}") from error
        if not isinstance(values, dict) or not all(
            isinstance(values.get(part, {}), dict) for part in PARTS
        ):
            raise UserError(
                f"{config} must hold `option: value` lines; {' and '.join(PARTS)} hold their own"
            )
    values = {**values, **{part: dict(values.get(part, {})) for part in PARTS}}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name in PARTS:
            forms = ["NAME=VALUE", *(f"{part}.NAME=VALUE" for part in PARTS)]
            raise UserError(f"--set {setting!r} must be {', or '.join(forms)}")
        part, dot, own = name.partition(".")
        target, name = (values[part], own) if dot and part in PARTS else (values, name)
        try:
            target[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"--set {setting!r}: the value is not YAML: {as_line(error)}"
            ) from error
    values["edit"] |= {name: value for name, value in edit.items() if value is not None}
    return {**values, **flags}


def _run_options(values: dict[str, Any]) -> RunOptions:
    from fastedit.training.runs.settings import RunOptions

    required = ("checkpoint", "data")
    missing = [name for name in required if values.get(name) in (None, "", [])]
    if "data" in missing:
        raise UserError(f"missing: {', '.join(f'--{name}' for name in missing)}")
    if missing:
        values = {**values, "checkpoint": "tiny"}
    with one_line(ValueError, TypeError):
        return RunOptions.from_mapping(values)


def _train(options: RunOptions, resume: bool, unsaid: list[str]) -> None:
    """unsaid: what the user left to us, said before the first remark."""
    try:
        from fastedit.cli.ctrl_c import SaveOnCtrlC
        from fastedit.cli.progress import TrainingProgress
        from fastedit.memory.capacity import out_of_memory
        from fastedit.training.runs.folder import first_process
        from fastedit.training.runs.run import run
    except ImportError as error:
        raise UserError(as_line(error)) from error
    from transformers.utils import logging

    logging.disable_progress_bar()
    progress = TrainingProgress(visible=first_process())

    def say(line: str) -> None:
        while unsaid:
            progress.say(unsaid.pop())
        progress.say(line)

    try:
        with progress, SaveOnCtrlC(progress.say) as ctrl_c:
            result = run(
                options,
                resume=resume,
                say=say,
                show=progress.show,
                callbacks=[progress, ctrl_c],
            )
    except DataError as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if out_of_memory(error):
            raise UserError(_memory_advice(options, error)) from error
        raise
    except KeyboardInterrupt:
        left = _left(Path(options.output))
        raise InterruptedRunError(f"interrupted: the same command with --resume {left}") from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        raise UserError(as_line(error)) from error
    progress.say(f"result in {result}")
    if options.edit.labels == "levenshtein":  # the run has said how, as it takes ids
        return
    base, way = f"--checkpoint {options.checkpoint}", " --adapter"
    if options.head:
        way = " --policy correction --head"
    elif not options.lora_rank:
        base, way = "", "--checkpoint"
    rule = " --policy joint_threshold_indel" if options.edit.labels == "lcs" else ""
    progress.say(f"try it: fastedit generate {base}{way} {result}{rule} ...")
    if options.steps is None and options.lora_rank and not options.head:
        compared = f"fastedit eval --data HELD_OUT {base}{way} {result} --baseline"
        progress.say(f"is it enough? {compared}")
        progress.say("where it is not: more examples help most, then a larger --steps")


def _left(output: Path) -> str:
    """What an interrupted run goes on from, and which of its steps that holds."""
    from fastedit.training.runs.checkpoints import checkpoints, last_step
    from fastedit.training.runs.folder import METRICS

    saved = checkpoints(output)
    if not saved:
        return "starts anew, since no checkpoint is saved"
    step, done = int(saved[-1].name.rpartition("-")[2]), last_step(output / METRICS)
    held = "all steps" if step >= done else f"{step} of {done} steps"
    return f"goes on from {saved[-1]}, where {held} are saved"


def _memory_advice(options: RunOptions, error: Exception) -> str:
    """What to change, the cheapest first: what --resume allows, then what needs a new run."""
    from fastedit.training.data.documents import LONGEST

    rows, _ = options.micro_batches(int(os.environ.get("WORLD_SIZE", "1")))
    advice = []
    if rows > 1:
        fewer = next(n for n in range(rows // 2, 0, -1) if rows % n == 0)
        advice.append(f"--micro-batch {fewer} (now {rows} rows per forward; same result)")
    if not (options.gradient_checkpointing or options.head):
        advice.append("--set gradient_checkpointing=true (slower; same result)")
    length = options.max_length or LONGEST
    advice.append(f"in a new run: a smaller --max-length (now {length})")
    if not options.lora_rank:
        advice.append("in a new run: LoRA instead of all weights, --lora-rank 16")
    if not options.head and options.edit.labels != "levenshtein":  # else a model is whole
        advice.append("in a new run: more devices, with the FSDP2 file, see docs/training.md")
    lines = "\n  ".join(advice)
    return f"out of memory: {str(error).splitlines()[0]}\n  {lines}"
