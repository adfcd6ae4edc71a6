"""What a model is to the engine (`families`), native code by architecture, adapters, loading."""

from fastedit.models.families import Family

__all__ = ["Family"]
