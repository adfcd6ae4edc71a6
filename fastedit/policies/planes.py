"""Tensors by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


class Planes(dict[str, Tensor]):
    """Tensors by name, also as attributes; the names stay those that it was made with."""

    def __init__(self, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        super().__init__(tensors)
        vars(self).update(self)  # attributes of its own: a rule looks them up in every forward

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(f"no {name!r} here; there are {', '.join(self)}")

    def replace(self, name: str, tensor: Tensor) -> None:
        """Another tensor of that name."""
        self[name] = tensor
        setattr(self, name, tensor)

    def rows(self, rows: slice) -> Planes:
        return Planes({name: tensor[rows] for name, tensor in self.items()})
