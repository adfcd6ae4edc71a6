"""vLLM as it is installed, with our entry point found in this checkout."""

from __future__ import annotations

import importlib.metadata
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm_requests import Asked, decoded, mixed

from fastedit import Decoder

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@pytest.fixture(scope="session", autouse=True)
def vllm_here(tmp_path_factory) -> Iterator[None]:
    if "vllm" not in importlib.metadata.packages_distributions():
        pytest.skip("vLLM is not installed: make test-engines")
    from fastedit.integrations.vllm.cpu import enable

    folder = tmp_path_factory.mktemp("site")
    info = folder / "fastedit_dlm-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fastedit-dlm\nVersion: 0\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    points = groups["vllm.general_plugins"].items()
    lines = ["[vllm.general_plugins]", *(f"{name} = {value}" for name, value in points)]
    (info / "entry_points.txt").write_text("\n".join(lines))
    paths = (str(folder), str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", ""))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))  # of other processes
        enable()
        yield


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    return Decoder.from_pretrained("tiny")


@pytest.fixture(scope="session")
def hundred(decoder) -> list[Asked]:
    return decoded(decoder, mixed(decoder.tokenizer, 100, seed=0))
