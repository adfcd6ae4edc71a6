"""The trainer around the step: what a loss is divided by, and that training trains."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("accelerate")

from fastedit.files.jsonl import BadLines
from fastedit.training.data.collator import Collator
from fastedit.training.data.documents import Form, tokenise
from fastedit.training.data.order import RunOrder
from fastedit.training.data.texts import read_examples
from fastedit.training.runs.checkpoints import checkpoints
from fastedit.training.runs.lora import add_lora
from fastedit.training.runs.run import run
from fastedit.training.runs.settings import PARTS, RunOptions
from fastedit.training.step import EditStep


@pytest.fixture
def train(tmp_path):
    """Trains on the CPU; returns the lines of metrics.jsonl."""
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": f"{n}?", "completion": f"{n} zebras, " * (1 + 2 * n)} for n in range(6)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def train_once(name: str = "run", optimizer=None, **changes) -> list[dict]:
        values = {
            "checkpoint": "tiny",
            "data": str(data),
            "output": str(tmp_path / name),
            "steps": 3,
            "batch_size": 6,
            "max_length": 64,
            "device": "cpu",
            "edit": {"t2t": "random"},
        }
        run(RunOptions.from_mapping({**values, **changes}), optimizer=optimizer)
        text = (tmp_path / name / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    train_once.data = data
    return train_once


def test_the_loss_is_divided_once_by_all_labels(train, tiny_model, tiny_tokenizer):
    """By hand: the sum over every row of the step, over every label of the step."""
    bad = BadLines()
    documents = tokenise(
        read_examples([str(train.data)], tiny_tokenizer, bad),
        tiny_tokenizer,
        bad,
        Form(32, 64, 0, 1),
    ).items
    order = RunOrder([[n] for n in range(6)], batch_size=6, steps=1, seed=0)
    collate = Collator(documents, examples=6, eos_token_id=0, block_size=32)
    options = RunOptions.from_mapping(
        {"checkpoint": "tiny", "data": "x", "output": "y", "steps": 1, "edit": {"t2t": "random"}}
    )
    step = EditStep(
        add_lora(tiny_model), options.edit, seed=0, mask_token_id=1, forbid_ids=range(6)
    ).train()
    outputs = [step(**collate([order[place]])) for place in range(6)]
    labels = sum(int(output.labels) for output in outputs)
    by_hand = sum(float(output.loss.detach()) for output in outputs) / labels
    counts = {int(output.labels) for output in outputs}
    assert len(counts) > 1  # a mean of means would be another number
    for micro_batch in (6, 1):
        [first, *_] = train(f"{micro_batch}", micro_batch=micro_batch, packing=False, steps=1)
        assert first["labels"] == labels
        assert first["loss"] == pytest.approx(by_hand, rel=1e-5)


def test_validation_changes_nothing(train):
    """Six rows in batches of nine: three are repeated, with noise of their own.

    Seven examples are validated on, after the first step too.
    """
    validation = train.data.with_name("validation.jsonl")
    validation.write_text(train.data.read_text() * 2)
    options = {"batch_size": 9, "packing": False, "steps": 2, "edit": {"t2t": "random"}}
    without = train("without", eval_examples=0, **options)
    beside = train("beside", eval_data=str(validation), eval_examples=7, eval_every=1, **options)
    assert [line["loss"] for line in beside] == [line["loss"] for line in without]


def test_what_saves_memory_changes_nothing(train):
    options = {"learning_rate": 1e-3, "steps": 2, "edit": {"t2t": "self"}}
    rates = ("masked_accuracy", "draft_error_rate", "false_edit_rate")
    plain = train("plain", **options)
    sparing = train("sparing", **options, micro_batch=2, gradient_checkpointing=True)
    for one, two in zip(plain, sparing, strict=True):
        for name in ("loss", "grad_norm", *rates, "labels", "tokens"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)


def test_packing_changes_layout_not_noise(train):
    """Six documents in two rows: each has the noise and the attention it has alone."""
    packed = train("packed", batch_size=2, max_length=256, steps=1)
    alone = train("alone", max_length=128, packing=False, steps=1)
    assert packed[0]["tokens"] == alone[0]["tokens"]
    assert (packed[0]["epoch"], alone[0]["epoch"]) == (1.0, 1.0)
    assert packed[0]["labels"] == alone[0]["labels"]
    assert packed[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "t2t", [*(pytest.param(t, marks=pytest.mark.slow) for t in ("none", "random")), "self"]
)
def test_training_trains(train, t2t):
    losses = [line["loss"] for line in train(steps=12, learning_rate=1e-2, edit={"t2t": t2t})]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


@pytest.mark.parametrize("steps", [1, 3])
def test_a_short_run_has_no_step_at_rate_0(train, steps):
    rates = [record["learning_rate"] for record in train(steps=steps)]
    assert len(rates) == steps and all(rate > 0 for rate in rates)


def test_an_optimiser_of_ones_own_takes_the_place_of_adamw(train):
    """The schedule scales the rate of each of its groups."""
    made = []

    def sgd(module, learning_rate):
        weights = [p for p in module.parameters() if p.requires_grad]
        groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": learning_rate / 10}]
        made.append(torch.optim.SGD(groups, lr=learning_rate))
        return made[-1]

    options = {"learning_rate": 0.5, "warmup": 0.0, "min_learning_rate": 0.5, "steps": 2}
    own = train("own", optimizer=sgd, **options)
    rates = [line["learning_rate"] for line in own]
    assert rates == pytest.approx([0.5, 0.375])
    (optimizer,) = made
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.25, 0.025])
    assert train("adamw", **options)[1]["loss"] != own[1]["loss"]


def test_a_loss_that_is_no_number_stops_the_run(train, tmp_path):
    with pytest.raises(
        FloatingPointError, match="at step 2: start anew, with a lower --learning-rate"
    ):
        train(learning_rate=1e30, warmup=0.0, save_every=1, steps=9)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-1"]


def test_a_result_in_bf16_and_with_all_weights(train, tmp_path):
    from fastedit import Decoder

    train("whole", lora_rank=0, steps=1)
    decoder = Decoder.from_pretrained(str(tmp_path / "whole" / "checkpoint"), device="cpu")
    assert decoder.model.lm_head.weight.dtype == torch.float32
    assert decoder.generate("1?", max_new_tokens=32).texts
    train("half", dtype="bfloat16", steps=1)
    folder = tmp_path / "half" / "adapter"
    decoder = Decoder.from_pretrained("tiny", adapter=str(folder), device="cpu")
    assert decoder.generate("1?", max_new_tokens=32).texts


def test_batches_must_divide_evenly():
    options = RunOptions("tiny", ("x",), "y", 1, batch_size=12, micro_batch=3)
    assert options.micro_batches(2) == (3, 2)
    for processes in (3, 5, 24):
        with pytest.raises(ValueError, match=f"batch_size=12 must be a multiple of {processes} "):
            options.micro_batches(processes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps=0 must be an integer of at least 1"),
        ({"steps": "many"}, "steps='many' must be"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be a number"),
        ({"learning_rate": 0}, "learning_rate=0.0 must be positive"),
        ({"warmup": 2}, "warmup=2.0 must lie between 0 and 1"),
        ({"packing": "maybe"}, "packing='maybe' must be true or false"),
        ({"dtype": "int8"}, "dtype='int8' must be auto or"),
        ({"data": []}, "data is missing"),
        ({"colour": 1}, "unknown option colour; known: checkpoint"),
        ({"edit": {"colour": 1}}, r"unknown option edit\.colour; known: edit\.t2t"),
        ({"edit": {"t2t": "some"}}, "t2t must be one of none, random, self"),
        ({"max_length": "abc"}, "max_length='abc' must be an integer"),
        ({"max_length": 0}, "max_length=0 must be an integer of at least 1"),
        ({"lora_rank": None}, "lora_rank=None must be an integer"),
        ({"prompt_field": None}, "prompt_field=None must be a text"),
        ({"lora_targets": 5}, r"lora_targets=5 must be a list of texts, such as \[a, b\]"),
        ({"seed": 2**32}, "seed=4294967296 must be an integer from 0 to 4294967295"),
        ({"edit": "self"}, "edit='self' must be a mapping"),
        ({"edit": {"n_drafts": 1.5}}, "n_drafts=1.5 must be an integer"),
        ({"edit": {"draft_forbid": 5}}, r"draft_forbid=5 must be a list of integers, such as \["),
    ],
)
def test_bad_options_are_named(values, message):
    base = {"checkpoint": "tiny", "data": "x", "output": "y", "steps": 1}
    assert RunOptions.from_mapping({**base, "learning_rate": "1e-4"}).learning_rate == 1e-4
    with pytest.raises(ValueError, match=message):
        RunOptions.from_mapping({**base, **values})


def test_yaml_is_read_as_it_was_meant():
    import yaml

    text = """
    {checkpoint: tiny, data: x, output: 7, steps: 1, learning_rate: 1e-4, lora_targets: [dense],
     edit: {share_clean: off, draft_adapter: on, mask_weight: 1, r_edit: 0, draft_forbid: [3]}}
    """
    options = RunOptions.from_mapping(yaml.safe_load(text))
    assert options.data == ("x",) and options.lora_targets == ("dense",)
    assert options.output == "7" and options.learning_rate == 1e-4
    edit = options.edit
    assert (edit.share_clean, edit.draft_adapter, edit.mask_weight) == ("off", "on", "1")
    assert edit.r_edit == 0.0 and edit.draft_forbid == (3,)


def test_the_manual_has_every_option_and_its_default():
    """But for those whose default it puts in words."""
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    tables = text.partition("## Options")[2].partition("## Killed")[0]
    found = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|[^|]*\|$", tables, flags=re.MULTILINE)
    rows = dict(found)
    in_words = {"steps", "micro_batch", "eval_data", "draft_forbid", *PARTS}
    kinds = (RunOptions, *(kind for kind, _ in PARTS.values()))
    options = [option for kind in kinds for option in fields(kind)]
    for option in options:
        default = option.default
        if default is MISSING or option.name in in_words:
            continue
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert rows.pop(option.name) == (shown.lower() if isinstance(default, bool) else shown)
    assert set(rows) <= in_words
    for name in in_words | {"checkpoint", "data", "output"}:
        assert f"`{name}`" in text or f"`{name}:`" in text


def test_the_launch_files_leave_the_layers_to_the_model():
    import yaml

    import fastedit.training

    folder = Path(fastedit.training.__file__).parent / "launch"
    files = {path.name: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    assert set(files) == {"ddp.yaml", "ddp_cpu.yaml", "fsdp2.yaml"}
    sharding = files["fsdp2.yaml"]["fsdp_config"]
    assert sharding["fsdp_version"] == 2
    assert sharding["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert "fsdp_transformer_layer_cls_to_wrap" not in sharding  # `EditStep` names them


def test_paths_are_names():
    names = RunOptions("tiny", ("a.jsonl",), "out", 1, eval_data="b.jsonl")
    paths = RunOptions(Path("tiny"), [Path("a.jsonl")], Path("out"), 1, eval_data=Path("b.jsonl"))
    assert paths == names == replace(names, data=Path("a.jsonl"))
    assert json.dumps(paths.facts())
