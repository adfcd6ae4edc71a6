"""The wheel is complete: installed alone into a fresh environment, it decodes."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

ROOT = Path(__file__).parents[1]
DECODE = """
import fastedit, fastedit.ops
QUESTION = "State the final answer to the following arithmetic problem: 3 + 4 ="
assert "site-packages" in fastedit.__file__, fastedit.__file__
assert fastedit.ops.backend_report("cpu")["row_stats"]["cpp"] == "in use"
out = fastedit.Decoder.from_pretrained("tiny").generate(
    [[{"role": "user", "content": QUESTION}]]
)
assert out.texts[0].strip(), out
print(out.texts[0])
"""


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT), cwd=folder)
    (built,) = folder.glob("fastedit_dlm-*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastedit/py.typed" in names
    assert "fastedit/assets/tiny/model.safetensors" in names
    assert any(name.startswith("fastedit/ops/libfastedit_cpu.") for name in names)
    roots = {name.split("/")[0].split("-")[0] for name in names}
    assert roots == {"fastedit", "fastedit_kernels", "fastedit_dlm"}
    assert "-py3-none-" in wheel.name  # a C ABI: one wheel per platform


def test_a_fresh_environment_decodes_with_the_embedded_checkpoint(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python = str(tmp_path / "env" / "bin" / "python")
    # The releases of this environment, so that the test asks about the wheel and nothing else.
    versions = [f"torch=={torch.__version__.split('+')[0]}"]
    versions += [f"transformers=={transformers.__version__}"]
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(python, *install, str(wheel), *versions, cwd=tmp_path)
    assert "7" in run(python, "-c", DECODE, cwd=tmp_path)
    assert "fastedit" in run(str(tmp_path / "env" / "bin" / "fastedit"), "--version", cwd=tmp_path)
