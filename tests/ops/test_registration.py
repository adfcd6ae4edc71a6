"""The operations as torch custom operators: schema, fakes, and graphs that go around them."""

from dataclasses import replace

import pytest
import torch
from blocks import MASK, QUALITY, values

from fastedit import ops
from fastedit.ops.sampling import NOISE

SETTINGS = (
    torch.tensor([0.7, 0.3]),
    torch.tensor([0.5, float("inf")]),
    torch.tensor([16, 1], dtype=torch.int32),
    torch.tensor([1, 2], dtype=torch.int32),
)


def example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 7, generator=generator) * 3
    ids = torch.randint(0, 7, (2, 5), generator=generator)
    ids[:, ::2] = MASK
    return ids, logits, torch.ones(2, 5).bool(), ops.StepState.new(2)


def sampling():
    fields = ([1.0, 0.0], [3, 0], [0.9, 1.0], [5, 6], [0, 32])
    kinds = (torch.float32, torch.int64, torch.float32, torch.int64, torch.int64)
    return ops.Sampling(*(torch.tensor(f, dtype=k) for f, k in zip(fields, kinds, strict=True)))


@pytest.mark.parametrize("entropy", [False, True])
def test_row_stats_passes_opcheck(entropy):
    _, logits, *_ = example()
    arguments = (logits[0], torch.tensor([0, 1, 2, 3, 9]), [1], 0.7, entropy)
    torch.library.opcheck(torch.ops.fastedit.row_stats.default, arguments)


def row_draws():
    keys = [torch.tensor(x) for x in ([1, 2, 3, 4, 5], range(5), [0, 0, 1, 1, 2], [0, 3, 0, 2, 0])]
    return ops.RowDraws(*keys, torch.tensor([1.0, 1.0, 0.5, 0.9, 0.0]), purpose=NOISE)


def test_row_stats_on_request_pass_opcheck():
    _, logits, *_ = example()
    heat = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0])
    draws = (*row_draws().fields(), NOISE)
    current = torch.tensor([0, 1, 2, 3, 9])
    arguments = (logits[0], current, [1], 1.0, True, heat, 3, *draws)
    torch.library.opcheck(torch.ops.fastedit.row_stats.default, arguments)
    in_blocks = (logits[:1], current[None], [1], 1.0, True, None, 3)
    torch.library.opcheck(torch.ops.fastedit.row_stats.default, in_blocks)


@pytest.mark.parametrize("draws", [False, True])
def test_the_step_passes_opcheck(draws):
    ids, logits, editable, state = example()
    fields = sampling().fields() if draws else (None,) * 5
    arguments = (ids, logits, editable, *state.fields(), MASK, *SETTINGS, [0], *fields)
    torch.library.opcheck(torch.ops.fastedit.joint_threshold_step_.default, arguments)


def test_row_partials_pass_opcheck():
    _, logits, *_ = example()
    torch.library.opcheck(torch.ops.fastedit.row_partials.default, (logits[0], [1]))


def draft_example(rows=5):
    """(logits, xt, x0, eligible, options, key) with a kind of every sort."""
    logits = torch.randn(rows, 7, generator=torch.Generator().manual_seed(1)) * 3
    xt = torch.where(torch.arange(rows) % 3 > 0, MASK, 1)
    options = ops.DraftOptions(
        mask_token_id=MASK, forbid=(0,), keep_mask=0.3, p_random=0.3, random_scope="both"
    )
    key = ops.DraftKey(2, 1, torch.arange(rows) // 4, torch.arange(rows), turn=3)
    return logits, xt, torch.ones_like(xt), torch.arange(rows) != 2, options, key


@pytest.mark.parametrize("mode", ["argmax", "sample"])
def test_draft_and_corrupt_passes_opcheck(mode):
    *tensors, options, key = draft_example()
    settings = replace(options, draft_mode=mode).settings(7)
    arguments = (*tensors, key.example, key.position, key.seed, key.epoch, key.turn)
    torch.library.opcheck(torch.ops.fastedit.draft_and_corrupt.default, arguments, settings)


def test_compiled_drafts_are_the_same():
    def noisy(logits, *arguments):
        return tuple(vars(ops.draft_and_corrupt(logits * 2, *arguments)).values())

    compiled = torch.compile(noisy, fullgraph=True, backend="aot_eager")
    for rows in (40, 17):
        arguments = draft_example(rows)
        for got, want in zip(compiled(*arguments), noisy(*arguments), strict=True):
            assert got.equal(want)
        assert {1, 2, 6} <= set(noisy(*arguments)[2].tolist())


def test_compiled_statistics_on_request_are_the_same():
    def wanted(logits, current, heat, draws):
        stats = ops.row_stats(logits + 1, current, temperature=heat, top_k=3, draws=draws)
        u = ops.uniform(draws.seed, draws.position, draws.forward, purpose=NOISE, count=2)
        return *vars(stats).values(), u

    compiled = torch.compile(wanted, fullgraph=True, backend="aot_eager")
    _, logits, *_ = example()
    heat = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0])
    arguments = (logits[0], torch.arange(5), heat, row_draws())
    for got, want in zip(compiled(*arguments), wanted(*arguments), strict=True):
        assert got is want is None or got.equal(want)


