"""Classes for checkpoints as they stand on the Hub, of transformers' and a row of the table."""

from .modeling import model_class
from .strict import StrictLoading

__all__ = ["StrictLoading", "model_class"]
