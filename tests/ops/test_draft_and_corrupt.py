"""Drafts and corruption against an oracle in integers and float64, and the same in any company."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from blocks import interpreted
from draft_oracle import row, words
from drafting import MASK, PLAIN, key, run

from fastedit import ops

INF, NAN = math.inf, math.nan
EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)


def random_case(seed, rows, vocab, dtype):
    """(logits, xt, x0, eligible, options, key), with all oddities of logits, ids and keys."""
    rng = np.random.default_rng(seed)
    mask = int(rng.choice([vocab - 1, vocab // 2, vocab + 3]))
    z = rng.normal(size=(rows, vocab)) * rng.choice([0.3, 2, 6], size=(rows, 1))
    if seed % 3 == 0:
        z = z.round()  # ties
    for value, rate in ((NAN, 0.05), (INF, 0.05), (-INF, 0.2)):
        z[(rng.random(rows) < rate)[:, None] & (rng.random(z.shape) < 0.3)] = value
    z[rng.random(rows) < 0.05] = -INF
    z[rng.random(rows) < 0.03] = NAN
    x0 = rng.integers(vocab, size=rows)
    x0[rng.random(rows) < 0.05] = mask  # wrong in a data set, and no reason to go astray
    xt = np.where(rng.random(rows) < 0.6, mask, x0)
    xt = np.where(rng.random(rows) < 0.1, rng.integers(vocab, size=rows), xt)
    options = ops.DraftOptions(
        mask_token_id=mask,
        forbid=tuple(rng.permutation(vocab)[: int(rng.integers(0, max(1, vocab - 3)))].tolist()),
        draft_mode=str(rng.choice(["argmax", "sample"])),
        temperature=float(rng.choice([0.5, 1.0, 1.7])),
        keep_mask=float(rng.choice([0.0, 0.25, 1.0])),
        p_random=float(rng.choice([0.0, 0.3, 1.0])) if vocab > 3 else 0.0,
        random_scope=str(rng.choice(["drafted", "visible", "both"])),
        loss_region=str(rng.choice(["response", "formerly_masked", "formerly_masked+random"])),
    )
    keyed = ops.DraftKey(
        seed=int(rng.integers(-(2**63), 2**63 - 1)),
        epoch=int(rng.integers(2**16)),
        example=torch.from_numpy(rng.integers(2**48, size=rows)),
        position=torch.from_numpy(rng.integers(2**32, size=rows)),
        turn=int(rng.integers(2**24)),
    )
    tensors = (torch.from_numpy(z).to(dtype), *map(torch.from_numpy, (xt, x0)))
    return *tensors, torch.from_numpy(rng.random(rows) < 0.85), options, keyed


def outcomes(logits, xt, x0, eligible, options, keyed):
    for r, z in enumerate(logits.double().numpy()):
        parts = (keyed.seed, keyed.epoch, int(keyed.example[r]), int(keyed.position[r]), keyed.turn)
        word = words(*parts)
        yield row(z, int(xt[r]), int(x0[r]), bool(eligible[r]), word, options)


@pytest.mark.parametrize("vocab", [1, 2, 5, 31, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_random_rows_match_the_oracle(backend, vocab, dtype):
    tally = Counter()
    for seed in range(4 if interpreted(backend) else 40):
        case = random_case(seed * 101 + vocab, 24, vocab, dtype)
        logits, xt, x0, eligible, options, keyed = case
        got = run(backend, logits, xt, x0, options, eligible, keyed)
        wrong = 0
        for r, want in enumerate(outcomes(*case)):
            tally["rows"] += 1
            tally[want.kind] += 1
            assert int(got.labels[r]) == want.label
            assert int(got.kinds[r]) == want.kind
            assert bool(got.bad[r]) == want.bad
            wrong += want.kind == 2 and int(got.z[r]) != int(x0[r])
            if want.certain:
                assert int(got.z[r]) == want.z
                slack = EPS * (8 + math.sqrt(vocab) + 4 * min(want.distance, 1e4))
                assert abs(float(got.p_draft[r]) - want.p_draft) <= want.p_draft * slack + TINY
            else:
                tally["uncertain"] += 1
        assert int(got.n_err) == wrong
    assert tally["uncertain"] <= 0.01 * tally["rows"], tally
    if vocab > 3 and not interpreted(backend):
        assert min(tally[kind] for kind in (0, 1, 2, 6)) > 50, tally


@pytest.mark.parametrize("vocab", [4912, 8193, 50001])
@pytest.mark.parametrize("mode", ["argmax", "sample"])
def test_drafts_from_large_vocabularies_match_the_oracle(backend, vocab, mode):
    """Of several tiles and splits. Draws that differ lie within 4 ulp of a boundary."""
    if interpreted(backend) and vocab > 10000:
        pytest.skip("too large for the interpreter; tests/kernels has several splits")
    n, generator = 12 if interpreted(backend) else 100, torch.Generator().manual_seed(vocab)
    logits = (torch.randn(n, vocab, generator=generator) * 2).bfloat16()
    options = replace(PLAIN, forbid=(0, vocab - 1), draft_mode=mode, temperature=0.8)
    xt = torch.full((n,), MASK)
    got = run(backend, logits, xt, options=options)
    certain = 0
    for r, want in enumerate(outcomes(logits, xt, 0 * xt, xt > 0, options, key(n))):
        certain += want.certain
        assert int(got.z[r]) == want.z or not want.certain
    assert certain >= 0.9 * n
    assert len(set((got.z // 1024).tolist())) > 3


@pytest.mark.parametrize(
    ("logits", "drawn", "greedy", "p_drawn", "p_greedy", "bad"),
    [
        ([5, -INF, 9, 5], {0, 3}, 0, 0.5, 1 / (2 + math.exp(4)), False),  # the mask leaves
        ([NAN, 1, 9, -INF], {1}, 1, 1.0, 1 / (1 + math.exp(8)), True),
        ([0, INF, INF, -INF], {1}, 1, 1.0, 0.5, True),
        ([-INF, -INF, 9, -INF], {MASK}, MASK, 0.0, 0.0, True),  # no candidate: stays a mask
        ([NAN, NAN, NAN, NAN], {MASK}, MASK, 0.0, 0.0, True),
        ([-3e38, -INF, -INF, -INF], {0}, 0, 1.0, 1.0, False),
        ([2e38, 3e38, -INF, -INF], {1}, 1, 1.0, 1.0, False),
    ],
)
def test_special_values_follow_the_table(backend, logits, drawn, greedy, p_drawn, p_greedy, bad):
    for mode, tokens, p in (("sample", drawn, p_drawn), ("argmax", {greedy}, p_greedy)):
        options = replace(PLAIN, draft_mode=mode, temperature=0.7)
        got = run(backend, [[float(x) for x in logits]] * 8, [MASK] * 8, options=options)
        assert set(got.z.tolist()) == tokens
        assert got.kinds.tolist() == [1 if tokens == {MASK} else 2] * 8
        assert got.bad.tolist() == [bad] * 8
        assert got.p_draft.tolist() == pytest.approx([p] * 8, rel=1e-5)
        wrong = 0 if tokens == {MASK} else int((got.z != 0).sum())
        assert int(got.n_err) == wrong and got.labels.tolist() == [0] * 8


@pytest.mark.parametrize(
    ("region", "labels"),
    [
        ("response", [11, 12, 13, -100, -100]),
        ("formerly_masked", [11, -100, -100, -100, -100]),
        ("formerly_masked+random", [11, 12, 13, -100, -100]),
    ],
)
def test_rows_that_are_all_random(backend, region, labels):
    """A mask, two ids of which one is already wrong, and a mask and an id that take no part."""
    xt, x0 = [MASK, 12, 14, MASK, 12], [11, 12, 13, 14, 15]
    eligible = [True, True, True, False, False]
    for scope, kinds in (
        ("drafted", [6, 0, 0, 0, 0]),
        ("visible", [2, 6, 6, 0, 0]),
        ("both", [6, 6, 6, 0, 0]),
    ):
        options = replace(PLAIN, p_random=1.0, random_scope=scope, loss_region=region)
        got = run(backend, torch.eye(5, 20), xt, x0, options, eligible)
        assert got.kinds.tolist() == kinds
        want = list(labels)
        if region.endswith("random") and scope == "drafted":
            want[1:3] = [-100, -100]
        assert got.labels.tolist() == want
        for r, kind in enumerate(kinds):
            z = int(got.z[r])
            if kind == 6:
                assert z not in (x0[r], MASK) and 0 <= z < 20
            else:
                assert z == (xt[r] if kind == 0 else r)
        assert got.p_draft.gt(0).tolist() == [kind == 2 for kind in kinds]
        assert int(got.n_err) == kinds.count(2)  # row 0 drafts id 0


def test_masks_that_stay_are_masks_and_have_labels(backend):
    options = replace(PLAIN, keep_mask=1.0, p_random=1.0, random_scope="both")
    got = run(backend, torch.full((3, 5), NAN), [MASK, MASK, 0], [0, 1, 4], options)
    assert got.z.tolist()[:2] == [MASK, MASK] and got.kinds.tolist() == [1, 1, 6]
    assert got.labels.tolist() == [0, 1, 4]
    assert (int(got.n_err), got.bad.any(), got.p_draft.sum()) == (0, False, 0.0)


def test_rows_without_a_draft_are_not_looked_at(backend):
    """Their logits change nothing and may be one row for all of them."""
    logits = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
    xt = torch.where(torch.arange(200) % 3 > 0, MASK, 4)
    eligible = torch.arange(200) % 7 > 0
    options = replace(PLAIN, keep_mask=0.3, p_random=0.3, random_scope="both")
    want = run(backend, logits, xt, None, options, eligible)
    assert 20 < int((want.kinds == 2).sum()) < 100
    broken = logits.masked_fill((want.kinds != 2)[:, None], NAN)
    got = run(backend, broken, xt, None, options, eligible)
    for one, other in zip(vars(got).values(), vars(want).values(), strict=True):
        assert one.equal(other)
    visible = torch.arange(200)[xt == 4]
    parts = (xt[visible], None, options, eligible[visible], key(len(visible), position=visible))
    got = run(backend, logits[:1].expand(len(visible), -1), *parts)
    assert got.z.equal(want.z[visible]) and got.kinds.equal(want.kinds[visible])


def test_shares_are_met_and_random_ids_are_uniform(backend):
    n = 300 if interpreted(backend) else 30000
    options = ops.DraftOptions(
        mask_token_id=MASK, forbid=(0, 8), keep_mask=0.25, p_random=0.4, random_scope="both"
    )
    xt = torch.arange(n) % 2 * 3 + MASK  # half masks, half the clean id
    got = run(backend, torch.zeros(1, 10).expand(n, -1), xt, torch.full((n,), 5), options)
    counts = np.bincount(got.kinds[xt == MASK].numpy(), minlength=7)
    visible = np.bincount(got.kinds[xt == 5].numpy(), minlength=7)
    for count, p in ((counts[1], 0.25), (counts[6], 0.75 * 0.4), (visible[6], 0.4)):
        assert abs(count - p * n / 2) <= 5 * math.sqrt(p * (1 - p) * n / 2)
    random = got.z[got.kinds == 6]
    found = np.bincount(random.numpy(), minlength=10)
    allowed = [1, 3, 4, 6, 7, 9]
    assert found.sum() == found[allowed].sum()
    p = 1 / len(allowed)
    assert (abs(found[allowed] - p * len(random)) <= 5 * math.sqrt(p * len(random))).all()


def test_a_clean_id_that_may_not_be_drawn_leaves_all_others(backend):
    n = 60 if interpreted(backend) else 2000
    options = replace(PLAIN, forbid=(4,), p_random=1.0)
    for clean, allowed in ((4, {0, 1, 3}), (-100, {0, 1, 3}), (7, {0, 1, 3}), (3, {0, 1})):
        got = run(backend, torch.zeros(n, 5), [MASK] * n, [clean] * n, options)
        assert set(got.z.tolist()) == allowed


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("forbid", [(), (3,)])
def test_drawn_drafts_follow_the_distribution(backend, temperature, forbid):
    if interpreted(backend):
        pytest.skip("20000 draws are too many for the interpreter")
    logits = np.array([1.0, 0.0, 4.0, 2.0, -1.0, -INF])
    options = replace(PLAIN, forbid=forbid, draft_mode="sample", temperature=temperature)
    got = run(
        backend, torch.tensor(logits).float().expand(20000, -1), [MASK] * 20000, None, options
    )
    logits[[MASK, *forbid]] = -INF
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    counts = np.bincount(got.z.numpy(), minlength=6)
    assert (abs(counts - 20000 * p) <= 5 * np.sqrt(20000 * p * (1 - p))).all()
    assert torch.allclose(got.p_draft, torch.tensor(p)[got.z].float(), rtol=1e-5)
    assert int(got.n_err) == 20000 - counts[0]


@pytest.mark.parametrize("mode", ["argmax", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_any_company(backend, two_threads, mode, dtype):
    vocab = 300 if interpreted(backend) else 40000
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(12, vocab, generator=generator) * 3).to(dtype)
    logits[3, 7], x0 = NAN, torch.randint(vocab, (12,), generator=generator)
    xt = torch.where(torch.arange(12) % 4 > 0, MASK, x0)
    example, position = torch.arange(12) * 10**11, torch.arange(12) * 5 % 7
    options = replace(
        PLAIN, draft_mode=mode, keep_mask=0.1, p_random=0.2, random_scope="both", forbid=(0,)
    )

    def bits(rows):
        keyed = key(len(rows), example=example[rows], position=position[rows])
        got = run(backend, logits[rows], xt[rows], x0[rows], options, keyed=keyed)
        fields = (got.z, got.labels, got.kinds, got.p_draft, got.bad)
        return torch.stack([field.double() for field in fields], 1), int(got.n_err)

    every = list(range(12))
    two_threads(False)
    together, errors = bits(every)
    assert bits(every[::-1])[0].equal(together.flip(0))
    alone = [bits([r]) for r in every]
    assert torch.cat([row for row, _ in alone]).equal(together)
    assert sum(count for _, count in alone) == errors > 0
    two_threads(True)
    assert bits(every)[0].equal(together)
    assert torch.cat([bits([r])[0] for r in every]).equal(together)


def test_every_part_of_the_key_counts(backend):
    """Another key gives another outcome to more than half of the rows."""
    options = replace(PLAIN, p_random=0.5, draft_mode="sample", keep_mask=0.2)
    n = 24 if interpreted(backend) else 300
    rows = torch.arange(n)

    def outcome(**parts):
        keyed = key(n, **parts)
        got = run(backend, torch.zeros(n, 30), [MASK] * n, options=options, keyed=keyed)
        return torch.stack([got.kinds.long(), got.z])

    base = outcome()
    assert outcome().equal(base)
    assert outcome(position=rows + 10)[:, :-10].equal(base[:, 10:])
    for other in (
        {"seed": 6},
        {"seed": 5 + 2**32},
        {"epoch": 1},
        {"turn": 1},
        {"example": 8},
        {"example": 7 + 2**32},
        {"position": rows + 2**20},
    ):
        assert (outcome(**other) != base).any(0).float().mean() > 0.5, other
