"""`fastedit bench`: who is wrong, absent or faster is said; tables fit."""

from __future__ import annotations

import importlib.util
import io
import json
import sys

import pytest
import torch
from bench_peers import (
    TIMES,
    add_faulty,
    by_name,
    few_rounds,
    forget_sglang,
    not_done,
    unchanged,
    wrong_id,
)
from rich.console import Console

from fastedit.cli.bench_table import columns, remarks, rich_table
from fastedit.evaluation import machine
from fastedit.evaluation.bench import measure
from fastedit.evaluation.bench.case import make_case

CPU = torch.device("cpu")
VOCAB = 200


@pytest.fixture(autouse=True)
def short(monkeypatch):
    few_rounds(monkeypatch)


@pytest.mark.parametrize("fault", [wrong_id, not_done, unchanged])
def test_a_wrong_peer_is_an_error_and_has_no_time(run, monkeypatch, fault):
    add_faulty(monkeypatch, fault)
    rows = measure.measure(make_case(8, VOCAB, torch.float32, CPU))
    row = by_name(rows)["faulty"]
    assert "output differs from the reference" in row["error"]
    assert not row["equal"] and not row.keys() & TIMES
    assert "median_us" in by_name(rows)["plain torch"]
    code, out, _ = run("bench", "--blocks", 8, "--vocab", VOCAB, "--dtype", "fp32")
    assert code == 1
    assert "ERROR: faulty at 8 blocks, fp32" in out and "WRONG" in out


def test_missing_peers_are_named_with_the_reason(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_block_refinement", None)
    absent = lambda name: None if name == "sglang" else find_spec(name)  # noqa: E731
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    forget_sglang()
    code, out, _ = run("bench", "--blocks", 1, "--vocab", VOCAB, "--dtype", "fp32")
    assert code == 0
    assert "not measured: diffusers: needs a diffusers with BlockRefinementScheduler" in out
    for name in ("sglang per row", "sglang vectorised"):
        assert f"not measured: {name}: needs sglang: pip install --no-deps sglang" in out


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (3.214, "3.21 µs"),
        (999.4, "999 µs"),
        (999.6, "1 ms"),
        (12345.0, "12.3 ms"),
        (3.3e6, "3.3 s"),
    ],
)
def test_times_have_three_digits(microseconds, text):
    assert columns(timed("x", "cpu", 1.0, median_us=microseconds))["time"] == text


def test_json(run):
    code, out, _ = run("bench", "--blocks", "1,3", "--vocab", VOCAB, "--dtype", "bf16", "--json")
    result = json.loads(out)
    assert code == 0
    assert (
        result["torch"] == torch.__version__
        and "load_before" in result
        and "threads" in result["hardware"]
    )
    assert [row["blocks"] for row in result["rows"] if row["competitor"] == "plain torch"] == [1, 3]
    plain = by_name(result["rows"])["plain torch"]
    assert plain["dtype"] == "bf16" and plain["baseline"].startswith("fastedit ")
    assert plain.keys() >= TIMES | {"op", "device", "block", "cold", "copy_gbps", "first_call_s"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dtype", "fp64", "unknown dtype 'fp64'"),
        ("--blocks", "1,0", "numbers from 1 on"),
        ("--blocks", "many", "numbers from 1 on"),
        ("--device", "abacus", "abacus"),
        ("--vocab", 10, "--vocab"),
    ],
)
def test_bad_options_are_one_line(run, option, value, message):
    code, out, err = run("bench", option, value)
    assert (code, out) == (2, "")
    assert message in err and len(err.splitlines()) == 1


def timed(name: str, device: str, ratio: float, **more) -> dict:
    row = {"competitor": name, "device": device, "blocks": 64, "dtype": "bf16", "rows": 2048}
    row |= {"version": "1.0", "ours": False, "clock": "graph", "cold": True, "equal": True}
    row |= {"median_us": 123456.0, "p20_us": 123400.0, "p80_us": 234567.0, "gbps": 1234.5}
    row |= {"pct_read": 101.0, "pct_copy": 88.0, "read_gbps": 9.0, "copy_gbps": 9.0}
    return row | {"baseline": "fastedit cpp", "times_faster": ratio} | more


def test_disturbed_cases_and_a_busy_machine_are_named(run, monkeypatch):
    quiet = timed("plain torch", "cpu", 3.0, p20_us=100.0, p80_us=150.0)
    wild = timed("torch.compile", "cpu", 155.0, p20_us=100.0, p80_us=280.0)
    lines = [line for line in remarks([quiet, wild]) if "noisy" in line]
    assert lines == ["noisy, measure again, do not quote: 64 blocks, bf16: torch.compile"]
    for load, said in ((0.1, False), (2.5, True)):
        monkeypatch.setattr(machine, "load", lambda load=load: load)
        _, out, _ = run("bench", "--blocks", 1, "--vocab", VOCAB, "--dtype", "fp32")
        assert (f"load was {load} before the run" in out) == said


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_defeats_are_said_and_the_table_fits(device):
    rows = [timed("fastedit reference", device, 1.0, ours=True)]
    rows += [timed("sglang vectorised", device, 0.5), timed("plain torch", device, 345.25)]
    lines = "\n".join(remarks(rows))
    assert "fastedit cpp is slower than sglang vectorised: 0.50x at 64 blocks, bf16" in lines
    assert "slower than plain torch" not in lines and "every peer" not in lines
    assert "every peer" not in "\n".join(remarks(rows[:1]))
    assert "fastedit cpp is faster than every peer" in "\n".join(remarks([rows[0], rows[2]]))
    width = 80 if device == "cpu" else 100
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(rows))
    text = console.export_text()
    assert "…" not in text and "345.25x" in text and "64 blocks, bf16" in text


def test_a_peer_that_differs_or_fails_is_named(monkeypatch):
    def fail(outcome):
        raise RuntimeError("no compiler\nand much more")

    rows = {}
    for fault in (wrong_id, fail):
        add_faulty(monkeypatch, fault, exact=False)
        rows[fault] = measure.measure(make_case(4, VOCAB, torch.float32, CPU))
    differs, missing = (by_name(found)["faulty"] for found in rows.values())
    assert columns(differs)["outputs"] == "1 of 128 differ"
    assert any("1 of 128 positions differ" in line for line in remarks(rows[wrong_id]))
    assert columns(missing)["outputs"] == "not measured: RuntimeError: no compiler"
