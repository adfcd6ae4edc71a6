"""Weight-only quantisation by torchao, as benchmarks take it on a CPU."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

GROUP = 32


def quantise(module: nn.Module, weights: str) -> None:
    """Linear layers of `module` in "int8" or "int4", in place; skips the test without torchao."""
    torchao = pytest.importorskip("torchao.quantization")
    if weights == "int8":
        torchao.quantize_(module, torchao.Int8WeightOnlyConfig())
        return
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    four = PrototypeInt4WeightOnlyConfig(group_size=GROUP)
    torchao.quantize_(module, four, filter_fn=_packed)


def stored(weight: Tensor) -> int:
    """Bytes of a weight, scales and zero points included."""
    inner = getattr(weight, "__tensor_flatten__", None)
    names = inner()[0] if inner else []
    return sum(stored(getattr(weight, name)) for name in names) if names else weight.nbytes


def _packed(module: nn.Module, name: str) -> bool:
    """The CPU kernel of int4 takes multiples of 16 rows and of whole groups of columns."""
    linear = isinstance(module, nn.Linear)
    return linear and not module.out_features % 16 and not module.in_features % GROUP
