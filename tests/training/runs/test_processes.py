"""Two processes over gloo train as one does, by the launch files in the package."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("peft")
pytest.importorskip("reasoning_gym")
pytest.importorskip("accelerate")

import fastedit.training

SHARDED = Path(__file__).parents[1] / "sharded.py"
LAUNCH = Path(fastedit.training.__file__).parent / "launch"
ADAPTER = "adapter_model.safetensors"
OPTIONS = {
    "checkpoint": "tiny",
    "data": ["task:chain_sum,examples=20"],
    "steps": 3,
    "batch_size": 4,
    "max_length": 64,
    "packing": False,
    "learning_rate": 5e-3,
    "save_every": 2,
    "eval_every": 2,
    "eval_examples": 3,
    "edit": {"t2t": "self", "labels": "lcs", "turns": 2, "noise": "fixed(0.9)"},
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def whole_numbers(record: dict) -> dict:
    return {name: value for name, value in record.items() if isinstance(value, int)}


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    output = tmp_path_factory.mktemp("alone")
    run(RunOptions.from_mapping({**OPTIONS, "device": "cpu", "output": str(output)}))
    return output


@pytest.mark.parametrize(
    "command",
    [
        "accelerate.commands.launch --config_file {launch}/ddp_cpu.yaml --main_process_port {port} "
        "-m fastedit",
        pytest.param(
            "torch.distributed.run --nproc_per_node 2 --master_port {port} -m fastedit",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "accelerate.commands.launch --config_file {launch}/fsdp2.yaml --mixed_precision no "
            "--main_process_port {port} {sharded}",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["accelerate", "torchrun", "fsdp2"],
)
def test_two_processes_train_as_one(command, alone, tmp_path):
    """The same rows, noise and division: losses differ by rounding, counts not at all.

    Each takes 2 rows per step in 2 micro-batches; validation's 3 rows do not split evenly.
    """
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**OPTIONS, "micro_batch": 1, "device": "cpu"}))  # JSON is YAML
    launcher = command.format(launch=LAUNCH, port=free_port(), sharded=SHARDED).split()
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "train", "--config", config, "--output", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("parameters train") == 1  # one of them speaks
    assert (tmp_path / "checkpoint-3" / "rng_state_1.pth").exists()  # there were two
    assert (tmp_path / "checkpoint-3" / "optimizer_0").exists() == ("fsdp2" in command)
    for name, loss in (("metrics", "loss"), ("validation", "eval_loss")):
        pairs = zip(records(alone, name), records(tmp_path, name), strict=True)
        for one, two in pairs:
            assert two[loss] == pytest.approx(one[loss], rel=1e-4)
            assert whole_numbers(two) == whole_numbers(one)
    expected, found = (load_file(f / "adapter" / ADAPTER) for f in (alone, tmp_path))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)
