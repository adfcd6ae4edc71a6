"""A step of ME-DLM against the same written plainly: losses of both heads, drafts, counts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from family_models import FAMILIES, family_model
from golden_families import loaded

from fastedit.heads import NextTokenHead
from fastedit.training.data.edit_rows import edit_row
from fastedit.training.options import EditOptions
from fastedit.training.refinement.options import RefinementOptions
from fastedit.training.refinement.step import RefinementStep

MASK, DELETE, EOS, PAD, SEED = 191, 188, 187, 189, 7
IDS = {"mask_token_id": MASK, "delete_token_id": DELETE, "eos_token_id": EOS, "pad_token_id": PAD}


def step_of(model=None, head=None, refinement=None, seed=SEED, **options):
    model = copy.deepcopy(loaded("llada").model).train() if model is None else model
    head = NextTokenHead.of(model) if head is None else head
    options = EditOptions(labels="levenshtein", **options)
    refinement = RefinementOptions(**(refinement or {}))
    return RefinementStep(model, head, options, refinement, seed=seed, **IDS)


def batch(rows: int = 8):
    """Rows of two documents of 16 tokens, the second a token shorter, and a row of padding."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 180, (rows + 1, 32), generator=generator)
    place = torch.arange(16).repeat(2).expand_as(ids).contiguous()
    example = torch.arange(2 * rows + 2).view(-1, 2).repeat_interleave(16, dim=1)
    response = place >= 5
    ids[place >= 12], ids[:, -5] = EOS, 17
    example[-1], response[-1], place[-1] = -1, False, 0
    found = {"input_ids": ids, "response": response, "positions": place, "example": example}
    return {**found, "epoch": 0}


def with_labels(ready):
    """A prepared batch, with the labels of drafts in place of the function that makes them."""
    if ready["labels"] is None:
        return ready
    where = ready["edited"][:, None]
    made = zip(("current", "following"), ready["labels"](torch.device("cpu")), strict=True)
    return ready | {name: ready[name].masked_scatter(where, own) for name, own in made}


def plain_losses(step, ready, row):
    """Mean losses of both heads in one row, a document at a time."""
    losses = [[], []]
    for number in ready["document"][row].unique():
        where = ready["document"][row] == number
        ids = ready["ids"][row, where][None]
        mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        hidden = step.base.model(ids, attention_mask=mask).last_hidden_state[0]
        for kind, head, found in zip(
            ("current", "following"), (step.base.lm_head, step.head), losses, strict=True
        ):
            labels = ready[kind][row, where]
            has = labels != -100
            found += F.cross_entropy(head(hidden[has]), labels[has], reduction="none").unbind()
    return [torch.stack(found).mean() if found else torch.zeros(()) for found in losses]


