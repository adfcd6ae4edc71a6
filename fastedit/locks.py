"""The name that docs have shown; its home is `fastedit.files.locks`."""

from fastedit.files.locks import locked

__all__ = ["locked"]
