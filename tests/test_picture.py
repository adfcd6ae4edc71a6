"""The moving picture of the README is what the embedded checkpoint does."""

import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_a_real_decode(monkeypatch):
    spec = importlib.util.spec_from_file_location("picture", ROOT / "benchmarks" / "picture.py")
    picture = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, picture)
    spec.loader.exec_module(picture)
    kept = ROOT / "docs" / "figures" / "canvas.svg"
    assert picture.picture() == kept.read_text(), "make picture draws it anew"
    assert kept.stat().st_size < 300_000
    frames = [g for g in ElementTree.parse(kept).iter(f"{SVG}g") if g.get("id")]
    marks = [rect.get("class") for frame in frames for rect in frame.iter(f"{SVG}rect")]
    assert len(frames) == 13 and {"mask", "frame"} == set(marks)
