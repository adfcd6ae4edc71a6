"""The name that docs have shown; its home is `fastedit.training.runs.run`."""

from fastedit.training.runs.run import run

__all__ = ["run"]
