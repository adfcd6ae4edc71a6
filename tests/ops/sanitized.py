"""Run the C++ back end's tests on another build of its library: `python sanitized.py LIBRARY`."""

import sys
from pathlib import Path

import pytest

from fastedit.ops import cpp

cpp.LIBRARY = Path(sys.argv[1]).resolve()
if cpp.why_not():
    sys.exit(f"{cpp.LIBRARY}: {cpp.why_not()}")
sys.exit(pytest.main(["-q", str(Path(__file__).parent), "-k", "cpp and not another_release"]))
