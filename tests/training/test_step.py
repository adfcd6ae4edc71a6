"""The whole step against the same written plainly: full logits, both halves in every pass."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from editing import BLOCK, MASK, SPECIAL, gradients, packed, plain_logits
from test_objective import tiny_model

from fastedit.training.corruption import corrupt
from fastedit.training.draws import Draws
from fastedit.training.options import EditOptions
from fastedit.training.step import EditStep

SEED = 3
RECIPES = {
    "none": {"t2t": "none"},
    "random": {"t2t": "random", "r_edit": 0.5},
    "self": {"draft_share": 0.7, "p_random": 0.0},
    "drafts": {"draft_share": 1.0, "n_drafts": 2, "random_scope": "both", "p_random": 0.3},
    "sampled": {"draft_mode": "sample", "keep_mask": 0.3, "loss_region": "formerly_masked"},
    "rounds": {"turns": 3, "grad_rounds": "all"},
    "complementary": {"t2t": "none", "complementary": True, "mask_weight": "1/t"},
    "confident": {"t2t": "random", "cap_beta": 2.0, "denominator": "sequence"},
}


def small_model(**config):
    model = tiny_model().train()
    model.config.block_size = BLOCK
    for name, value in config.items():
        setattr(model.config, name, value)
    return model


def edit_step(model, **options):
    return EditStep(
        model, EditOptions(**options), seed=SEED, mask_token_id=MASK, forbid_ids=(SPECIAL,)
    )


def noise(batch, options, copy=0, epoch=0):
    vocab = torch.arange(24)
    return corrupt(
        batch["input_ids"],
        batch["response"],
        Draws(SEED, epoch, batch["example"], batch["positions"]),
        options,
        copy=copy,
        block_size=BLOCK,
        mask_token_id=MASK,
        candidates=vocab[(vocab != MASK) & (vocab != SPECIAL)],
    )


def with_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return gradients(model)


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = float(expected[name].abs().max())
        assert torch.allclose(
            found[name], expected[name], rtol=0.0, atol=tolerance * (1 + scale)
        ), name


def best(logits):
    return logits.index_fill(-1, torch.tensor([MASK]), -torch.inf).argmax(-1)


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
    assert [int(step.count_labels(**batch, epoch=epoch)) for epoch in range(3)] == expected
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


def adapted(dropout: float = 0.0, head: bool = False):
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4,
        lora_dropout=dropout,
        target_modules=["query_key_value", "dense", "up_proj"] + (["lm_head"] if head else []),
    )
    model = peft.get_peft_model(small_model(), config).train()
    with torch.no_grad():  # lora_B starts at zero, and then an adapter does nothing
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


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


def test_what_does_not_go_together_is_refused():
    model = small_model()
    with pytest.raises(ValueError, match="peft"):
        edit_step(model, draft_adapter="off")
    with pytest.raises(ValueError, match="mask_token_id 24"):
        EditStep(model, EditOptions(), seed=0, mask_token_id=24)
    with pytest.raises(ValueError, match="forbid_ids"):
        EditStep(model, EditOptions(t2t="random"), seed=0, mask_token_id=1, forbid_ids=range(2, 24))
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
