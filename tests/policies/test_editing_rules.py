"""Rules that take tokens back or pass over them again decide what their oracles decide."""

from __future__ import annotations

import editing_oracles as oracles
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policy_rules import CLOSE, SIZES, Script, counted, counts_of

from fastedit import policies

WIDE = SIZES | {"width": st.sampled_from([1, 5, 9, 40])}


def same(state, blocks) -> None:
    assert state.ids.tolist() == [block.ids for block in blocks]
    assert state.done.tolist() == [block.done for block in blocks]
    assert counts_of(state) == [counted(block) for block in blocks]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.fixed_dictionaries(WIDE),
    options=st.fixed_dictionaries(
        {
            "threshold": st.sampled_from([0.0, 0.3, 0.6, 1.0]),
            "verify_threshold": st.sampled_from([0.0, 0.2, 0.5, 1.0]),
        }
    ),
)
def test_wino_steps_equal_the_oracle(sizes, options):
    steps = sizes.pop("steps")
    script = Script(**sizes)
    blocks = script.oracles(oracles.Wino, **options)
    state = script.open(policies.Wino(**options))
    for _ in range(steps):
        logits, shadows = script.logits(0.0), script.logits(0.0)
        policies.step_(
            state, torch.tensor(logits).float(), shadow_logits=torch.tensor(shadows).float()
        )
        for block, z, shadow in zip(blocks, logits, shadows, strict=True):
            block.step(z, shadow)
        if min(block.near for block in blocks) < CLOSE:
            return
        same(state, blocks)
