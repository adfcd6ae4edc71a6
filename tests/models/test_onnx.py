"""The forward as an ONNX program, in onnxruntime: any batch, any length, the same logits."""

from __future__ import annotations

import pytest
import torch
from small import random_ids, tiny

pytestmark = pytest.mark.engines
ANY = torch.export.Dim.DYNAMIC


@pytest.mark.parametrize(
    ("given", "overrides"),
    [("ids", {"num_experts": 64}), ("padding", {}), ("mask", {"expert_capacity": 3})],
)
def test_logits_in_onnxruntime(tmp_path, given, overrides):
    import onnxruntime

    def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
        found = {"input_ids": random_ids(batch, length)}
        if given == "padding":
            found["attention_mask"] = torch.ones(batch, length, dtype=torch.long)
            found["attention_mask"][0, -1] = 0
        elif given == "mask":
            found["attention_mask"] = torch.rand(batch, 1, length, length) > 0.3
            found["position_ids"] = torch.arange(length).expand(batch, -1)
        return found

    model, example = tiny(**overrides), inputs(2, 12)
    shapes = {
        name: {0: ANY, 1: ANY} if tensor.ndim == 2 else {0: ANY, 2: ANY, 3: ANY}
        for name, tensor in example.items()
    }
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (), file, kwargs=example, dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch, length in ((2, 12), (1, 5), (3, 70)):
        case = inputs(batch, length)
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in case.items()})
        with torch.no_grad():
            expected = model(**case).logits
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
