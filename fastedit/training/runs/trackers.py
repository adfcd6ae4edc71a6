"""Trackers that transformers reports to: which there are, and whether they are installed."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

_WORDS = ("all", "none")  # of transformers: every one that is installed, and no one


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is none, ImportError where its package is missing."""
    for name in names:
        if name in _WORDS:
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ValueError(f"report_to={name!r} must be one of {known}")
        if name not in get_available_reporting_integrations():
            package = {"azure_ml": "azureml-core", "comet_ml": "comet-ml"}.get(name, name)
            raise ImportError(f"report_to={name} needs its package: pip install {package}")
