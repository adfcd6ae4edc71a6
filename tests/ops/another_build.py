"""Run the C++ back end's tests on another build of its library.

`python another_build.py LIBRARY [INSTRUCTION_SET]`: the set that has to serve all of them but those
that choose one.
"""

import sys
from pathlib import Path

import pytest

from fastedit.ops import cpp

cpp.LIBRARY = Path(sys.argv[1]).resolve()
if cpp.why_not():
    sys.exit(f"{cpp.LIBRARY}: {cpp.why_not()}")


def demand(names: list[str]) -> None:
    if names and cpp.instruction_set() not in names:
        sys.exit(f"{cpp.LIBRARY} runs on {cpp.instruction_set()}, not on {names[0]}")


demand(sys.argv[2:])
failed = pytest.main(["-q", str(Path(__file__).parent), "-k", "cpp and not another_release"])
demand(sys.argv[2:])
print(f"{cpp.LIBRARY.name} of {cpp.LIBRARY.parent} served on {cpp.instruction_set()}")
sys.exit(failed)
