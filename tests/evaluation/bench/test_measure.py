"""The rounds of the decision benchmark: outputs are compared before times count."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from bench_peers import TIMES, add_faulty, by_name, few_rounds, forget_sglang, with_fault, wrong_id

from fastedit import ops
from fastedit.evaluation.bench import clock, measure, peers
from fastedit.evaluation.bench.case import EDITING_THRESHOLD, THRESHOLD, make_case

CPU = torch.device("cpu")
VOCAB = 200
COMPILED = peers.PEERS["torch.compile"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    few_rounds(monkeypatch)


@pytest.fixture
def case():
    return make_case(4, VOCAB, torch.float32, CPU)


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


def test_a_peer_that_turns_wrong_while_it_is_timed_is_an_error(monkeypatch, case):
    calls = []

    def later(outcome):
        calls.append(None)
        return wrong_id(outcome) if len(calls) > 4 else outcome

    add_faulty(monkeypatch, later)
    row = by_name(measure.measure(case))["faulty"]
    assert "error" in row and not row.keys() & TIMES


def test_a_wrong_back_end_of_ours_is_an_error_and_nobody_is_compared_with_it(monkeypatch, case):
    sound = peers.fastedit_backend
    monkeypatch.setattr(peers, "fastedit_backend", lambda *args: with_fault(sound(*args), wrong_id))
    rows = measure.measure(case)
    assert "error" in rows[0] and rows[0]["ours"]
    plain = by_name(rows)["plain torch"]
    assert "median_us" in plain and "times_faster" not in plain


def test_an_inexact_peer_is_counted_and_timed(monkeypatch, case):
    add_faulty(monkeypatch, wrong_id, exact=False)
    rows = measure.measure(case)
    row = by_name(rows)["faulty"]
    assert row["differing"] == 1 and not row["equal"] and row.keys() >= TIMES


def test_a_peer_that_fails_is_missing_with_its_error(monkeypatch, case):
    def fail(outcome):
        raise RuntimeError("no compiler\nand much more")

    add_faulty(monkeypatch, fail)
    row = by_name(measure.measure(case))["faulty"]
    assert row["missing"] == "RuntimeError: no compiler"


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


@pytest.mark.engines
def test_sglang_leaves_no_stand_in_behind():
    forget_sglang()
    before = {name for name in sys.modules if name.startswith("sglang")}
    from fastedit.evaluation.bench.sglang_step import algorithm

    for name in ("joint_threshold", "joint_threshold_indel"):
        assert algorithm(name).Algorithm.__module__ == f"sglang.srt.dllm.algorithm.{name}"
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
