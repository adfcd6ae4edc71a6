"""The wheel is complete: installed alone into a fresh environment, it decodes."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

ROOT = Path(__file__).parents[1]
DECODE = """
import sys
import fastedit, fastedit.ops
QUESTION = "State the final answer to the following arithmetic problem: 3 + 4 ="
assert fastedit.__file__.startswith(sys.prefix), fastedit.__file__
assert fastedit.ops.backend_report("cpu")["row_stats"]["cpp"] == "in use"
out = fastedit.Decoder.from_pretrained("tiny").generate(
    [[{"role": "user", "content": QUESTION}]]
)
assert "7" in out.texts[0], out
for module in list(sys.modules.values()):
    if module.__name__.startswith("fastedit"):
        print(module.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What it prints; where modules of this checkout are looked for is not handed down."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("fastedit_dlm-*.whl")
    return built


@pytest.fixture
def install(wheel, tmp_path):
    """Installs the wheel into an environment of its own; returns the folder of its programs."""

    def into_new_environment(*options: str) -> Path:
        run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", "env"]
        run(*pip, "install", "--quiet", wheel, *options, cwd=tmp_path)
        return tmp_path / "env" / "bin"

    return into_new_environment


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastedit/py.typed" in names
    assert "fastedit/assets/tiny/model.safetensors" in names
    assert any(name.startswith("fastedit/ops/libfastedit_cpu.") for name in names)
    roots = {name.split("/")[0].split("-")[0] for name in names}
    assert roots == {"fastedit", "fastedit_kernels", "fastedit_dlm"}
    assert "-py3-none-" in wheel.name  # a C ABI: one wheel per platform


def imported(file: Path) -> set[str]:
    """Packages that a file imports when it is imported itself."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def required(wheel: Path) -> set[str]:
    """Packages that are installed along with the wheel."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = archive.read(name).decode().splitlines()
    asked = (line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line)
    return {re.match(r"Requires-Dist: ([\w-]+)", line)[1] for line in asked}


def test_a_fresh_environment_decodes_with_the_embedded_checkpoint(wheel, install, tmp_path):
    """Beside the packages of this environment, of which it needs only what the wheel names."""
    programs = install("--no-deps", "--no-compile")
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    packages.joinpath("others.pth").write_text(str(Path(torch.__file__).parents[1]))
    files = [Path(line) for line in run(programs / "python", "-c", DECODE, cwd=tmp_path).split()]
    assert len(files) > 30
    needed = set().union(*map(imported, files)) - sys.stdlib_module_names
    own, with_transformers = {"fastedit", "fastedit_kernels"}, {"huggingface_hub"}
    assert needed - own - with_transformers <= required(wheel)
    assert "fastedit" in run(programs / "fastedit", "--version", cwd=tmp_path)


@pytest.mark.slow  # downloads torch
def test_what_the_wheel_asks_for_is_enough(install, tmp_path):
    # The releases of this environment, so that the test asks about the wheel and nothing else.
    versions = [f"torch=={torch.__version__.split('+')[0]}"]
    versions += [f"transformers=={transformers.__version__}"]
    programs = install(*versions)
    run(programs / "python", "-c", DECODE, cwd=tmp_path)
