"""A run on checkpoints of other families, from the command's options to a decoded prompt."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from family_models import KINDS, family_model

import fastedit.training
from fastedit import Decoder
from fastedit.evaluation.errors.survey import Survey
from fastedit.training.runs.run import run
from fastedit.training.runs.settings import RunOptions

SHARDED = Path(__file__).parents[1] / "sharded.py"
LAUNCH = Path(fastedit.training.__file__).parent / "launch"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def whole_numbers(record: dict) -> dict:
    return {name: value for name, value in record.items() if isinstance(value, int)}


@pytest.fixture
def checkpoint(request, tokenizer, tmp_path) -> Path:
    """A folder as on the Hub: published names, and a tokenizer of bytes."""
    folder = tmp_path / request.param
    blocks = {"sdar": "block_size", "fast_dllm_v2": "bd_size"}.get(request.param)
    options = {blocks: 4} if blocks else {}
    ids = {"eos_token_id": tokenizer.eos_token_id, "mask_token_id": 257}
    model = family_model(request.param, vocab=len(tokenizer), **ids, **options)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options_of(checkpoint: Path, tmp_path: Path, **others) -> RunOptions:
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": f"{n:02}?", "completion": f"{n:02}{n:02}!"} for n in range(24)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {"steps": 4, "batch_size": 4, "save_every": 2, "max_length": 64, "device": "cpu"}
    values |= {"learning_rate": 0.01, "eval_data": str(data), "eval_examples": 4, "eval_every": 4}
    return RunOptions(str(checkpoint), (str(data),), str(tmp_path / "run"), **values | others)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*.safetensors")))


QUICK = (("llada", 0), ("dream", 4))


@pytest.mark.parametrize(
    ("checkpoint", "rank"),
    [
        pytest.param(name, rank, marks=[] if (name, rank) in QUICK else [pytest.mark.slow])
        for name in KINDS
        for rank in (0, 4)
    ],
    indirect=["checkpoint"],
)
def test_a_run_resumes_and_its_result_loads(checkpoint, rank, tmp_path):
    options = options_of(checkpoint, tmp_path, lora_rank=rank)
    result = run(options)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    full = checkpoint.name not in ("sdar", "fast_dllm_v2")
    assert facts["edit"]["noise"] == ("uniform(0.001,1)" if full else "uniform_seq(0.3,0.8)")
    assert facts["lora_targets"][:4] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    samples = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert samples and not any(json.loads(line)["text"].startswith("(") for line in samples)
    found, log = weights(result), (tmp_path / "run" / "metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    run(options, resume=True)
    again = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    losses = [json.loads(line)["loss"] for line in log.splitlines()]
    assert [line["loss"] for line in again] == losses
    for name, tensor in weights(result).items():
        assert torch.equal(tensor, found[name]), name

    if rank:
        decoder = Decoder.from_pretrained(str(checkpoint), adapter=str(result), device="cpu")
    else:
        assert found.keys() == weights(checkpoint).keys()
        decoder = Decoder.from_pretrained(str(result), device="cpu")
    assert len(
        decoder.generate("05?", max_new_tokens=8, cache="none", mask_token_id=257).sequences[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "command"),
    [
        ("dream", "ddp_cpu.yaml --main_process_port {port} -m fastedit"),
        ("fast_dllm_v2", "fsdp2.yaml --mixed_precision no --main_process_port {port} {sharded}"),
    ],
    indirect=["checkpoint"],
)
def test_two_processes_train_as_one(checkpoint, command, tmp_path):
    """Layers are sharded that no launch file names."""
    options = options_of(checkpoint, tmp_path, packing=False, lora_rank=4)
    run(options)
    values = {**asdict(options), "output": str(tmp_path / "two")}
    del values["edit"]  # nothing of it was given
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(values))  # JSON is YAML
    launcher = f"accelerate.commands.launch --config_file {LAUNCH}/{command}"
    launcher = launcher.format(port=free_port(), sharded=SHARDED)
    done = subprocess.run(
        [sys.executable, "-m", *launcher.split(), "train", "--config", config],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    alone, two = (tmp_path / name for name in ("run", "two"))
    for one, other in zip(records(alone, "metrics"), records(two, "metrics"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert whole_numbers(other) == whole_numbers(one)


@pytest.mark.parametrize("checkpoint", ["fast_dllm_v2", "dream"], indirect=True)
def test_errors_before_and_after_can_be_surveyed(checkpoint, tmp_path):
    options = options_of(checkpoint, tmp_path)
    survey = Survey(options.data[0], samples=6)
    decoder = Decoder.from_pretrained(str(checkpoint), device="cpu")
    answers = survey.ask(decoder.model, decoder.tokenizer)
    report = survey.report(answers, answers)
    assert report["drafts"]["all"]["before"]["tokens"] > 20
    assert report["decoding"]["before"]["tokens"] > 20
