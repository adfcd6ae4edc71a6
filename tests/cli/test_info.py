"""`fastedit info`: what is there, what is not, and why."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
import transformers

import fastedit
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
        assert "fastedit-dlm[flash]" in report["flash-attn"]


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
