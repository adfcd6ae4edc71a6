"""Wrappers of these tests hand on the cache under the name that transformers had before 5.24."""

from pathlib import Path

import pytest

OLD_NAME = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(OLD_NAME)
