"""Decoding on a device: golden cases, graphs, key lengths, and no call that waits inside a step."""

import gc
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from cases import DRAWN, ENDS, GOLDEN, PROMPTS, results

from fastedit import Decoder
from fastedit.engine import graphs as graph
from fastedit.engine.step import Steps
from fastedit.models import packed
from fastedit.models.llada2 import varlen

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("error:this model's forward cannot be captured"),
]


@pytest.fixture(scope="module")
def model(golden):
    return on_gpu(golden, "float32")


def on_gpu(golden, dtype, device="cuda"):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    return LLaDA2MoeModelLM.from_pretrained(golden, dtype=dtype).eval().to(device)


def test_golden_cases(model, golden_cases):
    """In fp32, up to the rounding of products: the tiny model leaves room for it."""
    for case in golden_cases:
        out = Decoder(model).generate(torch.tensor(case["prompt"]), **case["params"])
        assert out.sequences[0].tolist() == case["output"]


@pytest.fixture
def made(monkeypatch):
    """All graphs that are captured."""
    made = []

    class Counted(graph.CudaGraph):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setitem(graph.CAPTURE, "cuda", Counted)
    return made


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize("rule", [*ENDS, DRAWN])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_from_graphs_are_the_same_steps(golden, made, monkeypatch, dtype, rule):
    """bf16 has its experts in grouped products, where these do not wait, and keys by length."""
    decoder = Decoder(on_gpu(golden, dtype))
    options = GOLDEN | rule | {"max_new_tokens": 60}
    got = results(decoder.generate(PROMPTS, **options))
    assert made
    monkeypatch.setattr(graph, "WARM_UP", 10**9)  # the same shapes, none captured
    captured = len(made)
    assert results(decoder.generate(PROMPTS, **options)) == got and len(made) == captured


def test_a_model_that_waits_goes_on_without_graphs_and_leaves_torch_as_it_was(model):
    want = results(Decoder(model).generate(PROMPTS, cuda_graphs=False, **GOLDEN))
    held = []
    for _ in range(3):
        with pytest.warns(UserWarning, match="cannot be captured"):
            got = Decoder(Waiting(model)).generate(PROMPTS, **GOLDEN)
        assert results(got) == want
        gc.collect()
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_reserved())
    assert held[1] == held[2]
    torch.rand(1, device="cuda")


class Waiting:
    def __init__(self, model):
        self.model, self.config, self.parameters = model, model.config, model.parameters

    def __call__(self, **inputs):
        assert inputs["input_ids"].max().item() < 128
        return self.model(**inputs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one(golden, model, made):
    there = on_gpu(golden, "float32", "cuda:1")
    got = results(Decoder(there).generate(PROMPTS[0], **GOLDEN))
    assert got == results(Decoder(model).generate(PROMPTS[0], **GOLDEN))
    assert len(made) == 2 and torch.cuda.current_device() == 0


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_no_call_of_a_step_waits(model, monkeypatch, cuda_graphs):
    """But capturing one does."""
    run = Steps.ahead

    def guarded(self, number, live):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return run(self, number, live)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def capture(step, pool):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return graph.CudaGraph(step, pool)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    from fastedit_kernels import arrivals

    monkeypatch.setattr(arrivals, "_ids", {})  # also what is copied to the device once
    monkeypatch.setattr(Steps, "ahead", guarded)
    monkeypatch.setitem(graph.CAPTURE, "cuda", capture)
    out = Decoder(model).generate(PROMPTS, **GOLDEN | {"cuda_graphs": cuda_graphs})
    assert all(stats.forwards for stats in out.stats)


def test_key_lengths_stand_in_for_the_mask():
    """Rows that begin anywhere in a pool, in any order; bf16, so against the same in fp32."""
    if varlen._kernel() is None:
        pytest.skip("ROCm without flash-attn")
    generator = torch.Generator("cuda").manual_seed(0)
    pool = torch.randn(2, 300, 2, 64, generator=generator, device="cuda", dtype=torch.bfloat16)
    key, value = pool[:, None].transpose(2, 3)
    query = torch.randn(4, 2, 32, 64, generator=generator, device="cuda", dtype=torch.bfloat16)
    keys = torch.tensor([8, 80, 33, 5], dtype=torch.int32, device="cuda")
    starts = torch.tensor([128, 7, 250, 250], dtype=torch.int32, device="cuda")
    got = varlen.attention(query, key, value, varlen.lengths(keys, starts, 80, 32), 0.125)
    for row in range(4):
        seen = slice(int(starts[row]), int(starts[row] + keys[row]))
        want = F.scaled_dot_product_attention(
            query[row].float(), key[0, :, seen].float(), value[0, :, seen].float(), scale=0.125
        )
        assert (got[row].float() - want.transpose(0, 1)).abs().max() < 0.02


def test_texts_end_to_end_are_attended_to_apart():
    """Of any lengths, with fewer heads of keys than of queries; bf16, so against fp32."""
    if not packed.serves(torch.device("cuda"), torch.bfloat16, "sdpa"):
        pytest.skip("no flash attention here")
    lengths, generator = [8, 80, 33, 1], torch.Generator("cuda").manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 122, 64, generator=generator, device="cuda", dtype=torch.bfloat16)
        for heads in (4, 2, 2)
    )
    layer = SimpleNamespace(num_key_value_groups=2)
    with packed.packing(lengths):
        got, _ = packed._attention(layer, query, key, value, None, scaling=0.125)
    texts = (x[0].float().split(lengths, dim=1) for x in (query, key, value))
    for text, output in zip(zip(*texts, strict=True), got[0].split(lengths), strict=True):
        want = F.scaled_dot_product_attention(*text, scale=0.125, enable_gqa=True)
        assert (output.float() - want.transpose(0, 1)).abs().max() < 0.02
