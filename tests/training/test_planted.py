"""Models of every family learn to repair wrong tokens that were planted in what they read."""

from __future__ import annotations

import pytest
from family_models import FAMILIES, family_model
from planted import Study

STEPS = {"sdar": 150, "fast_dllm_v2": 300, "llada": 700, "llada_moe": 700, "dream": 700}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "sdar" else [pytest.mark.slow]) for n in FAMILIES],
)
def test_planted_errors_are_repaired(name, record_property):
    """Held-out documents: under a tenth before, four fifths and more after training on drafts."""
    study = Study(
        family_model(name, size=32), FAMILIES[name], t2t="self", draft_share=1.0, p_random=0.1
    )
    before = study.measure()
    study.train(STEPS[name], 5e-3)
    after = study.measure()
    record_property("planted", {"before": before, "after": after})
    assert before["repaired"] < 0.1
    assert after["planted"] > 300
    assert after["repaired"] >= 0.8 and after["false edits"] <= 0.02
