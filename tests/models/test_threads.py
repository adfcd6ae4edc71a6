"""How many threads decode, by size and cores, and that nothing is left behind or changed."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from cases import GOLDEN, PROMPTS, results

from fastedit import Decoder
from fastedit.models import threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def of_size(count: int) -> SimpleNamespace:
    return SimpleNamespace(parameters=lambda: iter([torch.empty(count, device="meta")]))


@pytest.mark.parametrize(
    ("quota", "cores", "size", "expected"),
    [
        ("max 100000", 8, threads.SMALL, 1),
        ("max 100000", 8, threads.SMALL + 1, 2),  # torch is set to two
        ("max 100000", 1, threads.SMALL + 1, 1),
        ("100000 100000", 8, threads.SMALL + 1, 1),
        ("150000 100000", 8, threads.SMALL + 1, 2),
        ("50000 100000", 8, threads.SMALL + 1, 1),
        ("", 8, threads.SMALL + 1, 2),
        (None, 8, threads.SMALL + 1, 2),
    ],
)
def test_auto_goes_by_size_cores_and_quota(monkeypatch, tmp_path, quota, cores, size, expected):
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    monkeypatch.setattr(threads, "_QUOTA", file)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert threads.number_of("auto", of_size(size)) == expected
    assert threads.number_of(5, of_size(size)) == 5 and threads.number_of(None, None) is None


def test_threads_that_sleep_while_they_wait_pay_for_larger_models_only(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for policy, small in (("passive", threads.SMALL_PASSIVE), ("active", threads.SMALL)):
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        assert threads.number_of("auto", of_size(small)) == 1
        assert threads.number_of("auto", of_size(small + 1)) == min(2, threads.cores())


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "2", "all"])
def test_other_numbers_of_threads_are_refused(golden_model, bad):
    with pytest.raises(ValueError, match="threads must be"):
        Decoder(golden_model, threads=bad)
    with pytest.raises(ValueError, match="threads must be"):
        Decoder.from_pretrained("tiny", threads=bad)


@pytest.mark.parametrize(("given", "seen"), [("auto", 1), (None, 2), (2, 2), (1, 1)])
def test_they_hold_while_a_step_runs_and_no_longer(golden_model, monkeypatch, given, seen):
    found, forward = set(), golden_model.forward

    def watched(*args, **kwargs):
        found.add(torch.get_num_threads())
        return forward(*args, **kwargs)

    monkeypatch.setattr(golden_model, "forward", watched)
    decoder = Decoder(golden_model, threads=given)
    for _ in decoder.as_completed(PROMPTS[:2], **GOLDEN):
        assert torch.get_num_threads() == 2
    decoder.generate(PROMPTS[0], **GOLDEN)
    assert found == {seen} and torch.get_num_threads() == 2


def test_they_change_no_result(golden_model):
    one, two = (Decoder(golden_model, threads=n).generate(PROMPTS[2:], **GOLDEN) for n in (1, 2))
    assert results(one) == results(two)


@pytest.mark.parametrize("given", [None, "active"])
def test_the_command_line_has_threads_wait_without_spinning(given):
    """Set before torch is loaded, and not over what the user has set."""
    code = (
        "import os, sys\n"
        "from fastedit.__main__ import main\n"
        "assert 'torch' not in sys.modules\n"
        "sys.argv = ['fastedit', '--version']\n"
        "main()\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split()[-1] == (given or "passive")
