"""`fastedit eval errors`: the command, its table, JSON and pictures."""

from __future__ import annotations

import json
import sys

import pytest

from fastedit import extras
from fastedit.evaluation.errors import plots
from fastedit.files.locks import locked_folder

pytest.importorskip("reasoning_gym")


@pytest.fixture
def run_errors(run, checkpoint):
    return lambda *arguments: run("eval", "errors", "--before", checkpoint, "--n", 3, *arguments)


def test_table_fits_80_columns_and_the_folder_has_pictures(run_errors, checkpoint, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "folder"
    code, out, _ = run_errors("--after", checkpoint, "--task", "leg_counting", "--output", folder)
    assert code == 0
    lines = out.splitlines()
    assert all(len(line) <= 80 for line in lines[1:] if str(folder) not in line)
    for words in ("error rate at t=0.8", "in common (Jaccard)       1.000", "Decoding in quality"):
        assert any(words in line for line in lines)
    assert sum(line.endswith("not larger than null") for line in lines) >= 8
    pictures = {f"{name}.{kind}" for name in ("drafts", "decoding") for kind in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == {"report.json"} | pictures
    for picture in folder.glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"
    for picture in folder.glob("*.svg"):
        assert "<svg" in picture.read_text()


def test_json_is_json_and_the_report(run_errors, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda report, folder: None)
    options = ("--json", "--no-decode", "--output", tmp_path)
    code, out, _ = run_errors("--after", checkpoint, *options)

    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    report = json.loads(out, parse_constant=refuse)
    assert code == 0 and report["samples"] == 3 and report["source"] == "task:chain_sum"
    assert report["before"] == report["after"] == checkpoint and report["decoding"] is None
    assert report["drafts"]["all"]["before"]["errors"] > 0
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_models_that_cannot_be_compared(run_errors):
    code, _, err = run_errors("--after", "tiny", "--no-decode")
    assert code == 2 and "differ in tokenizer" in err


def test_adapter_is_the_model_after(run_errors, checkpoint, tmp_path):
    pytest.importorskip("peft")
    import torch

    from fastedit.models.load import load
    from fastedit.training.runs.lora import add_lora

    model = add_lora(load(checkpoint, None, "auto", "cpu", None)[0], rank=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    model.save_pretrained(tmp_path / "adapter")
    code, out, _ = run_errors("--adapter", tmp_path / "adapter", "--json", "--no-decode")
    part = json.loads(out)["drafts"]["all"]
    assert code == 0 and part["shifts"]["confidence on errors"]["value"] > 0.0
    assert part["before"]["tokens"] == part["after"]["tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pass --after or --adapter"),
        (("--after", "tiny", "--task", "chain_sum", "--data", "x"), "exclude each other"),
        (("--after", "tiny", "--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--after", "tiny", "--draft-mode", "best"), "draft_mode must be one of"),
        (("--after", "tiny", "--task", "none"), "unknown task 'none'"),
    ],
)
def test_mistakes_are_one_line(run_errors, arguments, message):
    code, out, err = run_errors(*arguments)
    assert code == 2 and out == ""
    assert message in err and len(err.strip().splitlines()) == 1


def test_without_matplotlib_it_says_what_to_install(run_errors, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run_errors("--after", "tiny", "--output", tmp_path)
    assert code == 2 and extras.install("plot") in err
    assert not list(tmp_path.iterdir())


def test_options_stand_behind_the_subcommand(run):
    code, _, err = run("eval", "--n", 5, "errors", "--after", "tiny")
    assert code == 2 and "stand behind `errors`" in err


def test_a_second_run_on_a_folder_is_refused_at_once(run_errors, tmp_path, monkeypatch):
    monkeypatch.setattr("fastedit.cli.evaluate_errors.load_decoder", None)
    with locked_folder(tmp_path / "errors"):
        code, _, err = run_errors("--after", "tiny", "--output", tmp_path / "errors")
    assert code == 2 and err.count("\n") == 1 and "is in use by another run (pid " in err
