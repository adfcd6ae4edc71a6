"""The clean half computed once for all passes: as if it were in each of them."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from editing import (
    RECIPES,
    adapted,
    assert_same,
    edit_step,
    packed,
    small_model,
    with_gradients,
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_shared_and_doubled_clean_half_agree_on_the_golden_model(golden_model, recipe):
    """fp32, blocks of 32: same ids, loss and gradients to 1e-5."""
    model = copy.deepcopy(golden_model).train()
    batch = packed(vocab=model.config.vocab_size, block=32)
    found = []
    for share_clean in ("on", "off"):
        output = edit_step(model, **RECIPES[recipe], share_clean=share_clean)(**batch)
        found.append((output, with_gradients(model, output.loss / output.labels)))
    (shared, ours), (doubled, theirs) = found
    torch.testing.assert_close(shared.loss, doubled.loss, rtol=1e-5, atol=0.0)
    for one, other in zip(shared.tally, doubled.tally, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(shared.drafted, doubled.drafted)
    assert_same(ours, theirs)


def test_shared_and_doubled_clean_half_agree_in_float64():
    model, batch = small_model().double(), packed()
    model.set_experts_implementation("eager")  # torch's grouped products have no float64
    found = []
    for share_clean in ("on", "off"):
        output = edit_step(model, **RECIPES["drafts"], share_clean=share_clean)(**batch)
        found.append((output.loss, with_gradients(model, output.loss)))
    (ours, shared), (theirs, doubled) = found
    # The model's norms and router work in fp32 whatever the weights are.
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0.0)
    assert_same(shared, doubled, 1e-6)


def test_shared_and_doubled_clean_half_agree_with_block_pools():
    """LLaDA2.2 routes a block through a pool of experts; the halves are different blocks."""
    model, batch = small_model(), packed()
    model.config.expert_capacity = 2
    for layer in model.model.layers[1:]:
        layer.mlp.gate.capacity = 2
    losses = [
        edit_step(model, draft_share=1.0, share_clean=share)(**batch).loss
        for share in ("on", "off")
    ]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0.0)


def test_clean_half_runs_once():
    model, batch = small_model(), packed()
    rows: list[int] = []
    model.model.register_forward_hook(
        lambda module, inputs, kwargs, output: rows.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    options = {"draft_share": 1.0, "n_drafts": 2, "noise": "fixed(0.9)"}
    edit_step(model, **options, share_clean="on")(**batch)
    assert rows == [12, 16, 16, 16, 16]  # the clean half without its last block, then 2k noisy ones
    rows.clear()
    edit_step(model, **options, share_clean="off")(**batch)
    assert rows == [28, 28, 28, 28]
    rows.clear()
    batch["response"][:, :8] = False
    edit_step(model, **options)(**batch)
    assert rows == [12, 8, 8, 8, 8]  # blocks without a label are left out


@pytest.mark.parametrize("share_clean", ["on", "off"])
@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_gets_its_gradient_though_a_pass_without_one_came_first(
    autocast, share_clean
):
    """Autocast keeps casts of weights, and one made without gradient must not be used again."""
    model, batch = small_model(), packed()
    step = edit_step(model, draft_share=1.0, p_random=0.0, share_clean=share_clean)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = step(**batch).loss
    found = with_gradients(model, loss)
    assert found.keys() == dict(model.named_parameters()).keys()
    used = [name for name in found if "experts." not in name or "shared" in name]
    assert all(found[name].any() for name in used)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # reentrant
@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (lambda: adapted(dropout=0.1), {}, "dropout"),
        (adapted, {"draft_adapter": "off"}, "draft_adapter"),
        (lambda: checkpointed(small_model(), True), {}, "use_reentrant"),
    ],
)
def test_sharing_is_refused_where_it_is_not_valid(build, options, reason):
    model = build()
    with pytest.raises(ValueError, match=reason):
        edit_step(model, **options, share_clean="on")
    assert edit_step(model, **options)(**packed()).loss.isfinite()  # "auto" goes without
    if reason == "draft_adapter":  # without drafts it does not matter
        edit_step(model, **options, t2t="random", share_clean="on")


def checkpointed(model, reentrant: bool):
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


def test_gradient_checkpointing_changes_nothing():
    model, batch = small_model(), packed()
    step = edit_step(model, draft_share=1.0, share_clean="on")
    plain = step(**batch).loss
    expected = with_gradients(model, plain)
    checkpointed(model, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = step(**batch).loss
    assert torch.equal(found, plain)
    assert_same(with_gradients(model, found), expected, 1e-6)
    assert not any("_can_checkpoint_with_cache" in vars(m) for m in model.modules())
