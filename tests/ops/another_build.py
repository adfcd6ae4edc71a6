"""Run the C++ back end's tests on another build of its library.

`python another_build.py LIBRARY [INSTRUCTION_SET]`: the set that has to serve all of them but those
that choose one.
"""

import sys
from pathlib import Path

import pytest

from fastedit.ops import library

library.LIBRARY = Path(sys.argv[1]).resolve()
if library.why_not():
    sys.exit(f"{library.LIBRARY}: {library.why_not()}")


def demand(names: list[str]) -> None:
    if names and library.instruction_set() not in names:
        sys.exit(f"{library.LIBRARY} runs on {library.instruction_set()}, not on {names[0]}")


demand(sys.argv[2:])
failed = pytest.main(["-q", str(Path(__file__).parent), "-k", "cpp and not another_release"])
demand(sys.argv[2:])
print(f"{library.LIBRARY.name} of {library.LIBRARY.parent} served on {library.instruction_set()}")
sys.exit(failed)
