"""Samples of the correction head: the worked example in 18 variants, and the masks behind them."""

from __future__ import annotations

import json

import pytest
import torch

from fastedit.training.correction.loss import error_weight, weighted_sum
from fastedit.training.correction.options import CorrectionOptions
from fastedit.training.correction.samples import Masks, draw_masks, judge, units
from fastedit.training.noise.draws import Draws


@pytest.fixture(scope="module")
def example(golden_folder):
    return json.loads((golden_folder / "fca" / "sample_example.json").read_text())


def row(length: int, places) -> torch.Tensor:
    """bool [1, length], True at `places`."""
    return torch.zeros(1, length, dtype=torch.bool).index_fill_(1, torch.tensor(places), True)


@pytest.mark.parametrize("number", range(18))
def test_the_worked_example(example, number):
    case = example["cases"][number]
    options = CorrectionOptions(
        delta_t=case["delta_t"],
        candidates=case["candidates_from"],
        tokens={"argmax": "argmax", "drawn": "sample"}[case["tokens"]],
        confidence={"max": "best", "drawn": "written"}[case["confidence"]],
    ).settled("full", ())
    clean = torch.tensor([example["x0"]])
    response = torch.tensor([example["response"]], dtype=torch.bool)
    now = row(clean.shape[1], example["t_masked"])
    masks = Masks(now, now | row(clean.shape[1], example["extra_masked"]))
    assert clean.masked_fill(masks.now, 9).tolist() == [case["x_t"]]
    assert clean.masked_fill(masks.more, 9).tolist() == [case["x_more"]]

    tokens, confidence = clean.clone(), torch.full(clean.shape, -9.0)
    for place, probs in ((int(p), torch.tensor(v)) for p, v in example["probs"].items()):
        drawn = options.tokens == "sample"
        tokens[0, place] = example["draws"][str(place)] if drawn else probs.argmax()
        best = options.confidence == "best"
        confidence[0, place] = probs.max() if best else probs[tokens[0, place]]
        if str(place) in case["y"]:
            assert tokens[0, place] == case["y"][str(place)]
            assert confidence[0, place] == pytest.approx(case["conf"][str(place)])
    group = torch.zeros_like(clean)
    found = judge(clean, response, group, masks, tokens, confidence, options, example["mask_id"])
    assert found.written[0].nonzero().flatten().tolist() == case["A"]
    assert found.ids.tolist() == [case["z"]]
    assert found.scope[0].nonzero().flatten().tolist() == case["scope"]
    assert found.errors[found.scope].int().tolist() == case["labels"]

    logits, errors = torch.tensor([example["head_logits"]])[found.scope], found.errors[found.scope]
    counts = torch.tensor([case["n_ok"], case["n_err"]])
    assert torch.equal(counts, torch.stack([(~errors).sum(), errors.sum()]))
    for weighting, loss in (
        ("none", "loss_plain"),
        ("clamped", "loss_pos_weight_mean"),
        ("balanced", "loss_weight_normalised"),
    ):
        weight, divisor = error_weight(counts, CorrectionOptions(weighting=weighting))
        assert float(weighted_sum(logits, errors, weight) / divisor) == pytest.approx(
            case[loss], abs=1e-6
        )
        if weighting == "clamped":
            assert weight == case["pos_weight"]


@pytest.mark.parametrize(
    ("right", "wrong", "weight"), [(90, 1, 20.0), (3, 6, 1.0), (8, 2, 4.0), (7, 0, 7.0)]
)
def test_the_weight_of_errors_has_bounds(right, wrong, weight):
    found, divisor = error_weight(torch.tensor([right, wrong]), CorrectionOptions())
    assert (float(found), int(divisor)) == (weight, right + wrong)