def test_compiled_partials_are_the_same():
    def merged(logits):
        parts = [
            ops.row_partials(logits[:, part], vocab_start=part.start, forbid=(5,))
            for part in (slice(0, 4), slice(4, 7))
        ]
        return ops.merge_partials(parts).packed()

    compiled = torch.compile(merged, fullgraph=True, backend="aot_eager")
    _, logits, *_ = example()
    assert compiled(logits[0]).equal(merged(logits[0]))


def test_a_compiled_step_is_one_graph_and_decides_alike():
    def loop(ids, logits, editable, state, draws):
        for _ in range(2):
            ops.joint_threshold_step_(ids, logits, editable, state, sampling=draws, **QUALITY)
        return ids * 1

    compiled = torch.compile(loop, fullgraph=True, backend="aot_eager")
    for draws in (None, sampling()):
        for seed in range(3):
            one, other = example(seed), example(seed)
            assert loop(*one, draws).equal(compiled(*other, draws))
            assert values(one[3]) == values(other[3])
            assert one[0].equal(other[0])


@pytest.mark.parametrize("entropy", [False, True])
def test_compiled_statistics_are_the_same(entropy):
    def shifted(logits, current):
        stats = ops.row_stats(logits + 1, current, forbid=[2], entropy=entropy)
        return stats.token, stats.prob, stats.entropy, stats.bad

    compiled = torch.compile(shifted, fullgraph=True, backend="aot_eager")
    _, logits, *_ = example()
    for rows in (5, 3):
        arguments = (logits[0, :rows], torch.arange(rows))
        for got, want in zip(compiled(*arguments), shifted(*arguments), strict=True):
            assert got is want is None or got.equal(want)


def move_example(dims):
    """(ids, keep, insert as flags, planes, blanks), in blocks or end to end."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, 7, (2, 5) if dims == 2 else (10,), generator=generator)
    keep, insert = ids != 3, torch.rand(ids.shape, generator=generator) < 0.5
    return ids, keep, insert, [ids < 4, ids.float(), ids.int()], [True, 0.5, -1]


def test_inserts_and_deletes_pass_opcheck():
    ids, keep, insert, planes, blanks = move_example(2)
    arguments = (ids, keep, insert, MASK, planes, blanks)
    torch.library.opcheck(torch.ops.fastedit.rewrite_blocks.default, arguments)
    ids, keep, insert, planes, blanks = move_example(1)
    cu = torch.tensor([0, 4, 9], dtype=torch.int32)
    arguments = (ids, cu, keep, torch.where(insert, 5, -1), planes, blanks, 13, MASK, cu[1:].long())
    torch.library.opcheck(torch.ops.fastedit.compact.default, arguments)


def test_compiled_inserts_and_deletes_are_the_same():
    def blocks(ids, keep, insert, planes, blanks):
        new, moved = ops.rewrite_blocks(ids + 1, keep, insert, MASK, planes, blanks)
        return new, *moved

    def packed(ids, keep, insert, planes, blanks):
        cu, tokens = torch.tensor([0, 4, 9]), torch.where(insert, ids, -1)
        options = {"capacity": 13, "fill": MASK}
        new, moved, cu = ops.compact(ids + 1, cu, keep, tokens, planes, blanks, **options)
        return new, *moved, cu

    for moves, dims in ((blocks, 2), (packed, 1)):
        compiled = torch.compile(moves, fullgraph=True, backend="aot_eager")
        arguments = move_example(dims)
        for got, want in zip(compiled(*arguments), moves(*arguments), strict=True):
            assert got.equal(want) and got.dtype == want.dtype


def test_the_best_outside_a_set_passes_opcheck_and_compiles():
    _, logits, editable, _ = example()
    excluded = torch.tensor([0, 6, -1]).expand(2, 5, 3)
    for only in (None, editable):
        arguments = (logits, excluded, only, [1])
        torch.library.opcheck(torch.ops.fastedit.best_outside.default, arguments)

    def best(logits, excluded, only):
        return ops.best_outside(logits + 1, excluded, only=only, forbid=(1,))

    compiled = torch.compile(best, fullgraph=True, backend="aot_eager")
    arguments = (logits, excluded, editable)
    for got, want in zip(compiled(*arguments), best(*arguments), strict=True):
        assert got.equal(want)
