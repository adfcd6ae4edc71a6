"""Two processes over gloo train as one does, from the launch file in the package."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("reasoning_gym")
pytest.importorskip("accelerate")

import fastedit.training

LAUNCH = Path(fastedit.training.__file__).parent / "launch"
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
    "edit": {"t2t": "self"},
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    from fastedit.training.run import run
    from fastedit.training.settings import RunOptions

    output = tmp_path_factory.mktemp("alone")
    run(RunOptions.from_mapping({**OPTIONS, "device": "cpu", "output": str(output)}))
    return output


@pytest.mark.parametrize(
    "launcher",
    [
        ["accelerate.commands.launch", "--config_file", str(LAUNCH / "ddp_cpu.yaml")],
        pytest.param(
            ["torch.distributed.run", "--nproc_per_node", "2"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["accelerate", "torchrun"],
)
def test_two_processes_train_as_one(launcher, alone, tmp_path):
    """The same rows, noise and division: losses differ by rounding, counts not at all.

    Each takes 2 rows per step in 2 micro-batches; validation's 3 rows do not split evenly.
    """
    port = "--main_process_port" if "accelerate" in launcher[0] else "--master_port"
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(OPTIONS))  # JSON is YAML
    command = f"-m fastedit train --config {config} --micro-batch 1 --output {tmp_path}"
    done = subprocess.run(
        [sys.executable, "-m", *launcher, port, str(free_port()), *command.split()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("parameters train") == 1  # one of them speaks
    assert (tmp_path / "checkpoint-3" / "rng_state_1.pth").exists()  # there were two
    for name, loss in (("metrics", "loss"), ("validation", "eval_loss")):
        pairs = zip(records(alone, name), records(tmp_path, name), strict=True)
        for one, two in pairs:
            assert two[loss] == pytest.approx(one[loss], rel=1e-4)
            assert {k: v for k, v in two.items() if isinstance(v, int)} == {
                k: v for k, v in one.items() if isinstance(v, int)
            }
