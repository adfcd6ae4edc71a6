"""Models with adapters and dropout: which of their parts take part in which pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from editing import (
    MASK,
    adapted,
    assert_same,
    best,
    edit_step,
    noise,
    packed,
    plain_logits,
    with_gradients,
)

from fastedit.training.options import EditOptions


@pytest.mark.parametrize("head", [False, True])
def test_adapters_get_their_gradient_and_nothing_else_does(head):
    model, batch = adapted(head=head), packed()
    found = []
    for share_clean in ("on", "off"):
        output = edit_step(model, draft_share=1.0, share_clean=share_clean)(**batch)
        found.append(with_gradients(model, output.loss))
    assert set(found[0]) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora" in name and gradient.any() for name, gradient in found[0].items())
    assert_same(*found)


def test_drafts_of_the_base_model():
    model, batch = adapted(), packed()
    options = {"draft_share": 1.0, "p_random": 0.0}
    found = edit_step(model, **options, draft_adapter="off")(**batch)
    noisy = noise(batch, EditOptions(**options))
    base, masks = model.get_base_model(), noisy.drafted & (noisy.ids == MASK)
    with torch.no_grad():
        with model.disable_adapter():
            off = best(plain_logits(base, noisy.ids, batch))
        on = best(plain_logits(base, noisy.ids, batch))
    assert not torch.equal(on[masks], off[masks])
    ids = torch.where(masks, off, noisy.ids)
    losses = F.cross_entropy(
        plain_logits(base, ids, batch).mT, batch["input_ids"], reduction="none"
    )
    torch.testing.assert_close(found.loss, losses[noisy.labelled].sum(), rtol=1e-5, atol=0.0)


def test_dropout_is_off_in_drafts_and_on_in_the_supervised_pass():
    model, batch = adapted(dropout=0.5), packed()
    step = edit_step(model, draft_share=1.0, n_drafts=4)
    outputs = [step(**batch) for _ in range(3)]
    assert len({output.loss.item() for output in outputs}) == 3
    assert all(m.training for m in model.modules() if isinstance(m, torch.nn.Dropout))
    sober = edit_step(model.eval(), draft_share=1.0, n_drafts=4)(**batch)
    for output in outputs:
        assert torch.equal(output.errors, sober.errors) and int(sober.errors.sum()) > 20
        assert torch.equal(output.counts, sober.counts)
