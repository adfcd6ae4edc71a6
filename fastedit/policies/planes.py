"""Tensors by name."""

from __future__ import annotations

from torch import Tensor


class Planes(dict[str, Tensor]):
    """Tensors by name, also as attributes."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there are {', '.join(self)}") from None

    def rows(self, rows: slice) -> Planes:
        return Planes({name: tensor[rows] for name, tensor in self.items()})