@pytest.mark.parametrize("t2t", ["none", "self"])
def test_loss_by_hand(t2t):
    """Means over each head's own labels, by one t per row; then the mean over rows."""
    step = step_of(t2t=t2t)
    ready = step.prepared(batch(), 0.1)
    assert ready["edited"].sum() == (0 if t2t == "none" else 3)
    output = step(**ready)
    assert int(output.labels) == int(step.count(ready)) == 8  # a row of padding is none
    told = with_labels(ready)
    expected = sum(sum(plain_losses(step, told, row)) / ready["rate"][row] for row in range(8))
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=0)
    both = step.head.out.weight, step.base.model.embed_tokens.weight
    found = torch.autograd.grad(output.loss, both)
    for one, other in zip(found, torch.autograd.grad(expected, both), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_rows_do_not_depend_on_their_company():
    """Labels, drafts and rates of a row alone are those among others, at the same share done."""
    step, all_of = step_of(draft_share=0.6), batch()
    ready = with_labels(step.prepared(all_of, 0.5))
    for row in range(8):
        alone = {k: v if k == "epoch" else v[row : row + 1] for k, v in all_of.items()}
        found = with_labels(step.prepared(alone, 0.5))
        for name in ("ids", "current", "following", "rate", "edited", "steps"):
            assert torch.equal(found[name][0], ready[name][row]), name
    assert ready["edited"].any() and not ready["edited"].all()
    other = step.prepared({**all_of, "epoch": 1}, 0.5)
    assert not torch.equal(other["rate"], ready["rate"])


@pytest.mark.parametrize(("first_gap", "told"), [("canonical", True), ("released", False)])
def test_an_edited_row_is_labelled_as_rows_of_edits_are(first_gap, told):
    """Its drafts, cut out of the row, and the answers of the data give the labels of the row."""
    options = {"first_gap": first_gap, "label_after_delete": not told}
    step, data = step_of(refinement=options, draft_share=1.0), batch()
    ready = with_labels(step.prepared(data, 0.0))
    for row in range(8):
        own = [ready["document"][row] == n for n in range(2)]
        texts = [ready["ids"][row][where] for where in own]
        clean = [data["input_ids"][row, :16], data["input_ids"][row, 16:]]
        ends = [int((text[5:] == EOS).int().argmax()) + 6 for text in clean]
        again = edit_row(
            [text[:5] for text in texts],
            [text[5:] for text in texts],
            [text[5:end] for text, end in zip(clean, ends, strict=True)],
            row_length=32,
            pad_token_id=MASK,
            eos_token_id=EOS,
            delete_token_id=DELETE,
            canonical_first_gap=told,
            label_after_delete=not told,
        )
        assert torch.equal(again["current_labels"], ready["current"][row])
        assert torch.equal(again["next_labels"], ready["following"][row])
        assert not any(torch.isin(text, torch.tensor([MASK, PAD])).any() for text in texts)
        assert [text[:5].tolist() for text in texts] == [text[:5].tolist() for text in clean]


def test_answers_without_an_end_are_not_edited():
    """A row of them in the edit stage teaches nothing, and is a row nevertheless."""
    step, data = step_of(draft_share=1.0), batch(2)
    data["input_ids"][data["input_ids"] == EOS] = 17
    ready = step.prepared(data, 0.5)
    output = step(**ready)
    assert ready["edited"].tolist() == [True, True, False] and int(output.labels) == 2
    told = step.advice(output.seen.tolist())
    assert "none of the 2 rows that were drafted holds an answer that ends with id 187" in told
    assert float(output.loss.detach()) == 0.0
    output.loss.backward()  # every parameter takes part, as DDP wants it
    assert step.head.out.weight.grad is not None


@pytest.mark.parametrize(
    ("done", "steps"), [(0.0, 0), (1 / 32, 1), (0.49, 15), (0.5, 16), (99 / 100, 31)]
)
def test_the_curriculum_follows_the_share_that_is_done(done, steps):
    step = step_of(draft_share=1.0)
    ready = step.prepared(batch(1), done)
    assert ready["steps"].tolist() == [steps] * 2
    output = step(**ready)
    report = step.report(output.seen.tolist())
    assert report["edit_steps"] == steps and report["edited_rows"] == 1.0
    assert step.advice(output.seen.tolist()) is None


def test_a_validation_draws_how_often_it_edits():
    step = step_of(draft_share=1.0)
    drawn = step.prepared(batch(), None)["steps"][:8]
    assert len(drawn.unique()) > 4 and drawn.max() < 32
    assert torch.equal(drawn, step.prepared(batch(), None)["steps"][:8])


class Heads(torch.nn.Module):
    """A head whose argmax is scripted: the tokens of the rows that it is asked for, in order."""

    def __init__(self, tokens, hidden, vocab=192):
        super().__init__()
        self.tokens, self.out_features = tokens, vocab
        self.weight = torch.nn.Parameter(torch.zeros(vocab, hidden))

    def forward(self, hidden):
        scores = hidden @ self.weight.T
        return scores + 9.0 * F.one_hot(self.tokens[: len(hidden)], self.out_features)


def test_operations_are_counted_as_they_are_decoded():
    """Delete 10 and 11, keep 5, replace 6 by 7, keep 8, insert 4, keep 9 and the end."""
    step = step_of()
    row = edit_row(
        [torch.tensor([2])],
        [torch.tensor([10, 11, 5, 6, 8, 9, EOS])],
        [torch.tensor([5, 7, 8, 4, 9, EOS])],
        row_length=8,
        pad_token_id=MASK,
        eos_token_id=EOS,
        delete_token_id=DELETE,
    )
    assert row["current_labels"].tolist() == [-100, DELETE, DELETE, 5, 7, 8, 9, EOS]
    assert row["next_labels"].tolist() == [5, -100, -100, 7, 8, 4, EOS, -100]
    # The first head deletes 10, replaces 11, keeps 5, replaces 6 wrongly, deletes 8.
    first = torch.tensor([DELETE, 12, 5, 10, DELETE, 9, EOS])
    # The second says 6 before 10, which goes with it; inserts 6 before 6, and 4 before 9, as it
    # should.
    second = torch.tensor([6, 6, 8, 4, EOS])
    step.base.lm_head, step.head.out = Heads(first, 48), Heads(second, 48)
    ones = torch.ones(1)
    output = step(
        ids=row["input_ids"][None],
        current=row["current_labels"][None],
        following=row["next_labels"][None],
        positions=torch.arange(8)[None],
        document=torch.zeros(1, 8, dtype=torch.int64),
        where=torch.ones(1, 8, dtype=torch.bool),
        labels=None,
        rate=ones,
        edited=ones.bool(),
        steps=ones.long(),
        example=torch.zeros(1, 8, dtype=torch.int64),
    )
    found = step.report(output.seen.tolist())
    labels = [found["delete_labels"], found["insert_labels"]]
    assert labels == [2, 1] and (found["deletes"], found["inserts"]) == (2, 2)
    rates = {name: found[f"repair_rate_{name}"] for name in ("keep", "replace", "delete", "insert")}
    assert rates == {"keep": 0.75, "replace": 0.0, "delete": 0.5, "insert": 1.0}
    assert found["edit_accuracy"] == 0.5 and found["false_edit_rate"] == 0.25
    assert (found["false_edit_rate_replace"], found["false_edit_rate_delete"]) == (0.0, 0.25)
    # Of the gaps before 6, 8 and the end, where nothing is missing.
    assert found["false_edit_rate_insert"] == pytest.approx(1 / 3)
    assert found["masked_accuracy"] is None and found["edit_loss"] > 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": "uniform_block(0,1)"}, "a row has one mask rate here, not a block"),
        ({"refinement": {"fills": []}}, "fills must be numbers of at least 1"),
        ({"refinement": {"first_gap": "any"}}, "first_gap must be one of canonical, released"),
        ({"refinement": {"edit_steps": -1}}, "edit_steps must not be negative"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        step_of(**change)


def test_models_and_ids_that_do_not_fit_are_refused():
    def made(name, **ids):
        model = family_model(name, vocab=192)
        options = EditOptions(labels="levenshtein"), RefinementOptions()
        family = FAMILIES[name]
        head = NextTokenHead.of(model)
        RefinementStep(model, head, *options, seed=0, family=family, **IDS | ids)

    with pytest.raises(ValueError, match="and no shift; this one has attention='full' and shift=1"):
        made("dream")
    with pytest.raises(ValueError, match="delete_token_id 192 is outside the vocabulary"):
        made("llada", delete_token_id=192)
    with pytest.raises(ValueError, match="mask_token_id and pad_token_id are both 191"):
        made("llada", pad_token_id=MASK)
