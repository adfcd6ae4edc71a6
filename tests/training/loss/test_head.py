"""Losses without the logits of all rows, against full logits: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastedit.training.loss import head as head_module
from fastedit.training.loss.head import entropy_of_right, predictions, weighted_cross_entropy

ROWS, WIDTH, VOCAB = 50, 12, 37


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(head_module, "LOGITS", 8 * VOCAB)  # eight rows at a time, and a rest of two


class Wrapped(nn.Linear):
    """A head that is no plain linear layer, as an adapter makes it."""

    def forward(self, hidden):
        return super().forward(hidden) * 1.5


def hooked(*shape: int, bias: bool) -> nn.Linear:
    """A plain head with a hook around its call, as of offloading or pruning."""
    head = nn.Linear(*shape, bias=bias)
    head.register_forward_hook(lambda module, inputs, output: output * 1.5)
    return head


def replaced(*shape: int, bias: bool) -> nn.Linear:
    """A plain head with another forward, as accelerate leaves it."""
    head = nn.Linear(*shape, bias=bias)
    forward = head.forward
    head.forward = lambda hidden: forward(hidden) * 1.5
    return head


def setup(kind: Callable[..., nn.Linear], dtype=torch.float64, bias=False):
    generator = torch.Generator().manual_seed(0)
    head = kind(WIDTH, VOCAB, bias=bias).to(dtype)
    nn.init.normal_(head.weight, std=0.5, generator=generator)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    return hidden, head, labels, torch.rand(ROWS, generator=generator) + 0.1


def value_and_gradients(loss, hidden, head):
    loss.backward()
    found = [loss.detach(), hidden.grad, head.weight.grad]
    found += [] if head.bias is None else [head.bias.grad]
    copies = [tensor.clone() for tensor in found]
    hidden.grad = None
    head.zero_grad()
    return copies


@pytest.mark.parametrize("kind", [nn.Linear, Wrapped, hooked, replaced])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_weighted_cross_entropy(kind, even, bias):
    hidden, head, labels, weights = setup(kind, bias=bias)
    weights = torch.full_like(weights, 0.7) if even else weights
    plain = (F.cross_entropy(head(hidden), labels, reduction="none") * weights).sum()
    expected = value_and_gradients(plain, hidden, head)
    found = weighted_cross_entropy(hidden, head, labels, weights)
    for ours, theirs in zip(value_and_gradients(found, hidden, head), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, check_dtype=False)


@pytest.mark.parametrize("kind", [nn.Linear, Wrapped])
def test_no_labels_give_a_gradient_of_zeros_everywhere(kind):
    hidden, head, labels, weights = setup(kind)
    loss, *grads = value_and_gradients(
        weighted_cross_entropy(hidden[:0], head, labels[:0], weights[:0]), hidden, head
    )
    assert loss == 0 and all(not grad.any() for grad in grads)


def test_autocast_computes_the_loss_in_its_dtype():
    hidden, head, labels, weights = setup(nn.Linear, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(hidden)
        assert logits.dtype == torch.bfloat16
        plain = F.cross_entropy(logits.float(), labels, reduction="sum")
        found = weighted_cross_entropy(hidden, head, labels, torch.ones_like(weights))
    torch.testing.assert_close(found, plain, rtol=1e-2, atol=0.0)
    found.backward()
    assert head.weight.grad.dtype == torch.float32 and head.weight.grad.any()


def test_entropy_of_right_rows():
    hidden, head, labels, _ = setup(nn.Linear)
    with torch.no_grad():
        labels[::2] = head(hidden).argmax(-1)[::2]
    probs = head(hidden).softmax(-1)
    right = probs.argmax(-1) == labels
    assert 0 < right.sum() < ROWS
    plain = torch.stack([-(p * p.log()).sum() for p in probs[right]]).mean()
    expected = value_and_gradients(plain, hidden, head)
    found = value_and_gradients(entropy_of_right(hidden, head, labels), hidden, head)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    wrong = (head(hidden).argmax(-1) + 1) % VOCAB
    assert entropy_of_right(hidden, head, wrong).item() == 0.0


def test_predictions_leave_out_the_mask():
    hidden, head, labels, _ = setup(nn.Linear, torch.float32)
    probs = head(hidden).detach().softmax(-1)
    mask = int(probs.sum(0).argmax())
    token, prob = predictions(hidden, head, labels, mask)
    best = probs.index_fill(1, torch.tensor([mask]), 0.0)
    assert torch.equal(token, best.argmax(-1)) and (probs.argmax(-1) == mask).any()
    torch.testing.assert_close(prob, best.amax(-1), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("kind", [nn.Linear, Wrapped])
def test_never_more_logits_than_a_chunk(kind, monkeypatch):
    """What autograd keeps, and what the head returns, stays within a chunk of logits."""
    hidden, head, labels, weights = setup(kind)
    head.register_forward_hook(lambda _, inputs, output: sizes.append(output.numel()))
    sizes: list[int] = []
    keep = lambda tensor: (sizes.append(tensor.numel()), tensor)[1]  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = weighted_cross_entropy(hidden, head, labels, weights)
        entropy_of_right(hidden, head, labels).backward()
        loss.backward()
        predictions(hidden.float(), head.float(), labels, 0)
    assert sizes and max(sizes) <= max(8 * VOCAB, head.weight.numel(), hidden.numel())
