"""Texts end to end in one row: each is computed as alone, and nothing of a model is left changed.

What reaches the kernel of GPUs is computed by a plain function here; `tests/engine/test_on_gpu.py`
has the kernel itself.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from golden_families import loaded

from fastedit.models import packed
from fastedit.plans.call import ModelCall

LENGTHS = [3, 9, 9, 1, 30]


def texts_of(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 90, (length,), generator=generator) for length in LENGTHS]


def end_to_end(texts: list[torch.Tensor]) -> dict:
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    lengths = [len(text) for text in texts]
    return {
        "input_ids": torch.cat(texts)[None],
        "position_ids": positions[None],
        "text_lengths": lengths,
    }


def by_flash(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale):
    """`torch.nn.attention.varlen.varlen_attn`: [N, H, D] over [N, H, D]."""
    assert cu_seq_q.equal(cu_seq_k) and cu_seq_q.dtype == torch.int32
    lengths = cu_seq_q.diff().tolist()
    assert max_q == max_k == max(lengths) and query.shape == key.shape == value.shape
    rows = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)), strict=True)
    parts = [F.scaled_dot_product_attention(*row, scale=scale) for row in rows]
    return torch.cat(parts, dim=1).transpose(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("by", ["sdpa", "flash"])
@pytest.mark.parametrize("family", ["llada", "llada_moe"])
def test_texts_are_computed_as_alone(family, by, monkeypatch):
    model, texts = loaded(family).model, texts_of()
    if by == "flash":
        monkeypatch.setattr(packed.varlen, "varlen_attn", by_flash)
        monkeypatch.setattr(packed, "_by_sdpa", packed._by_flash)
    together = model(**end_to_end(texts)).logits[0].split(LENGTHS)
    for text, logits in zip(texts, together, strict=True):
        torch.testing.assert_close(logits, model(text[None]).logits[0], rtol=1e-5, atol=5e-5)
    assert model.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_forwards_of_other_threads_are_as_they_were(monkeypatch):
    """One that begins while texts are packed in this thread."""
    model, texts = loaded("llada").model, texts_of()
    want, found = model(texts[4][None]).logits, []
    other = threading.Thread(target=lambda: found.append(model(texts[4][None]).logits))

    def meanwhile(*_):
        if threading.current_thread() is not other:
            other.start()
            other.join()

    hook = model.model.layers[1].register_forward_pre_hook(meanwhile)
    try:
        logits = model(**end_to_end(texts)).logits
    finally:
        hook.remove()
    assert found[0].equal(want) and logits.equal(model(**end_to_end(texts)).logits)


def test_what_is_refused():
    model, given = loaded("llada").model, end_to_end(texts_of())
    mask = torch.ones(1, 1, 52, 52, dtype=torch.bool)
    for change, message in (
        ({"text_lengths": [52, 1]}, r"of one row of 53 tokens .* got input_ids \[1, 52\]"),
        ({"position_ids": None}, "with position_ids"),
        ({"input_ids": given["input_ids"].view(2, 26)}, r"got input_ids \[2, 26\]"),
        ({"attention_mask": mask}, "without an attention_mask"),
        ({"past_key_values": object()}, "without a cache"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**given | change)
    with pytest.raises(ValueError, match=r"a SDAR model .* packs no texts: pad them"):
        loaded("sdar").model(**given)


def test_which_models_pack(monkeypatch):
    model = loaded("llada").model
    assert ModelCall(model).packs() and not ModelCall(loaded("sdar").model).packs()
    assert not ModelCall(SimpleNamespace(_orig_mod=model, packs_texts=model.packs_texts)).packs()
    assert not ModelCall(lambda **inputs: model(**inputs)).packs()
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "eager")
    assert not ModelCall(model).packs()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu, bf16 = torch.device("cuda"), torch.bfloat16
    assert not packed.serves(gpu, bf16, "sdpa")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert packed.serves(gpu, bf16, "sdpa") and not packed.serves(gpu, torch.float32, "sdpa")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not packed.serves(gpu, bf16, "sdpa")


def test_flash_attention_takes_what_it_is_given():
    """Its own checks of shapes and types, in its version without data; fewer heads of keys."""
    texts = SimpleNamespace(
        lengths=LENGTHS, starts=lambda device: torch.empty(6, dtype=torch.int32)
    )
    query, few = (torch.empty(1, heads, 52, 64, dtype=torch.bfloat16) for heads in (4, 2))
    with torch.device("meta"):
        output = packed._by_flash(None, *(x.to("meta") for x in (query, few, few)), texts, 0.1)
    assert output.shape == (52, 4, 64) and output.dtype == torch.bfloat16
