"""`fastedit info`: what is there, what is not, and why."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
import transformers

import fastedit
from fastedit import extras
from fastedit.cli import info
from fastedit.models.llada2 import varlen


def test_json(run):
    code, out, err = run("info", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["fastedit"] == fastedit.__version__
    assert report["packages"]["torch"] == torch.__version__
    assert report["packages"]["transformers"] == transformers.__version__
    assert report["python"] == sys.version.split()[0]
    assert report["system"]["threads"] == torch.get_num_threads()
    assert bool(report["devices"]) == torch.accelerator.is_available()
    for backends in report["backends"].values():
        assert list(backends.values()).count("in use") == 1
        assert all(reason for reason in backends.values())


@pytest.mark.parametrize(
    ("device", "rocm", "installed", "capability", "used"),
    [
        ("cpu", False, False, None, {"SDPA with a mask": "in use"}),
        ("cuda", False, False, (9, 0), {"torch varlen_attn": "in use, in bf16 and fp16"}),
        ("cuda", False, True, (9, 0), {"torch varlen_attn": "in use, in bf16 and fp16"}),
        ("cuda", False, True, (7, 5), {"SDPA with a mask": "in use"}),
        ("cuda", True, True, None, {"flash-attn": "in use, in bf16 and fp16"}),
        ("cuda", True, False, None, {"SDPA with a mask": "in use"}),
    ],
)
def test_attention_says_what_is_in_use_and_why_not(
    monkeypatch, device, rocm, installed, capability, used
):
    monkeypatch.setattr(torch.version, "hip", "6.4" if rocm else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = importlib.util.find_spec("torch") if installed else None
    monkeypatch.setattr(varlen.importlib.util, "find_spec", lambda _: found)
    varlen._kernel.cache_clear()
    try:
        report = varlen.report(torch.device(device))
    finally:
        varlen._kernel.cache_clear()
    assert used.items() <= report.items() and all(report.values())
    in_use = {name for name, state in report.items() if state.startswith("in use")}
    assert in_use == {"SDPA with a mask", *used}
    if rocm and not installed:
        assert extras.install("flash") in report["flash-attn"]


def test_text_names_the_back_end_and_why_not_the_others(run):
    from fastedit.ops import use_backend

    with use_backend("reference"):
        code, out, _ = run("info")
    assert code == 0
    assert "row_stats" in out and "joint_threshold_step_" in out
    assert "reference" in out and "not triton: " in out
    if not torch.accelerator.is_available():
        assert "SDPA with a mask" in out and "not flash-attn: " in out


def test_embedded_checkpoint(decoder, checkpoint, monkeypatch, tmp_path):
    from pathlib import Path

    from fastedit.models import load as loading

    monkeypatch.setattr(loading, "TINY", Path(checkpoint))
    found = info.embedded_checkpoint()
    assert found["present"] and found["bytes"] > 4 * found["parameters"]
    assert found["parameters"] == sum(p.numel() for p in decoder.model.state_dict().values())
    monkeypatch.setattr(loading, "TINY", tmp_path / "missing")
    assert info.embedded_checkpoint()["present"] is False


def test_the_other_fastedit_is_reported(run, monkeypatch):
    version = info.metadata.version
    monkeypatch.setattr(
        info.metadata, "version", lambda name: "9.9" if name == "fastedit" else version(name)
    )
    code, _, err = run("info")
    assert code == 0
    assert "'fastedit' 9.9 is installed too" in err and "fastedit-dlm" in err


def test_an_unknown_back_end_is_one_line(run, monkeypatch):
    monkeypatch.setenv("FASTEDIT_BACKEND", "abacus")
    code, _, err = run("info")
    assert code == 2
    assert err.startswith("fastedit: unknown back end 'abacus'")


@pytest.mark.parametrize("family", ["llada", "dream", "sdar", "llada_moe", "fast_dllm_v2", "tiny"])
def test_a_checkpoint_is_described_as_it_loads(run, golden_folder, family):
    from fastedit import Decoder

    checkpoint = family if family == "tiny" else golden_folder / "families" / family
    code, out, err = run("info", checkpoint, "--json")
    assert (code, err) == (0, "")
    report, made = json.loads(out), Decoder.from_pretrained(checkpoint, device="cpu")
    config, parameters = made.model.config, list(made.model.parameters())
    assert report["model_type"] == config.model_type and report["policy"] == made.family.policy
    assert report["block_length"] == (made.family.block_length or config.block_size)
    assert report["layers"] == config.num_hidden_layers and report["dtype"] == "float32"
    assert report["parameters"] == sum(p.numel() for p in parameters)
    assert report["weights_bytes"] == 4 * report["parameters"]
    kept = None
    if family in ("sdar", "tiny"):
        heads = config.num_key_value_heads * config.head_dim
        kept = 1000 * 2 * config.num_hidden_layers * heads * 4
    assert report["kv_bytes_per_1000"] == kept
    assert report["fits"] and report["free_bytes"] > report["weights_bytes"]


def test_a_checkpoint_in_words(run, golden_folder, monkeypatch):
    code, out, _ = run("info", golden_folder / "families" / "sdar")
    assert code == 0
    for words in ("SDAR (sdar)", "low_confidence:threshold=.95", "in 3 layers", "1,000 positions"):
        assert words in out
    assert "fits: " in out
    from fastedit.evaluation import machine

    monkeypatch.setattr(machine, "free_memory", lambda: ("cpu", 10_000))
    code, out, _ = run("info", golden_folder / "families" / "llada")
    assert code == 0 and "does not fit: 0.01 MiB" in out and "no cache" in out


def test_a_checkpoint_that_does_not_load_is_one_line(run, golden_folder, tmp_path):
    code, _, err = run("info", golden_folder)
    assert code == 2 and "is not a checkpoint" in err and len(err.splitlines()) == 1
    config = json.loads((golden_folder / "families" / "llada" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"d_model": 96}))
    weights = golden_folder / "families" / "llada" / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    code, _, err = run("info", tmp_path)
    assert code == 2 and "wrong shape: model.transformer.blocks.0" in err


def test_memory_of_this_machine(monkeypatch, tmp_path):
    from fastedit.evaluation import machine

    if not torch.cuda.is_available():
        device, free = machine.free_memory()
        assert device == "cpu" and free > 2**20
        monkeypatch.setattr(machine, "_CGROUP", tmp_path)
        (tmp_path / "memory.max").write_text("3000000\n")
        (tmp_path / "memory.current").write_text("1000000\n")
        assert machine.free_memory() == ("cpu", 2_000_000)
