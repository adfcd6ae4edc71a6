"""Key lengths in place of a mask: what reaches the kernels, which run on GPUs only, and what for.

Here a plain function does what torch and flash-attn say of theirs; `tests/engine/test_on_gpu.py`
has the kernels themselves.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fastedit import DecodeConfig, Decoder
from fastedit.models.llada2 import varlen
from fastedit.models.llada2.attention import convert_mask

PROMPTS = [torch.arange(7, 7 + length) for length in (3, 9, 16, 30)]
OPTIONS = DecodeConfig(
    mask_token_id=127, eos_token_id=[], block_length=8, max_new_tokens=20, max_post_steps=4, seed=4
)


def by_torch(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, seqused_k=None):
    """`torch.nn.attention.varlen.varlen_attn`: [T_q, H, D] over [T_k, H, D].

    As its kernels do, it writes nothing for a sequence without queries, whatever its keys are.
    """
    assert len(cu_seq_q) == len(cu_seq_k) and {cu_seq_q.dtype, cu_seq_k.dtype} == {torch.int32}
    assert cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query)
    stops = cu_seq_k[1:] if seqused_k is None else cu_seq_k[:-1] + seqused_k
    output = torch.full_like(query, torch.nan)
    for sequence, end in enumerate(stops.tolist()):
        first, last = cu_seq_q[sequence : sequence + 2].tolist()
        begin = int(cu_seq_k[sequence])
        if first == last:
            continue
        assert last - first <= max_q and 0 < end - begin <= max_k and end <= len(key)
        rows = query[first:last], key[begin:end], value[begin:end]
        found = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in rows), scale=scale)
        output[first:last] = found.transpose(0, 1)
    return output


def by_flash_attn(query, key, value, *, cache_seqlens, softmax_scale):
    """`flash_attn.flash_attn_with_kvcache`: [B, Q, H, D] over [B, K, H, D]."""
    rows = []
    for row, used in enumerate(cache_seqlens.tolist()):
        mine, *seen = (x[row].transpose(0, 1) for x in (query, key[:, :used], value[:, :used]))
        rows.append(F.scaled_dot_product_attention(mine, *seen, scale=softmax_scale))
    return torch.stack(rows).transpose(1, 2)


@pytest.fixture(params=["torch", "torch 2.11", "flash_attn"])
def kernel(request, monkeypatch):
    """The sizes of the batches that a kernel has served."""
    monkeypatch.setattr(varlen, "DEVICES", ("cpu",))
    monkeypatch.setattr(varlen, "DTYPES", (torch.float32,))
    by = request.param.split()[0]
    served, plain = [], globals()[f"by_{by}"]

    def counted(*args, **options):
        assert ("seqused_k" in options) == (request.param == "torch")
        lengths = args[3].diff() if by == "torch" else options["cache_seqlens"]
        served.append(int((lengths > 0).sum()))
        return plain(*args, **options)

    module = SimpleNamespace(flash_attn_with_kvcache=counted)
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(varlen.varlen, "varlen_attn", counted)
    monkeypatch.setattr(varlen, "_kernel", lambda: getattr(varlen, f"_{by}"))
    monkeypatch.setattr(varlen, "_takes_lengths", lambda: request.param == "torch")
    return served


def decoded(model, **options):
    out = Decoder(model, config=OPTIONS).generate(PROMPTS, **options)
    return [ids.tolist() for ids in out.sequences], out.stats


def test_decoding_by_lengths_is_decoding_by_mask(golden_model, kernel, monkeypatch):
    got = decoded(golden_model)
    calls = len(kernel)
    assert calls > 50 and max(kernel) == len(PROMPTS)
    monkeypatch.setattr(varlen, "serves", lambda *_: False)
    assert decoded(golden_model) == got and len(kernel) == calls


def test_forwards_whose_queries_see_different_keys_have_a_mask(golden_model, kernel):
    """The two blocks of a lookahead; those of a prefill are rows of their own."""
    out = Decoder(golden_model, config=OPTIONS).generate(PROMPTS[3], max_new_tokens=2)
    layers = golden_model.config.num_hidden_layers
    assert kernel == [3] * layers + [1] * layers * out.stats[0].forwards
    kernel.clear()
    Decoder(golden_model, config=OPTIONS).generate(PROMPTS[0], use_cache=False)
    assert not kernel


def test_bounds_between_sequences(monkeypatch):
    keys, starts = torch.tensor([[8, 80, 33, 5], [128, 7, 250, 250]], dtype=torch.int32)
    monkeypatch.setattr(varlen, "_takes_lengths", lambda: True)
    one = varlen.lengths(keys, starts, 80, 32)
    assert one.query_bounds.tolist() == [0, 32, 64, 96, 128]
    assert one.key_bounds[:-1].equal(starts) and len(one.key_bounds) == 5
    monkeypatch.setattr(varlen, "_takes_lengths", lambda: False)
    two = varlen.lengths(keys, starts, 80, 32)
    assert two.query_bounds.tolist() == [0, 32, 32, 64, 64, 96, 96, 128, 128]
    assert two.key_bounds.tolist() == [128, 136, 7, 87, 250, 283, 250, 255, 255]
    for seen in (one, two):
        bounds = seen.query_bounds, seen.key_bounds
        assert all(x.dtype == torch.int32 and x.is_contiguous() for x in bounds)


@pytest.mark.parametrize("told", [True, False])
def test_torch_knows_the_arguments(told, monkeypatch):
    """Of its function for tensors without data, which looks at shapes and numbers of heads."""
    if told and not varlen._takes_lengths():
        pytest.skip("this torch's varlen_attn has no seqused_k")
    monkeypatch.setattr(varlen, "_takes_lengths", lambda: told)
    key, value = torch.empty(2, 1, 4, 300, 64, dtype=torch.bfloat16, device="meta")
    query = torch.empty(3, 4, 32, 64, dtype=torch.bfloat16, device="meta")
    keys, starts = torch.empty(2, 3, dtype=torch.int32, device="meta")
    output = varlen.attention(query, key, value, varlen.lengths(keys, starts, 100, 32), 0.125)
    assert output.shape == (3, 32, 4, 64) and output.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
def test_where_no_kernel_serves(dtype, capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert not varlen.serves(torch.zeros(1, dtype=dtype), "sdpa")  # a CPU
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    fits = dtype == torch.bfloat16 and capability >= (8, 0)
    assert varlen.serves(on_gpu, "sdpa") == (fits and bool(varlen._kernel()))
    assert not varlen.serves(on_gpu, "eager")


def test_on_rocm_only_flash_attn_takes_key_lengths(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(varlen.importlib.util, "find_spec", lambda name: None)
    assert varlen._kernel.__wrapped__() is None


def test_a_mask_that_all_queries_share_stays_one_row():
    """No tensor of queries times keys is made of it, and attention is the same bit for bit."""
    shared = (torch.arange(40) < torch.tensor([[8], [40], [24]]))[:, None, None]
    shared = shared.expand(3, 1, 8, 40)
    query, key, value = torch.randn(3, 3, 2, 40, 16, generator=torch.Generator().manual_seed(0))
    results = []
    for mask in (shared, shared.contiguous()):
        converted = convert_mask(mask, "sdpa", 2, query)
        assert converted.shape == (3, 1, 16, 40)
        results.append(F.scaled_dot_product_attention(query[:, :, :16], key, value, converted))
        assert converted.untyped_storage().nbytes() == 4 * 3 * 40 * (1 if mask is shared else 16)
    assert results[0].equal(results[1])
