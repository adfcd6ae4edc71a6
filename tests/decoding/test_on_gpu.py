"""Decoding on a device: golden cases, graphs, key lengths, and no call that waits inside a step."""

import pytest
import torch
from cases import DRAWN, ENDS, GOLDEN, PROMPTS, results

from fastedit import Decoder
from fastedit.decoding import engine, graph
from fastedit.models.llada2 import varlen

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request, golden):
    """In bf16 as it is loaded; in fp32, where torch's grouped_mm counts on the host, without it."""
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    if request.param == "bfloat16" and torch.cuda.get_device_capability()[0] not in (9, 10):
        pytest.skip("torch's grouped_mm counts on the host here")
    model = LLaDA2MoeModelLM.from_pretrained(golden, dtype=request.param).eval().to("cuda")
    if request.param == "float32":
        model.set_experts_implementation("batched_mm")
    return model


def test_golden_cases(model, golden_cases):
    """Up to the rounding of products, for which the tiny model leaves room in fp32."""
    if model.dtype != torch.float32:
        pytest.skip("the golden cases are in fp32")
    for case in golden_cases:
        out = Decoder(model).generate(torch.tensor(case["prompt"]), **case["params"])
        assert out.sequences[0].tolist() == case["output"]


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize("rule", [*ENDS, DRAWN])
def test_graphs_and_eager_steps_agree(model, rule, monkeypatch):
    """Captured graphs, none refused; one request, so that products have one shape."""
    if model.dtype != torch.float32 and varlen._kernel() is None:
        pytest.skip("masks of different lengths round differently")
    made = []

    class Counted(graph.CudaGraph):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setitem(graph.CAPTURE, "cuda", Counted)
    for prompt in PROMPTS:
        options = GOLDEN | rule | {"max_new_tokens": 60}
        got = results(Decoder(model).generate(prompt, **options))
        assert got == results(Decoder(model).generate(prompt, cuda_graphs=False, **options))
    assert made


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_no_call_of_a_step_waits(model, monkeypatch, cuda_graphs):
    run = engine.Engine._step_late

    def guarded(self, number, finished):
        captures = cuda_graphs and any(
            seen == graph.WARM_UP for seen in self.graphs.seen.values()
        )  # capturing waits
        torch.cuda.set_sync_debug_mode("default" if captures else "error")
        try:
            run(self, number, finished)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(engine.Engine, "_step_late", guarded)
    out = Decoder(model).generate(PROMPTS, **GOLDEN | {"cuda_graphs": cuda_graphs})
    assert all(stats.forwards for stats in out.stats)


def test_key_lengths_stand_in_for_the_mask():
    """Rows of slots that are longer than what is seen; bf16, so against the same in fp32."""
    if varlen._kernel() is None:
        pytest.skip("ROCm without flash-attn")
    generator = torch.Generator("cuda").manual_seed(0)
    slots = torch.randn(2, 3, 96, 2, 64, generator=generator, device="cuda", dtype=torch.bfloat16)
    key, value = slots[:, :, :80].transpose(2, 3)
    query = torch.randn(3, 2, 32, 64, generator=generator, device="cuda", dtype=torch.bfloat16)
    keys = torch.tensor([8, 80, 33], dtype=torch.int32, device="cuda")
    got = varlen.attention(query, key, value, varlen.lengths(keys, 32, 96), 0.125)
    mask = torch.arange(80, device="cuda") < keys[:, None, None, None]
    want = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), mask, scale=0.125
    )
    assert (got.float() - want.transpose(1, 2)).abs().max() < 0.02
