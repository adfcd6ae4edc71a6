"""The second head that a run begins from."""

from __future__ import annotations

import pytest
import torch
from family_models import family_model

from fastedit.heads import NextTokenHead
from fastedit.training.refinement.start import next_token_head


def test_a_new_head_begins_as_the_output_embedding():
    model = family_model("llada").bfloat16()
    head = next_token_head(model, None, whole=False)
    assert head.out.weight.dtype == torch.float32 and head.training
    assert torch.equal(head.out.weight, model.lm_head.weight.float())
    assert head.out.weight.requires_grad


@pytest.mark.parametrize("whole", [False, True])
def test_a_head_of_the_models_own_goes_on(whole):
    """Where all of the model trains, one parameter is both, so that the model is saved with it."""
    model = family_model("llada", next_token_head=True)
    own = model.next_token_head.weight.detach().clone()
    head = next_token_head(model, None, whole=whole)
    assert torch.equal(head.out.weight, own)
    assert (head.out.weight is model.next_token_head.weight) == whole


def test_a_head_of_an_earlier_run_goes_before_the_models_own(tmp_path):
    before = NextTokenHead.of(family_model("llada"))
    before.save_pretrained(tmp_path)
    model = family_model("llada", next_token_head=True)
    head = next_token_head(model, tmp_path, whole=True)
    assert torch.equal(head.out.weight, before.out.weight)
    assert head.out.weight is model.next_token_head.weight
    with pytest.raises(ValueError, match="made for a model with vocab_size=24"):
        next_token_head(family_model("llada", vocab=30), tmp_path, whole=True)
