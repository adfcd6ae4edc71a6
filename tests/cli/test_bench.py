"""`fastedit bench`: outputs are compared before times count; who is wrong or absent is named."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import itertools
import json
import sys

import pytest
import torch
from rich.console import Console

from fastedit import ops
from fastedit.cli.bench_table import columns, remarks, rich_table
from fastedit.evaluation import machine
from fastedit.evaluation.bench import clock, measure, peers
from fastedit.evaluation.bench.case import EDITING_THRESHOLD, PROMPT, THRESHOLD, make_case

CPU = torch.device("cpu")
VOCAB = 200
COMPILED = peers.PEERS["torch.compile"]
TIMES = {"median_us", "p20_us", "p80_us", "repeats", "gbps", "pct_read", "times_faster"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few rounds, small probes, nothing compiled."""
    monkeypatch.setattr(measure, "MOST", measure.FEWEST)
    monkeypatch.setitem(clock.PROBE_MEGABYTES, "cpu", 1)
    monkeypatch.delitem(peers.PEERS, "torch.compile")


@pytest.fixture
def case():
    return make_case(4, VOCAB, torch.float32, CPU)


def by_name(rows) -> dict:
    return {row["competitor"]: row for row in rows}


def with_fault(sound: peers.Competitor, fault, **changes) -> peers.Competitor:
    def begin():
        run = sound.begin()
        return peers.Run(lambda logits: fault(run.step(logits)), run.mutated)

    return dataclasses.replace(sound, begin=begin, **changes)


def wrong_id(outcome):
    ids = outcome.ids.clone()
    ids[1, PROMPT] += 1
    return dataclasses.replace(outcome, ids=ids)


def not_done(outcome):
    return dataclasses.replace(outcome, done=torch.zeros_like(outcome.done))


def unchanged(outcome):
    return dataclasses.replace(outcome, changed=[False] * len(outcome.ids))


@pytest.fixture
def add_peer(monkeypatch):
    """Adds the plain rule with a fault as one more peer."""
    plain = peers.PEERS["plain torch"]

    def add(fault, **changes):
        make = lambda name, case: with_fault(plain(name, case), fault, **changes)  # noqa: E731
        monkeypatch.setitem(peers.PEERS, "faulty", make)

    return add


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [64, VOCAB, 5000])
def test_inputs_show_every_part_of_the_rule_and_stay_clear_of_its_edges(dtype, vocab):
    case = make_case(8, vocab, dtype, CPU)
    masked, prompt = case.ids == case.mask_token_id, ~case.editable
    best, token = case.logits[0].double().softmax(-1).max(-1)
    for threshold in (THRESHOLD, EDITING_THRESHOLD):
        assert (best - threshold).abs().min() > 1e-4
    assert not (token == case.mask_token_id).any() and not (masked & prompt).any()
    above = (masked & (best > THRESHOLD)).any(-1)
    assert (masked.any(-1) & above).any() and (masked.any(-1) & ~above).any()
    edits = case.editable & ~masked & (best > EDITING_THRESHOLD) & (token != case.ids)
    assert edits[masked.any(-1)].any() and edits[~masked.any(-1)].any()
    assert (prompt & (best > EDITING_THRESHOLD) & (token != case.ids)).any()
    assert (~masked.any(-1) & ~edits.any(-1)).any()  # a block that ends here
    first, *others = case.logits
    assert others and all(torch.equal(first, other) for other in others)
    assert len({logits.data_ptr() for logits in case.logits}) == len(case.logits)


def test_rows_have_times_and_equal_outputs(case):
    rows = measure.measure(case)
    found = by_name(rows)
    assert {"fastedit reference", "plain torch"} <= set(found)
    assert rows[0]["ours"] and rows[0]["times_faster"] == 1.0
    for row in rows:
        assert (row["blocks"], row["rows"], row["vocab"]) == (4, 128, VOCAB)
        if "missing" in row:
            continue
        assert row.keys() >= TIMES and row["equal"] and row["differing"] == 0
        assert row["p20_us"] <= row["median_us"] <= row["p80_us"]
        assert row["repeats"] == measure.FEWEST
        assert row["gbps"] == pytest.approx(128 * VOCAB * 4 / row["median_us"] / 1e3)
        assert row["pct_read"] == pytest.approx(100 * row["gbps"] / row["read_gbps"])


@pytest.mark.parametrize("fault", [wrong_id, not_done, unchanged])
def test_a_wrong_peer_is_an_error_and_has_no_time(run, monkeypatch, add_peer, fault):
    add_peer(fault)
    rows = measure.measure(make_case(8, VOCAB, torch.float32, CPU))
    row = by_name(rows)["faulty"]
    assert "output differs from the reference" in row["error"]
    assert not row["equal"] and not row.keys() & TIMES
    assert "median_us" in by_name(rows)["plain torch"]
    code, out, _ = run("bench", "--blocks", 8, "--vocab", VOCAB, "--dtype", "fp32")
    assert code == 1
    assert "ERROR: faulty at 8 blocks, fp32" in out and "WRONG" in out


