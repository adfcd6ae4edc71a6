"""Traces: what happened to every position of a generation, forward by forward, and why.

`trace` is what a trace holds and what follows from it, `files` its JSON Lines, `history` the words
for one position, `page` the picture of it in a browser.
"""

from fastedit.traces.files import load, save
from fastedit.traces.history import Change, History
from fastedit.traces.trace import KINDS, Forward, Opened, Trace, TraceEvent

__all__ = ["KINDS", "Change", "Forward", "History", "Opened", "Trace", "TraceEvent", "load", "save"]
