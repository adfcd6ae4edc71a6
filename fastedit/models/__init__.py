"""What a model is to the engine (`families`), native code by architecture, adapters, loading."""

from fastedit.models.families import Checkpoints, Family

__all__ = ["Checkpoints", "Family"]
