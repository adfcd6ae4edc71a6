"""Traces as one page for a browser: no remote asset, and no text that is read as markup.

`template.html`, `style.css` and `script.js` lie beside this file. Data goes along as JSON in which
no character can end its element; the script puts texts into the page as text alone, and the page
allows no script or style but these two, by their digests.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

from fastedit.traces.files import as_dict
from fastedit.traces.reasons import why
from fastedit.traces.trace import Trace, TraceEvent

# Characters that could end an element, or a line of a script in older browsers.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def page(groups: Sequence[Sequence[Trace]], titles: Sequence[str] = ()) -> str:
    """One document: a panel for each group of traces, one of which is shown at a time; two panels
    stand side by side.

    titles: of the groups, such as names of files.
    """
    panels = [
        {"title": title, "traces": [_described(trace) for trace in traces]}
        for traces, title in zip(groups, [*titles, *[""] * len(groups)], strict=False)
    ]
    style, script = _asset("style.css"), _asset("script.js")
    return Template(_asset("template.html")).substitute(
        title=html.escape(", ".join(filter(None, titles)) or "trace"),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
        data=json.dumps(panels, ensure_ascii=False, allow_nan=False).translate(_ESCAPES),
    )


def framed(traces: Sequence[Trace]) -> str:
    """The same inside another page, such as a notebook: a frame that shares nothing with it."""
    inside = html.escape(page([traces]), quote=True)
    return (
        f'<iframe title="fastedit trace" sandbox="allow-scripts" srcdoc="{inside}" '
        'style="width: 100%; height: 640px; border: 1px solid #8888; border-radius: 6px">'
        "</iframe>"
    )


def _described(trace: Trace) -> dict[str, Any]:
    parameters = trace.header.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    steps = []
    for step in trace.steps:
        told = {"why": why(step, parameters)} if isinstance(step, TraceEvent) else {}
        steps.append(as_dict(step) | told)
    texts = {str(token): text for token, text in trace.tokens.items()}
    return {"header": trace.header, "tokens": texts, "stats": trace.stats, "steps": steps}


@functools.cache
def _asset(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