def test_what_is_judged():
    """A mask is wrong where all is judged; PRISM judges what it wrote; ties go to the left."""
    clean, everywhere = torch.arange(8)[None], torch.ones(1, 8, dtype=torch.bool)
    masks = Masks(row(8, [1, 2, 5]), row(8, [1, 2, 5]))
    given = clean, everywhere, torch.zeros_like(clean), masks, clean.clone(), torch.ones(1, 8)
    for options, written, scope in (
        (CorrectionOptions(targets="filling", count=2), [1, 2], [0, 1, 2, 3, 4, 6, 7]),
        (CorrectionOptions(targets="filling", count=1, scope="all"), [1], list(range(8))),
        (CorrectionOptions(targets="prism"), [1, 2, 5], [1, 2, 5]),
        (CorrectionOptions(targets="prism", count=1), [1], [1]),
    ):
        found = judge(*given, options.settled("full", ()), mask_token_id=9)
        assert found.written[0].nonzero().flatten().tolist() == written
        assert found.scope[0].nonzero().flatten().tolist() == scope
        assert torch.equal(found.errors, found.ids == 9)  # the drafts are right


@pytest.mark.parametrize("unit", ["block", "document"])
@pytest.mark.parametrize("targets", ["fca", "filling"])
def test_masks_have_the_rates_of_their_unit(unit, targets):
    """Over many documents, masks are as frequent as the two uniform rates make them."""
    example = torch.arange(400)[:, None].expand(400, 64)
    draws = Draws(3, 0, example, torch.arange(64).expand(400, 64))
    response = torch.ones(400, 64, dtype=torch.bool)
    options = CorrectionOptions(targets=targets, unit=unit, delta_t=0.25)
    masks = draw_masks(draws, response, options, 16)
    assert bool((masks.more | ~masks.now).all())  # what x_t masks, x_more masks too
    group = units(draws, unit, 16)
    assert len(group.unique()) == 400 * (4 if unit == "block" else 1)
    now, more = masks.now.double(), masks.more.double()
    if targets == "filling":  # t ~ U(.25, 1)
        assert torch.equal(masks.now, masks.more)
        assert float(now.mean()) == pytest.approx(0.625, abs=0.03)
    else:  # t ~ U(0, .75), u = t + U(.25, 1 - t): means 3 / 8 and 3 / 8 + (1 / 4 + 5 / 8) / 2
        assert float(now.mean()) == pytest.approx(0.375, abs=0.03)
        assert float(more.mean()) == pytest.approx(0.8125, abs=0.03)
    per_block = more.unflatten(1, (4, 16)).mean(-1)  # blocks of a document differ, or do not
    spread = (per_block - per_block.mean(1, keepdim=True)).std()
    assert (float(spread) > 0.12) == (unit == "block")
    nothing = draw_masks(draws, torch.zeros_like(response), options, 16)
    assert not nothing.more.any()


def test_each_unit_writes_its_own_share():
    """Of units of 2 and 70 response positions, .1 is 1 and 7 tokens."""
    group = torch.tensor([0] * 2 + [1] * 70)[None]
    clean = torch.zeros(1, 72, dtype=torch.int64)
    everywhere = torch.ones(1, 72, dtype=torch.bool)
    options = CorrectionOptions(delta_t=0.1).settled("full", ())
    masks, sure = Masks(everywhere, everywhere), torch.arange(72.0)[None]
    found = judge(clean, everywhere, group, masks, clean, sure, options, mask_token_id=9)
    assert found.written[0].nonzero().flatten().tolist() == [1, *range(65, 72)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "dsc"}, "targets must be one of fca, filling, prism; got 'dsc'"),
        ({"targets": "filling", "candidates": "extra"}, "targets=filling have no masks but those"),
        ({"targets": "prism", "candidates": "extra"}, "candidates=extra: targets=prism"),
        ({"delta_t": 0}, "delta_t must lie between 0 and 1, got 0.0"),
        ({"count": 0}, "count must be finite and at least 1, got 0"),
        ({"scope": "some"}, "scope must be one of visible, drafted, all"),
        ({"weighting": "auto"}, "weighting must be one of clamped, balanced, none"),
        ({"ban": "x"}, "ban='x' must be a list of integers"),
        ({"temperature": 0}, "temperature must be from 1e-30"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CorrectionOptions(**options)
