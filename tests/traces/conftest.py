"""Traces made by hand, and of a real model."""

import pytest
import torch

from fastedit import Decoder
from fastedit.traces import Forward, Opened, Trace, TraceEvent

MASK = 9


def event(kind, forward, position, old, new, **beside):
    return TraceEvent(kind, forward, 0, position, old, new, policy="joint_threshold", **beside)


@pytest.fixture
def trace() -> Trace:
    """Three positions: 0 goes 1, 2, 1, 2; 2 is taken back and filled again; 1 is filled once."""
    header = {
        "request": 3,
        "policy": "joint_threshold:editing_threshold=0.2",
        "parameters": {"threshold": 0.5, "editing_threshold": 0.2, "num_to_transfer": 1},
        "mask_token_id": MASK,
        "options": {"max_new_tokens": 3},
        "special_tokens": [],
    }
    steps = [
        Opened(1, 0, -1, [4, MASK, MASK, MASK]),
        Forward(1, 0, 0, [0.9, 0.4, 0.6]),
        event("fill", 1, 0, MASK, 1, p_new=0.9, confidence=0.9),
        event("fill", 1, 2, MASK, 3, p_new=0.6, confidence=0.6),
        Forward(2, 0, 0, [0.8, 0.4, 0.1]),
        event("edit", 2, 0, 1, 2, p_old=0.1, p_new=0.8, confidence=0.8),
        event("remask", 2, 2, 3, MASK, p_old=0.1),
        Forward(3, 0, 0, [0.7, 0.4, 0.9]),
        event("edit", 3, 0, 2, 1, p_old=0.2, p_new=0.7, confidence=0.7),
        event("fill", 3, 2, MASK, 3, p_new=0.9, confidence=0.9),
        Forward(4, 0, 0, [0.6, 0.4, None], entropy=[0.1, 0.2, None]),
        event("edit", 4, 0, 1, 2, p_old=0.3, p_new=0.6, confidence=0.6),
        event("fill", 4, 1, MASK, 5, p_new=0.4, confidence=0.4),
        *(event("commit", 4, place, token, token) for place, token in enumerate((2, 5, 3))),
    ]
    tokens = {1: "one", 2: "two", 3: " three", 4: "?", 5: "</script><img onerror=x>", MASK: "<m>"}
    return Trace(header, steps, tokens, {"tokens": 3, "forwards": 4})


@pytest.fixture
def moved(trace) -> Trace:
    """A token is put in before the last of two, and then the first one is taken out."""
    steps = [
        Opened(1, 0, 0, [1, 2]),
        Forward(1, 0, 0, [0.5, 0.5], moved=[0, -1, 1], put=[3]),
        event("insert", 1, 1, None, 3, p_new=0.7),
        Forward(2, 0, 0, [0.5, 0.5, 0.5], moved=[1, 2]),
        event("delete", 2, 0, 1, None, p_old=0.2, p_new=0.8),
        Forward(3, 0, 0, [0.5, 0.5]),
        event("edit", 3, 0, 3, 4),
        *(event("commit", 3, place, token, token) for place, token in enumerate((4, 2))),
    ]
    return Trace(trace.header, steps, trace.tokens, {})


@pytest.fixture(scope="session")
def edited() -> list[Trace]:
    """Of the embedded checkpoint, from a draft in which some tokens are wrong."""
    decoder = Decoder.from_pretrained("tiny")
    ask = "State the final answer to the following arithmetic problem: 12 + 7 - 3 ="
    chat = [{"role": "user", "content": ask}]
    draft = decoder.generate([chat], max_new_tokens=32).sequences[0]
    draft[[3, 9, 14, 20]] = torch.tensor([24, 25, 26, 27])
    out = decoder.generate([chat, chat], draft=[draft, None], max_new_tokens=48, trace=True)
    assert out.stats[0].t2t_edits >= 4
    return out.traces
