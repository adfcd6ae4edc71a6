"""What drafting takes and gives: views, types, no rows, and errors that name the value."""

from dataclasses import replace

import pytest
import torch
from drafting import MASK, PLAIN, key, run

from fastedit import ops

NAN = float("nan")


def test_views_will_do_and_nothing_is_written(backend):
    buffer = torch.randn(40, 33, generator=torch.Generator().manual_seed(3))
    ids = torch.arange(120).reshape(3, 40).T % 5
    x0, eligible = torch.arange(80)[::2] % 9, torch.arange(80)[::2] % 6 > 0
    keyed = key(40, example=torch.arange(80)[1::2], position=torch.arange(120)[::3])
    options = replace(PLAIN, draft_mode="sample", p_random=0.3, random_scope="both", keep_mask=0.2)
    kept = [tensor.clone() for tensor in (buffer, ids, x0)]
    for logits in (buffer[:, 1:20], buffer[:, ::1], buffer[3:4, 2:].expand(40, -1)):
        got = run(backend, logits, ids[:, 1], x0, options, eligible, keyed)
        parts = (ids[:, 1].contiguous(), x0.contiguous(), options, eligible.contiguous())
        dense = key(40, example=keyed.example.contiguous(), position=keyed.position.contiguous())
        want = run("reference", logits.contiguous(), *parts, dense)
        assert got.z.equal(want.z) and got.kinds.equal(want.kinds)
        assert got.labels.equal(want.labels) and got.n_err.equal(want.n_err)
    assert all(one.equal(two) for one, two in zip((buffer, ids, x0), kept, strict=True))


def test_fields_have_their_types_and_no_gradient(backend):
    got = run(backend, torch.zeros(3, 5, requires_grad=True), [MASK, 0, 1])
    kinds = [(field.dtype, list(field.shape)) for field in vars(got).values()]
    int64, shape = torch.int64, [3]
    assert kinds == [
        *[(int64, shape)] * 2,
        (torch.uint8, shape),
        (torch.float32, shape),
        (int64, []),
        (torch.bool, shape),
    ]
    assert not got.p_draft.requires_grad


def test_no_rows_are_fine(backend):
    got = run(backend, torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert len(got.z) == len(got.kinds) == 0 and int(got.n_err) == 0


def test_a_vocabulary_without_the_mask(backend):
    """The mask id lies beyond the logits, as with a head that does not predict it."""
    options = replace(PLAIN, mask_token_id=50, forbid=(3,))
    got = run(backend, torch.eye(4, 4), [50] * 4, None, options)
    assert got.z.tolist() == [0, 1, 2, 0] and int(got.n_err) == 2


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"logits": torch.zeros(2, 4, dtype=torch.float64)}, TypeError, "float64"),
        ({"logits": torch.zeros(2, 4, 1)}, ValueError, r"\[2, 4, 1\]"),
        ({"logits": torch.zeros(4, 2).T}, ValueError, "contiguous"),
        ({"xt": torch.zeros(3, dtype=torch.int64)}, ValueError, r"xt .*\[3\]"),
        ({"x0": torch.zeros(2, dtype=torch.int32)}, ValueError, "x0 .*int32"),
        ({"eligible": torch.zeros(2, dtype=torch.uint8)}, ValueError, "eligible .*uint8"),
        ({"key": key(3)}, ValueError, r"key.example .*\[3\]"),
        ({"options": replace(PLAIN, forbid=(4,))}, ValueError, "4"),
        ({"options": replace(PLAIN, forbid=(0, 3), p_random=0.1)}, ValueError, "only 1"),
    ],
)
def test_wrong_arguments_raise_and_name_the_value(change, error, named):
    arguments = {
        "logits": torch.zeros(2, 4),
        "xt": torch.zeros(2, dtype=torch.int64),
        "x0": torch.zeros(2, dtype=torch.int64),
        "eligible": torch.ones(2, dtype=torch.bool),
        "options": PLAIN,
        "key": key(2),
    }
    with pytest.raises(error, match=named):
        ops.draft_and_corrupt(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"draft_mode": "best"}, "'best'"),
        ({"random_scope": ""}, "drafted, visible, both"),
        ({"loss_region": "all"}, "'all'"),
        ({"keep_mask": 1.5}, "keep_mask .*1.5"),
        ({"p_random": -0.1}, "p_random .*-0.1"),
        ({"p_random": NAN}, "nan"),
        ({"temperature": 0.0}, "0.0"),
    ],
)
def test_wrong_options_raise_and_name_the_value(change, named):
    with pytest.raises(ValueError, match=named):
        replace(PLAIN, **change)


@pytest.mark.parametrize(
    "change", [{"seed": 2**63}, {"epoch": 2**16}, {"epoch": -1}, {"turn": 2**24}]
)
def test_keys_out_of_range_raise(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        key(2, **change)
