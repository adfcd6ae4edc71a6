"""The whole step against the same written plainly: full logits, both halves in every pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from editing import (
    BLOCK,
    MASK,
    RECIPES,
    assert_same,
    best,
    edit_step,
    noise,
    packed,
    plain_logits,
    small_model,
    with_gradients,
)

from fastedit.training.options import EditOptions
from fastedit.training.step import EditStep


@pytest.mark.parametrize("share_clean", ["on", "off"])
@pytest.mark.parametrize("denominator", ["supervised", "maskable", "sequence"])
@pytest.mark.parametrize("recipe", ["none", "random", "self"])
def test_loss_and_gradients_by_hand(recipe, denominator, share_clean):
    model, batch = small_model(), packed()
    options = {
        **RECIPES[recipe],
        "denominator": denominator,
        "share_clean": share_clean,
        "mask_weight": "1/t",
        "w_max": 2.0,
        "lambda_edit": 3.0,
        "lambda_keep": 0.25,
    }
    output = edit_step(model, **options)(**batch)
    noisy, clean = noise(batch, EditOptions(**options)), batch["input_ids"]
    ids = noisy.ids
    if recipe == "self":
        with torch.no_grad():
            draft = best(plain_logits(model, ids, batch))
        ids = torch.where(noisy.drafted & (ids == MASK), draft, ids)
    losses = F.cross_entropy(plain_logits(model, ids, batch).mT, clean, reduction="none")
    total, labels = 0.0, 0
    for row, column in noisy.labelled.nonzero().tolist():
        place = row, column
        held, rate = int(ids[place]), float(noisy.rate[place])
        weight = min(1 / rate, 2.0) if held == MASK else 0.25 if held == clean[place] else 3.0
        mates = batch["response"] & (batch["example"] == batch["example"][place])
        total += losses[place] * weight / (int(mates.sum()) if denominator == "sequence" else 1)
    labels = {
        "supervised": int(noisy.labelled.sum()),
        "maskable": int(batch["response"].sum()),
        "sequence": 3,
    }[denominator]
    torch.testing.assert_close(output.loss, total, rtol=1e-5, atol=0.0)
    assert int(output.labels) == labels
    assert_same(with_gradients(model, output.loss), with_gradients(model, total))
    visible = noisy.labelled & (ids != MASK)
    assert output.counts.tolist() == [
        int((noisy.labelled & (ids == MASK)).sum()),
        int((visible & (ids != clean)).sum()),
        int((visible & (ids == clean)).sum()),
    ]
    hit = noisy.labelled & (best(plain_logits(model, ids, batch)) == clean)
    assert int(output.hits.sum()) == int(hit.sum())


def test_noise_does_not_depend_on_batch_or_packing():
    model, batch = small_model(), packed()
    step = edit_step(model, draft_share=0.6, n_drafts=2, p_random=0.3, random_scope="both")
    whole = step(**batch)
    parts = []
    for document in (5, 6, 70):
        row, columns = (batch["example"] == document).nonzero().unbind(1)
        alone = {name: tensor[row, columns][None] for name, tensor in batch.items()}
        parts.append(step(**alone))
    torch.testing.assert_close(sum(p.loss for p in parts), whole.loss, rtol=1e-5, atol=0.0)
    for field in range(5):
        assert torch.equal(sum(p.tally[field] for p in parts), whole.tally[field])
    assert torch.equal(sum(p.errors for p in parts), whole.errors)


def test_steps_repeat_and_leave_the_global_generator_alone():
    model, batch = small_model(), packed()
    step = edit_step(model, draft_mode="sample")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = step(**batch).loss
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    assert torch.equal(step(**batch).loss, first)
    assert not torch.equal(step(**batch, epoch=1).loss, first)


@pytest.mark.parametrize("denominator", ["supervised", "maskable", "sequence"])
@pytest.mark.parametrize(
    "recipe", [*RECIPES.values(), {"loss_region": "formerly_masked+random", "random_scope": "both"}]
)
def test_labels_are_counted_without_the_model(recipe, denominator):
    model, batch = small_model(), packed()
    step = edit_step(model, **(recipe | {"denominator": denominator}))
    expected = [int(step(**batch, epoch=epoch).labels) for epoch in range(3)]
    model.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    assert [int(step.count({**batch, "epoch": epoch})) for epoch in range(3)] == expected
    assert denominator != "sequence" or expected[0] % 3 == 0


def test_complementary_copies_supervise_every_response_position_once():
    model, batch = small_model(), packed()
    output = edit_step(model, t2t="none", complementary=True)(**batch)
    assert output.counts.tolist() == [int(batch["response"].sum()), 0, 0]


def test_rounds_by_hand():
    """Each round starts from the ids of the last one after a decoding step; labels stay."""
    model, batch = small_model(), packed()
    limits = {"turn_threshold": 0.07, "turn_editing_threshold": 0.065}
    options = {"t2t": "none", "turns": 3, **limits}
    ids, clean, response = noise(batch, EditOptions(**options)).ids, *list(batch.values())[:2]
    losses, seen = [], []
    for _ in range(3):
        logits = plain_logits(model, ids, batch)
        losses.append((F.cross_entropy(logits.mT, clean, reduction="none") * response).sum())
        seen.append(ids)
        prob, token = logits.softmax(-1).index_fill(-1, torch.tensor([MASK]), 0.0).max(-1)
        masked, new = response & (ids == MASK), ids.clone()
        for row in range(2):
            for block in range(0, 16, BLOCK):
                span = slice(block, block + BLOCK)
                here = masked[row, span].nonzero().squeeze(1) + block
                if not len(here):
                    continue
                sure = [int(i) for i in here if prob[row, i] > limits["turn_threshold"]]
                for i in sure or [int(here[prob[row, here].argmax()])]:
                    new[row, i] = token[row, i]
        edits = response & ~masked & (prob > limits["turn_editing_threshold"])
        ids = torch.where(edits, token, new)
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()
    last = edit_step(model, **options)(**batch)
    every = edit_step(model, **options, grad_rounds="all")(**batch)
    torch.testing.assert_close(last.loss, losses[-1], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(every.loss, sum(losses), rtol=1e-5, atol=0.0)
    assert int(every.labels) == 3 * int(last.labels) == 3 * int(response.sum())
    expected = with_gradients(model, sum(losses))
    assert_same(with_gradients(model, every.loss), expected)


@pytest.mark.parametrize("region", ["m2t", "all"])
def test_confidence_loss_by_hand(region):
    """Divided by the labels, it is beta times the mean entropy of the right rows."""
    model, batch = small_model(), packed()
    with torch.no_grad():
        model.lm_head.weight[2:].mul_(0.01)  # so that ids below 6 are often right
        model.lm_head.weight[2:6] *= 300
        batch["input_ids"] = torch.where(batch["response"], 2 + batch["input_ids"] % 4, 7)
    options = {"t2t": "random", "r_edit": 0.3, "noise": "fixed(0.5)"}
    without = edit_step(model, **options)(**batch)
    found = edit_step(model, **options, cap_beta=2.0, cap_region=region)(**batch)
    noisy = noise(batch, EditOptions(**options))
    rows = noisy.labelled if region == "all" else noisy.labelled & (noisy.ids == MASK)
    probs = plain_logits(model, noisy.ids, batch)[rows].softmax(-1)
    right = probs.argmax(-1) == batch["input_ids"][rows]
    assert 1 < int(right.sum()) < len(right)
    entropy = -(probs[right] * probs[right].log()).sum(-1).mean()
    extra = (found.loss - without.loss) / found.labels
    torch.testing.assert_close(extra, 2.0 * entropy, rtol=1e-4, atol=1e-5)
    expected = with_gradients(model, without.loss + 2.0 * entropy * without.labels)
    assert_same(with_gradients(model, found.loss), expected)


def test_what_does_not_go_together_is_refused():
    model = small_model()
    with pytest.raises(ValueError, match="peft"):
        edit_step(model, draft_adapter="off")
    with pytest.raises(ValueError, match="mask_token_id 24"):
        EditStep(model, EditOptions(), seed=0, mask_token_id=24)
    with pytest.raises(ValueError, match="forbid_ids"):
        EditStep(model, EditOptions(t2t="random"), seed=0, mask_token_id=1, forbid_ids=range(2, 24))
    with pytest.raises(ValueError, match="labels=lcs need control tokens"):
        EditStep(model, EditOptions(labels="lcs"), seed=0, mask_token_id=1)
    batch = {name: tensor[:, :14] for name, tensor in packed().items()}
    with pytest.raises(ValueError, match="14 tokens"):
        edit_step(model)(**batch)


def test_a_batch_without_labels_has_no_loss_and_a_gradient_of_zeros():
    model, batch = small_model(), packed()
    batch["response"][:] = False
    output = edit_step(model)(**batch)
    found = with_gradients(model, output.loss)
    assert output.loss.item() == int(output.labels) == 0
    assert "lm_head.weight" in found and not any(gradient.any() for gradient in found.values())


def test_counts_can_be_left_out():
    model, batch = small_model(), packed()
    step = edit_step(model)
    measured, bare = step(**batch), step(**batch, measure=False)
    assert torch.equal(measured.loss, bare.loss) and torch.equal(measured.counts, bare.counts)
    assert not bare.hits.any()
