"""torchao's weight-only quantisation of a loaded model, on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastedit import Decoder
from fastedit.models.llada2 import LLaDA2MoeModelLM
from fastedit.models.load import TINY

pytestmark = pytest.mark.engines  # needs torchao
GROUP = 32


def takes_int4(module: nn.Module, name: str) -> bool:
    linear = isinstance(module, nn.Linear)
    return linear and not module.out_features % 16 and not module.in_features % GROUP


def int8(model):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())


def int4(model):
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    quantize_(model, PrototypeInt4WeightOnlyConfig(group_size=GROUP), filter_fn=takes_int4)


@pytest.mark.parametrize(("quantise", "off"), [(int8, 0.05), (int4, 0.5)])
@torch.no_grad()
def test_a_quantised_model_decodes(quantise, off):
    plain = Decoder.from_pretrained("tiny", dtype="bfloat16")
    decoder = Decoder.from_pretrained("tiny", dtype="bfloat16")
    quantise(decoder.model)
    weight = decoder.model.model.layers[1].mlp.shared_experts.up_proj.weight
    assert type(weight).__name__ in ("Int8Tensor", "Int4OpaqueTensor")
    ids = torch.arange(10, 74)[None]
    expected, found = plain.model(ids).logits, decoder.model(ids).logits
    assert 0 < (found - expected).norm() / expected.norm() < off
    out = decoder.generate(ids, max_new_tokens=40, eos_token_id=[])
    assert len(out.sequences[0]) == 40


def test_transformers_quantises_while_it_loads():
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    model = LLaDA2MoeModelLM.from_pretrained(TINY, dtype="bfloat16", quantization_config=config)
    assert type(model.model.layers[1].mlp.shared_experts.up_proj.weight).__name__ == "Int8Tensor"
    assert len(Decoder(model, None).generate(torch.arange(10, 20), max_new_tokens=8).sequences[0])
