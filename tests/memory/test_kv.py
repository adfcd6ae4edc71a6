"""Cached equals uncached, token for token, and the cache is fed as it should be."""

import cases
import pytest
import torch
from cases import GOLDEN, B, prompt
from fakes import Recorder

from fastedit import Decoder
from fastedit.memory.extents import Extent
from fastedit.memory.kv import Pool, Rows
from fastedit.plans import block as forward

BASE = GOLDEN | {"eos_token_id": []}
ENDS = [
    *cases.ENDS,
    {"threshold": 0.9, "editing_threshold": None},
    {"threshold": 0.95, "editing_threshold": None, "max_post_steps": 0},
]


def run(model, ids, **options):
    out = Decoder(model).generate(ids, **(BASE | options))
    return out.sequences[0].tolist(), out.stats[0]


@pytest.mark.parametrize(
    ("end", "length"),
    [
        *((ENDS[0], length) for length in (1, B - 1, B, B + 1, 5 * B)),
        *zip(ENDS[1:], (B, 5 * B, B + 1, B - 1), strict=True),
    ],
)
def test_cached_equals_uncached(golden_model, length, end):
    cached, stats = run(golden_model, prompt(length), **end)
    plain, other = run(golden_model, prompt(length), use_cache=False, **end)
    assert cached == plain
    assert (stats.m2t_commits, stats.t2t_edits) == (other.m2t_commits, other.t2t_edits)
    assert stats.prefill_forwards == (length >= B) and other.prefill_forwards == 0
    blocks = -(-(length + 27) // B) - length // B
    assert 0 <= stats.forwards - other.forwards <= blocks - 1  # KV commits, none for the last


@pytest.mark.parametrize("length", [3, 2 * B, 3 * B + 5])
@pytest.mark.parametrize("end", ENDS)
def test_every_forward_sees_one_block_and_the_last_one_its_final_tokens(golden_model, length, end):
    model = Recorder(golden_model)
    ids, stats = run(model, prompt(length), **end)
    steps = model.calls[stats.prefill_forwards :]
    assert len(steps) == stats.forwards
    assert all(len(call[0][0]) == B and call[2] for call in steps)
    final = prompt(length).tolist() + ids
    last = {call[1][0][0]: call for call in steps}
    for start, (inputs, positions, _) in last.items():
        assert positions[0] == list(range(start, start + B)) and start % B == 0
        if start + B < len(final):  # the last block's KV is never read
            assert inputs[0] == final[start : start + B]
    assert sorted(last) == list(range(length // B * B, length + 27, B))


@pytest.mark.parametrize(
    ("chunk", "calls"), [(2048, [5]), (16, [2, 2, 1]), (20, [2, 2, 1]), (3, [1] * 5)]
)
def test_prefill_sees_every_prompt_block_once(golden_model, monkeypatch, chunk, calls):
    ids = prompt(5 * B + 3)
    want, _ = run(golden_model, ids)
    monkeypatch.setattr(forward, "PREFILL_CHUNK", chunk)
    model = Recorder(golden_model)
    got, stats = run(model, ids)
    prefill = model.calls[: stats.prefill_forwards]
    assert [len(call[0]) for call in prefill] == calls  # a row per block
    inputs, places = (
        [number for call in prefill for row in call[part] for number in row] for part in (0, 1)
    )
    assert inputs == ids[: 5 * B].tolist() and places == list(range(5 * B))
    assert got == want


def test_a_commit_forward_is_spent_only_where_the_last_step_changed_something(golden_model):
    """Settled blocks keep the KV of the forward that saw them settled."""
    ids = prompt(2 * B)
    _, settled = run(golden_model, ids, editing_threshold=None, max_post_steps=16)
    _, plain = run(golden_model, ids, editing_threshold=None, max_post_steps=16, use_cache=False)
    assert settled.forwards == plain.forwards
    _, dirty = run(golden_model, ids, editing_threshold=None, max_post_steps=0)
    _, plain = run(golden_model, ids, editing_threshold=None, max_post_steps=0, use_cache=False)
    assert dirty.forwards == plain.forwards + 3  # four blocks, none for the last


def test_early_stop_spends_no_commit_forward(golden_model):
    ids = prompt(2 * B)
    options = {"editing_threshold": None, "max_post_steps": 0}
    whole, _ = run(golden_model, ids, **options)
    eos = whole[2]
    cut, stats = run(golden_model, ids, eos_token_id=eos, **options)
    assert cut == whole[: whole.index(eos) + 1]
    plain = run(golden_model, ids, eos_token_id=eos, use_cache=False, **options)[1]
    assert stats.forwards == plain.forwards


def test_results_do_not_depend_on_a_budget_that_is_never_spent(golden_model):
    ids = prompt(11)
    options = {"threshold": 0.9, "editing_threshold": 0.9}
    few, stats = run(golden_model, ids, max_post_steps=16, **options)
    many, more = run(golden_model, ids, max_post_steps=500, **options)
    assert stats.forwards < 16 + 29
    assert (few, stats.forwards) == (many, more.forwards)


def test_drafts_show_steps_and_no_commit_forwards(golden_model):
    decoder = Decoder(golden_model)
    options = BASE | {"editing_threshold": None, "max_post_steps": 0}
    cached, plain = (
        [(e.kind, e.ids, e.block, e.step) for e in decoder.stream(prompt(5), drafts=True, **more)]
        for more in (options, options | {"use_cache": False})
    )
    assert cached == plain and len(cached) > 8


@pytest.mark.parametrize("told", [False, True])
def test_rows_are_written_to_and_read_from_their_extents(told):
    """In place where extents lie evenly, copied together where not: the same keys and values."""
    pool = Pool(torch.device("cpu"))
    pool.resize(40)
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(40, 2, 3, generator=generator)
    offsets, starts = torch.tensor([8, 16, 24]), torch.tensor([0, 4, 2])
    positions = starts[:, None] + torch.arange(2)
    extents = [Extent(first, 8) for first in offsets.tolist()] if told else None
    rows = Rows(pool, offsets, positions, 4, extents, sizes=torch.tensor([8, 8, 8]))
    assert isinstance(rows.read, tuple) == told
    new = torch.randn(3, 2, 2, 3, generator=generator)
    rows.update(torch.zeros_like(new), torch.zeros_like(new), 0)
    pool.layers[0].keys.copy_(before)
    keys, values = rows.update(new, -new, 0)
    want = before.clone()
    for row in range(3):
        at = int(offsets[row] + starts[row])
        want[at : at + 2] = new[row].transpose(0, 1)
    assert pool.layers[0].keys.equal(want) and keys.shape == (3, 2, 6, 3)
    for row, offset in enumerate(offsets.tolist()):
        assert keys[row].transpose(0, 1).equal(want[offset : offset + 6])
        assert values[row, :, starts[row] : starts[row] + 2].equal(-new[row])
    flat, _ = rows.update(new, -new, 0, flat=True)
    assert flat.shape == (1, 2, 40, 3) and flat[0].transpose(0, 1).equal(want)


def test_layers_on_several_devices_have_the_positions_on_their_own():
    pool = Pool(torch.device("cpu"))
    pool.resize(8)
    rows = Rows(pool, torch.tensor([0, 4]), torch.tensor([[0, 1], [0, 1]]), 0)
    there = torch.zeros(2, 1, 2, 4, device="meta")
    keys, _ = rows.update(there, there, 0)
    assert keys.device.type == "meta" and keys.shape == (2, 1, 2, 4)
