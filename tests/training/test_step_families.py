"""Steps on models of other families, against the same written plainly: full logits, plain masks."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from editing import BLOCK, MASK, SEED, SPECIAL, assert_same, best, noise, packed, with_gradients
from family_models import FAMILIES, family_model
from plain_masks import doubled_block_mask

from fastedit.training.options import EditOptions
from fastedit.training.step import EditStep

RECIPES = {
    "none": {"t2t": "none"},
    "random": {"t2t": "random", "r_edit": 0.5},
    "self": {"draft_share": 0.7, "p_random": 0.0},
}


def step_of(model, name, **options):
    return EditStep(
        model,
        EditOptions(**options),
        seed=SEED,
        mask_token_id=MASK,
        forbid_ids=(SPECIAL,),
        family=FAMILIES[name],
    )


def plain_logits(model, name, ids, batch):
    """Logits [B, L, V] of noisy `ids`, each at the position that it is of.

    One document at a time where the family has full attention: nothing else can be seen. Where it
    reads blocks, both halves whole, in one sequence.
    """
    family = FAMILIES[name]
    position, document = batch["positions"], batch["example"]
    if family.attention == "full":
        rows = torch.zeros(*ids.shape, model.config.vocab_size)
        for number in document[document >= 0].unique():
            where = document == number
            one = ids[where][None]
            mask = torch.ones(1, 1, one.shape[1], one.shape[1], dtype=torch.bool)
            logits = model(one, attention_mask=mask).logits
            if family.shift:
                logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
            rows = rows.masked_scatter(where[..., None], logits[0])
        return rows
    mask = doubled_block_mask(ids.shape[1], BLOCK, document_ids=document)
    mask = mask | torch.eye(mask.shape[-1], dtype=torch.bool)  # padding sees itself
    both = torch.cat([ids, batch["input_ids"]], dim=1)
    logits = model(both, attention_mask=mask, position_ids=torch.cat([position] * 2, dim=1)).logits
    noisy, clean = logits.chunk(2, dim=1)
    if not family.shift:
        return noisy
    before = torch.cat([noisy[:, :1], noisy[:, :-1]], dim=1)
    opening = torch.cat([clean[:, :1], clean[:, :-1]], dim=1)
    rows = torch.where((position % BLOCK == 0)[..., None], opening, before)
    return torch.where((position == 0)[..., None], noisy, rows)


BLOCKS = [name for name, family in FAMILIES.items() if family.attention == "block_causal"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("name", "share_clean"),
    [(name, "auto") for name in FAMILIES] + [(name, "off") for name in BLOCKS],
)
def test_loss_and_gradients_by_hand(name, recipe, share_clean):
    model, batch = family_model(name).train(), packed()
    options = EditOptions(**RECIPES[recipe]).for_attention(FAMILIES[name].attention)
    output = step_of(model, name, **RECIPES[recipe], share_clean=share_clean)(**batch)
    noisy, clean = noise(batch, options), batch["input_ids"]
    ids = noisy.ids
    if recipe == "self":
        with torch.no_grad():
            draft = best(plain_logits(model, name, ids, batch))
        ids = torch.where(noisy.drafted & (ids == MASK), draft, ids)
        assert ((ids != clean) & (ids != MASK)).any()
    losses = F.cross_entropy(plain_logits(model, name, ids, batch).mT, clean, reduction="none")
    total = 0.0
    for row, column in noisy.labelled.nonzero().tolist():
        place = row, column
        mates = batch["response"] & (batch["example"] == batch["example"][place])
        weight = 1.0
        if FAMILIES[name].attention == "full":  # the SFT of LLaDA
            weight = 1 / float(noisy.rate[place]) if ids[place] == MASK else 1.0
            weight /= int(mates.sum())
        total = total + losses[place] * weight
    torch.testing.assert_close(output.loss, total, rtol=1e-5, atol=0.0)
    full = FAMILIES[name].attention == "full"
    assert int(output.labels) == (3 if full else int(noisy.labelled.sum()))
    assert_same(with_gradients(model, output.loss), with_gradients(model, total))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_nothing(name):
    batch, model = packed(), family_model(name).train()
    step = step_of(model, name, draft_share=1.0)
    plain = step(**batch).loss
    expected = with_gradients(model, plain)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = step(**batch).loss
    torch.testing.assert_close(found, plain)
    assert_same(with_gradients(model, found), expected)


def test_packed_documents_with_full_attention_do_not_see_each_other():
    """The loss of a batch is the sum over its documents alone; drafts are the same."""
    model, batch = family_model("dream").train(), packed()
    step = step_of(model, "dream", draft_share=0.6, p_random=0.3, random_scope="both")
    whole, parts = step(**batch), []
    for document in (5, 6, 70):
        row, columns = (batch["example"] == document).nonzero().unbind(1)
        parts.append(step(**{name: x[row, columns][None] for name, x in batch.items()}))
    torch.testing.assert_close(sum(p.loss for p in parts), whole.loss, rtol=1e-5, atol=0.0)
    for field in range(5):
        assert torch.equal(sum(p.tally[field] for p in parts), whole.tally[field])


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_there_is_no_clean_half_to_share(name):
    with pytest.raises(ValueError, match="full attention there is no clean half"):
        step_of(family_model(name), name, share_clean="on")


def test_what_was_given_stays_given():
    assert EditOptions(noise="uniform_seq(0.3,0.8)").for_attention("full").noise == (
        "uniform_seq(0.3,0.8)"
    )
    full = EditOptions(t2t="none").for_attention("full")
    assert (full.noise, full.mask_weight, full.w_max) == ("uniform(0.001,1)", "1/t", 1000.0)
    assert full.denominator == "sequence" and full.t2t == "none"
    blocks = EditOptions().for_attention("block_causal")
    assert (blocks.noise, blocks.denominator) == ("uniform_seq(0.3,0.8)", "supervised")


def test_options_made_from_others_give_no_more_than_those():
    """Copies with a change, and what was written down, leave open what was left open."""
    start = EditOptions(w_max=5.0)
    for options in (
        replace(start, r_edit=0.2),
        EditOptions(**asdict(start) | {"r_edit": 0.2}),
        EditOptions(**json.loads(json.dumps(asdict(replace(start, r_edit=0.2))))),
        copy.deepcopy(replace(start, r_edit=0.2)),
    ):
        full = step_with(options).options
        assert (full.noise, full.mask_weight) == ("uniform(0.001,1)", "1/t")
        assert (full.denominator, full.w_max, full.r_edit) == ("sequence", 5.0, 0.2)
    settled = start.for_attention("block_causal")
    assert replace(settled, r_edit=0.2).for_attention("full").noise == "uniform_seq(0.3,0.8)"


def step_with(options):
    settings = {"seed": SEED, "mask_token_id": MASK, "family": FAMILIES["llada"]}
    return EditStep(family_model("llada"), options, **settings)


@pytest.mark.parametrize("name", ["sdar", "dream"])
def test_every_attention_gives_the_same_loss(name):
    """Masks are bool here; transformers' eager attention adds what it is given to the scores."""
    batch, model = packed(), family_model(name).eval()
    with torch.no_grad():
        expected = step_of(model, name)(**batch).loss
        model.config._attn_implementation = "eager"
        torch.testing.assert_close(step_of(model, name)(**batch).loss, expected)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="'flex_attention' cannot be trained with"):
        step_of(model, name)(**batch)
