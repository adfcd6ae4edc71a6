"""The step of a correction head on models of every family, against the same written plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from editing import BLOCK, MASK, SEED, SPECIAL, packed, small_model
from family_models import FAMILIES, family_model
from plain_masks import doubled_block_mask

from fastedit.heads import CorrectionHead, CorrectionHeadConfig
from fastedit.models.families import family_of
from fastedit.training.correction.options import CorrectionOptions
from fastedit.training.correction.samples import draw_masks, judge, units
from fastedit.training.correction.step import CorrectionStep
from fastedit.training.noise.draws import Draws

MODELS = ["llada2", *FAMILIES]
SAMPLES = {
    "fca": {"delta_t": 0.3, "max_error_weight": 5.0},
    "extra": {"delta_t": 0.2, "candidates": "extra", "count": 3, "weighting": "balanced"},
    "prism": {"targets": "prism", "count": 2, "weighting": "none"},
}


def made(name: str, **options) -> CorrectionStep:
    family = FAMILIES.get(name)
    model = small_model() if family is None else family_model(name)
    attention = family_of(model).attention if family is None else family.attention
    config = CorrectionHeadConfig.of(model.config, attention, depth=1, rope_theta=10.0)
    torch.manual_seed(4)
    head = CorrectionHead(config)
    torch.nn.init.normal_(head.score.weight)  # scores that differ
    settled = CorrectionOptions(**options).settled(attention, (SPECIAL,))
    return CorrectionStep(model, head, settled, seed=SEED, mask_token_id=MASK, family=family)


def batch_of(epoch: int = 2) -> dict:
    return packed() | {"epoch": epoch}


def plain_forward(step, ids, batch):
    """Logits that predict each position, and what the last block reads there; [B, L, ...]."""
    model, shift = step.model, step.reading.shift
    position, document = batch["positions"], batch["example"]
    if step.reading.full:
        logits = torch.zeros(*ids.shape, model.config.vocab_size)
        states = torch.zeros(*ids.shape, model.config.hidden_size)
        for number in document[document >= 0].unique():
            where = document == number
            one = ids[where][None]
            mask = torch.ones(1, 1, one.shape[1], one.shape[1], dtype=torch.bool)
            out = model(one, attention_mask=mask, output_hidden_states=True)
            own = torch.cat([out.logits[:, :1], out.logits[:, :-1]], 1) if shift else out.logits
            logits[where], states[where] = own[0], out.hidden_states[-2][0]
        return logits, states
    mask = doubled_block_mask(ids.shape[1], BLOCK, document_ids=document)
    mask = mask | torch.eye(mask.shape[-1], dtype=torch.bool)  # padding sees itself
    both, places = torch.cat([ids, batch["input_ids"]], 1), torch.cat([position] * 2, 1)
    read = []
    last = model.model.layers[-1]
    hook = last.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    logits = model(both, attention_mask=mask, position_ids=places).logits
    hook.remove()
    noisy, clean = logits.chunk(2, dim=1)
    states = read[0][:, : ids.shape[1]]
    if not shift:
        return noisy, states
    before = torch.cat([noisy[:, :1], noisy[:, :-1]], dim=1)
    opening = torch.cat([clean[:, :1], clean[:, :-1]], dim=1)
    rows = torch.where((position % BLOCK == 0)[..., None], opening, before)
    return torch.where((position == 0)[..., None], noisy, rows), states


def plain_scores(step, states, batch):
    """Error logits [B, L], of each document or block by itself."""
    scores = torch.zeros(states.shape[:2])
    group = units(drawn(batch), "document" if step.reading.full else "block", BLOCK)
    for number in group.unique():
        where = group == number
        scores[where] = step.head(states[where][None])[0]
    return scores


def drawn(batch) -> Draws:
    return Draws(SEED, batch["epoch"], batch["example"], batch["positions"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "sample"),
    [(name, "fca") for name in MODELS]
    + [(name, sample) for name in ("llada2", "dream") for sample in ("extra", "prism")],
)
def test_the_loss_by_hand(name, sample):
    step, batch = made(name, **SAMPLES[sample]), batch_of()
    options, clean, response = step.options, batch["input_ids"], batch["response"]
    masks = draw_masks(drawn(batch), response, options, BLOCK)
    logits, _ = plain_forward(step, clean.masked_fill(masks.more, MASK), batch)
    banned = logits.index_fill(-1, torch.tensor([MASK, SPECIAL]), -torch.inf)
    tokens = banned.argmax(-1)
    sure = logits.softmax(-1).gather(-1, tokens[..., None])[..., 0]
    group = units(drawn(batch), options.unit, BLOCK)
    judged = judge(clean, response, group, masks, tokens, sure, options, MASK)
    _, states = plain_forward(step, judged.ids, batch)
    scores = plain_scores(step, states, batch)[judged.scope]
    errors = judged.errors[judged.scope]
    right, wrong = int((~errors).sum()), int(errors.sum())
    assert right + wrong and judged.written.any()
    weight = {"clamped": min(max(right / max(wrong, 1), 1), 5), "balanced": right / max(wrong, 1)}
    each = F.binary_cross_entropy_with_logits(scores, errors.float(), reduction="none")
    total = each[~errors].sum() + weight.get(options.weighting, 1.0) * each[errors].sum()

    ready = step.prepared(batch)
    counts = step.count(ready)
    assert counts.tolist() == [right, wrong]
    (ready,), divisor = step.settled([ready], counts)
    output = step(**ready)
    torch.testing.assert_close(output.loss, total, rtol=1e-4, atol=1e-4)
    assert int(output.labels) == right + wrong
    both = options.weighting == "balanced"
    expected = right + weight["balanced"] * wrong if both else right + wrong
    assert float(divisor) == pytest.approx(max(expected, 1))
    report = step.report(output.seen.tolist())
    assert report["error_share"] == pytest.approx(wrong / (right + wrong))
    wrong_drafts = float((judged.errors & judged.written).sum() / judged.written.sum())
    assert report["draft_error_rate"] == pytest.approx(wrong_drafts)


@pytest.mark.parametrize("name", ["llada2", "dream"])
def test_rows_alone_and_together_are_the_same(name):
    """And only the head gets a gradient."""
    step = made(name, delta_t=0.3).train()
    batch = batch_of()
    whole = step(**step.prepared(batch))
    rows = [{k: v[[n]] if k != "epoch" else v for k, v in batch.items()} for n in range(2)]
    alone = [step(**step.prepared(row)) for row in rows]
    assert torch.equal(whole.seen, sum(output.seen for output in alone))
    torch.testing.assert_close(whole.loss, sum(output.loss for output in alone))
    whole.loss.backward()
    assert all(parameter.grad is not None for parameter in step.head.parameters())
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert not step.model.training and step.head.training


def test_rows_without_a_response_have_a_gradient_of_zero():
    """DDP waits for one of every process."""
    step, batch = made("llada2"), batch_of()
    output = step(**step.prepared(batch | {"response": torch.zeros_like(batch["response"])}))
    output.loss.backward()
    assert not output.loss and not output.labels
    assert all(not parameter.grad.any() for parameter in step.head.parameters())


def test_a_head_of_another_model_is_refused():
    step = made("llada2")
    with pytest.raises(ValueError, match="made for a model with model_type='llada2_moe'"):
        CorrectionStep(family_model("sdar"), step.head, step.options, seed=0, mask_token_id=MASK)