def test_a_peer_that_turns_wrong_while_it_is_timed_is_an_error(add_peer, case):
    calls = []

    def later(outcome):
        calls.append(None)
        return wrong_id(outcome) if len(calls) > 4 else outcome

    add_peer(later)
    row = by_name(measure.measure(case))["faulty"]
    assert "error" in row and not row.keys() & TIMES


def test_a_wrong_back_end_of_ours_is_an_error_and_nobody_is_compared_with_it(monkeypatch, case):
    sound = peers.fastedit_backend
    monkeypatch.setattr(peers, "fastedit_backend", lambda *args: with_fault(sound(*args), wrong_id))
    rows = measure.measure(case)
    assert "error" in rows[0] and rows[0]["ours"]
    plain = by_name(rows)["plain torch"]
    assert "median_us" in plain and "times_faster" not in plain
    assert not any("faster than every peer" in line for line in remarks(rows))


def test_an_inexact_peer_is_counted_and_timed(add_peer, case):
    add_peer(wrong_id, exact=False)
    rows = measure.measure(case)
    row = by_name(rows)["faulty"]
    assert row["differing"] == 1 and not row["equal"] and row.keys() >= TIMES
    assert columns(row)["outputs"] == "1 of 128 differ"
    assert any("1 of 128 positions differ" in line for line in remarks(rows))


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


def forget_sglang():
    from fastedit.evaluation.bench.sglang_step import joint_threshold

    joint_threshold.cache_clear()


def test_a_peer_that_fails_is_missing_with_its_error(monkeypatch, case, add_peer):
    def fail(outcome):
        raise RuntimeError("no compiler\nand much more")

    add_peer(fail)
    row = by_name(measure.measure(case))["faulty"]
    assert row["missing"] == "RuntimeError: no compiler"
    assert columns(row)["outputs"] == "not measured: RuntimeError: no compiler"


def test_a_back_end_that_cannot_run_is_missing_but_a_defect_of_ours_is_raised(monkeypatch, case):
    def fail(*args, **options):
        raise RuntimeError("a defect")

    refuses = {"joint_threshold_step_": {"reference": "in use", "cpp": "no compiler", "triton": ""}}
    monkeypatch.setattr(peers.ops, "backend_report", lambda device: refuses)
    found, missing = peers.competitors(case)
    assert [one.name for one in found if one.ours] == ["fastedit reference"]
    assert missing["fastedit cpp"] == "no compiler" and "GPUs" in missing["fastedit triton"]
    monkeypatch.setattr(peers.ops, "joint_threshold_step_", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        measure.measure(case)


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


@pytest.mark.engines
def test_sglang_leaves_no_stand_in_behind():
    forget_sglang()
    before = {name for name in sys.modules if name.startswith("sglang")}
    from fastedit.evaluation.bench.sglang_step import joint_threshold

    assert (
        joint_threshold().JointThreshold.__module__ == "sglang.srt.dllm.algorithm.joint_threshold"
    )
    assert {name for name in sys.modules if name.startswith("sglang")} == before


@pytest.mark.slow
def test_compiled_rule(monkeypatch, case):
    monkeypatch.setattr(peers, "PEERS", {"torch.compile": COMPILED})
    row = by_name(measure.measure(case))["torch.compile"]
    assert row["equal"] or "missing" in row


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_wall_and_graph_times_cold_and_warm(monkeypatch):
    monkeypatch.setitem(clock.PROBE_MEGABYTES, "cuda", 16)
    rows = measure.measure(make_case(4, VOCAB, torch.bfloat16, torch.device("cuda")))
    for name in (rows[0]["competitor"], "plain torch"):
        own = [row for row in rows if row["competitor"] == name]
        clocks = [(row["clock"], row["cold"]) for row in own]
        assert clocks == [("wall", True), ("graph", True), ("graph", False)]
        for row in own:
            assert row["equal"] and row.keys() >= (TIMES - {"pct_read"}) | {"pct_copy"}
            assert row["baseline"] == rows[0]["competitor"]


def test_every_step_begins_afresh(case):
    """Else the second step would find the block done, and cost nothing."""
    ours = peers.fastedit_backend("reference", case)
    before = case.ids.clone()
    with ops.use_backend("reference"):
        first, second = (ours.begin().step(case.logits[0]) for _ in range(2))
    assert torch.equal(case.ids, before) and not torch.equal(first.ids, before)
    assert measure.differing(first, second) == 0


@pytest.mark.parametrize(("rounds", "turns"), [(5, 40), (7, 40), (40, 40), (5, 5), (1, 3)])
def test_turns_are_as_many_as_asked_and_spread(rounds, turns):
    taken = [turn for turn in range(turns) if measure._has_turn(turn, turns, rounds)]
    gaps = [after - before for before, after in itertools.pairwise(taken)]
    assert len(taken) == rounds
    assert not gaps or max(gaps) - min(gaps) <= 1


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
    assert "fastedit cpp is faster than every peer" in "\n".join(remarks([rows[0], rows[2]]))
    width = 80 if device == "cpu" else 100
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(rows))
    text = console.export_text()
    assert "…" not in text and "345.25x" in text and "64 blocks, bf16" in text
