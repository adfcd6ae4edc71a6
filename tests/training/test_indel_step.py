"""Labels of edits, by hand: a scripted model drafts, and is told what to delete and insert."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from editing import CONTROL, MASK, SEED, edit_step, packed, small_model
from torch import nn

from fastedit.models.families import Family
from fastedit.training.indel import InDelStep
from fastedit.training.loss.operations import report_operations
from fastedit.training.noise.edits import Runs, lcs_labels
from fastedit.training.options import EditOptions

A, B, C, D, X = range(2, 7)
DELETE, INSERT = CONTROL
VOCAB = 24


class Scripted(nn.Module):
    """Predicts what `script` has for (position, id held), or the id itself, with logits of 20.

    Tokens in `unsure` have logits of 3, which is a probability below one half.
    """

    masks_are_bool = True

    def __init__(self, script, unsure=()):
        super().__init__()
        self.model, self.lm_head = self.Trunk(script, unsure), nn.Linear(VOCAB, VOCAB, bias=False)
        self.lm_head.weight.data = torch.eye(VOCAB)

    class Trunk(nn.Module):
        masks_are_bool = True

        def __init__(self, script, unsure):
            super().__init__()
            self.script, self.unsure = script, unsure

        def forward(self, input_ids, attention_mask, position_ids, use_cache, past_key_values):
            states = torch.zeros(*input_ids.shape, VOCAB)
            for row, column in torch.cartesian_prod(*map(torch.arange, input_ids.shape)).tolist():
                held = int(input_ids[row, column])
                token = self.script.get((int(position_ids[row, column]), held), held)
                states[row, column, token] = 3.0 if token in self.unsure else 20.0
            return SimpleNamespace(last_hidden_state=states)


def rounds(monkeypatch, script, clean, unsure=(), **options):
    """What the labels of each round are, and what was counted."""
    import fastedit.training.step as module

    seen, plain = [], module.weighted_cross_entropy

    def keep(hidden, head, labels, weights):
        seen.append(labels.tolist())
        return plain(hidden, head, labels, weights)

    monkeypatch.setattr(module, "weighted_cross_entropy", keep)
    step = InDelStep(
        Scripted(script, unsure),
        EditOptions(labels="lcs", noise="fixed(1)", p_random=0.0, **options),
        seed=SEED,
        mask_token_id=MASK,
        control=CONTROL,
        family=Family(attention="block_causal", block_length=len(clean)),
    )
    row = torch.tensor([clean])
    output = step(row, row >= 0, torch.arange(len(clean))[None], torch.zeros_like(row))
    assert int(output.labels) == len(clean) * step.options.rounds
    return seen, report_operations(output.operations.flatten().tolist())


def test_a_draft_is_taught_to_delete_and_insert(monkeypatch):
    """A B B C D is drafted at once, and edited by the model to A B X M D: it takes one B out and
    puts a mask before D, as it is to, and breaks C."""
    script = {(place, MASK): token for place, token in enumerate([A, B, B, C, D])}
    script |= {(2, B): DELETE, (3, C): X, (4, D): INSERT}
    labels, counts = rounds(monkeypatch, script, [A, B, C, X, D], draft_share=1.0)
    assert labels == [[A, B, C, X, D], [A, B, DELETE, C, INSERT], [A, B, INSERT, DELETE, D]]
    assert counts["delete_labels"] == counts["insert_labels"] == 2
    assert (counts["deletes"], counts["inserts"]) == (1, 2)
    assert counts["repair_rate_delete"] == counts["repair_rate_insert_tau"] == 1 / 2
    assert counts["repair_rate_keep"] == 4 / 6 and counts["repair_rate_replace"] is None
    false = [counts[f"false_edit_rate_{name}_tau"] for name in ("replace", "delete", "insert")]
    assert false == [1 / 6, 0.0, 1 / 6]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [A, B, C]),  # of the draft M X M
        ({"wildcard_rounds": 0}, [DELETE, DELETE, DELETE]),
        ({"turn_steps": 2}, [A, B, C]),  # of A X M
        ({"turn_steps": 2, "wildcard_rounds": 0}, [A, DELETE, DELETE]),
    ],
)
def test_a_draft_is_decoded_step_by_step(monkeypatch, options, expected):
    """The model commits what it is sure of, X, and then one mask per step."""
    script = {(0, MASK): A, (1, MASK): X, (2, MASK): C}
    options |= {"turns": 2, "draft_share": 0.0}
    labels, _ = rounds(monkeypatch, script, [A, B, C], unsure=(A, C), **options)
    assert labels == [[A, B, C], expected]


def test_labels_are_made_once_the_device_has_its_pass(monkeypatch):
    import fastedit.training.indel as module

    events, plain, forward = [], module.lcs_labels, Scripted.Trunk.forward

    def make(*args, **options):
        events.append("labels")
        return plain(*args, **options)

    def run(self, *args, **options):
        events.append("pass")
        return forward(self, *args, **options)

    monkeypatch.setattr(module, "lcs_labels", make)
    monkeypatch.setattr(Scripted.Trunk, "forward", run)
    script = {(place, MASK): A for place in range(3)}
    rounds(monkeypatch, script, [A, B, C], turns=3)
    # The clean half, the first round, and twice a decoding step and a round.
    assert events == ["pass", "pass", *["pass", "pass", "labels"] * 2]


def test_labels_stay_inside_runs_of_the_response():
    response = torch.tensor([[1, 1, 0, 1, 1, 1], [0, 0, 1, 1, 0, 1]]).bool()
    clean = torch.tensor([[A, B, D, A, B, C], [D, D, A, B, D, X]])
    ids = torch.tensor([[B, A, D, A, B, B], [D, D, MASK, A, D, MASK]])
    runs = Runs.of(response, 6)
    assert runs.length.tolist() == [2, 3, 2, 1] and runs.place[:, 0].tolist() == [0, 3, 8, 11]
    labels = lcs_labels(ids, clean, runs, CONTROL, mask_token_id=MASK, wildcard=True)
    assert labels.tolist() == [[DELETE, A, D, A, B, DELETE], [D, D, DELETE, A, D, X]]
    blocks = Runs.of(response, 2)
    assert blocks.length.tolist() == [2, 1, 2, 2, 1]


def test_edits_do_not_depend_on_batch_or_packing():
    batch = packed(vocab=DELETE)
    step = edit_step(small_model(), labels="lcs", turn_threshold=0.07, turns=4)
    whole = step(**batch)
    parts = []
    for document in (5, 6, 70):
        row, columns = (batch["example"] == document).nonzero().unbind(1)
        parts.append(step(**{name: tensor[row, columns][None] for name, tensor in batch.items()}))
    torch.testing.assert_close(sum(p.loss for p in parts), whole.loss, rtol=1e-5, atol=0.0)
    assert torch.equal(sum(p.operations for p in parts), whole.operations)
    assert int(whole.operations[0, 2:].sum()) > 0  # deletes and inserts
    assert whole.seen.shape == (step.seen_size,)


def test_a_batch_without_a_response_has_no_edits():
    batch = packed()
    batch["response"][:] = False
    output = edit_step(small_model(), labels="lcs")(**batch)
    assert output.loss.item() == int(output.labels) == int(output.operations.sum()) == 0


def test_control_tokens_are_never_drafted_or_wrong():
    model, batch = small_model(), packed(vocab=DELETE)
    with torch.no_grad():  # the likeliest of all
        model.lm_head.weight[list(CONTROL)] = 10 * model.lm_head.weight[2:].mean(0)
    step = edit_step(model, labels="lcs", draft_share=1.0, p_random=0.5, noise="fixed(0.5)")
    assert not torch.isin(step.candidates, torch.tensor(CONTROL)).any()
    passes = step._passes(batched := step._batch(**batch, epoch=0))
    for noisy, *_ in step._rounds(batched, 0, passes):
        assert not torch.isin(noisy.ids, torch.tensor(CONTROL)).any()
