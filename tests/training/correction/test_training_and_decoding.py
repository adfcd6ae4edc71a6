"""What a head is shown of a canvas in training is what decoding shows it."""

from __future__ import annotations

import pytest
import torch
from editing import BLOCK, MASK, small_model
from family_models import FAMILIES, family_model
from spread_head import spread_head

from fastedit import DecodeConfig, Decoder
from fastedit.models.families import family_of
from fastedit.training.passes.layout import Tokens
from fastedit.training.passes.passes import frozen_passes
from fastedit.training.reading import Reading

LENGTH, PROMPT = 16, 6  # so that the first block begins inside the prompt
CONFIG = DecodeConfig(
    policy="correction:stride=1,tau=1",
    max_new_tokens=LENGTH - PROMPT,
    eos_token_id=[],
    mask_token_id=MASK,
)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llada2", *FAMILIES])
def test_a_canvas_has_the_same_error_logits_in_training_and_in_decoding(name):
    """The prompt's tail, a wrong token, a mask; with full attention, masks and tokens behind."""
    model = (family_model(name) if name in FAMILIES else small_model()).eval()
    family = FAMILIES.get(name) or family_of(model)
    reading, head = Reading.of(model, family), spread_head(model.config, family.attention)
    clean = torch.randint(2, 24, (1, LENGTH), generator=torch.Generator().manual_seed(3))
    canvas, response = clean.clone(), torch.zeros(1, LENGTH, dtype=torch.bool)
    canvas[0, PROMPT : PROMPT + 2] = torch.tensor([5, MASK])
    canvas[0, -2], response[:, PROMPT:] = MASK, True

    shown = []
    hook = head.register_forward_hook(lambda _, given, logits: shown.append(logits))
    decoder = Decoder(model, config=CONFIG, family=family, head=head)
    decoder.generate([clean[0, :PROMPT]], draft=[canvas[0, PROMPT:]])
    hook.remove()

    positions = torch.arange(LENGTH)[None]
    rows = Tokens.of_rows(torch.zeros_like(clean), positions, reading.block_size)
    passes = frozen_passes(model.model, clean, rows, reading)
    found = passes.inside(canvas, response, head.config.input_of(len(model.model.layers)))
    learnt = head(found.states, found.mask, found.position)[0]
    first = 0 if reading.full else PROMPT // BLOCK * BLOCK
    assert found.position[0].tolist() == list(range(first, first + len(learnt)))
    assert learnt.std() > 0.02  # positions differ
    torch.testing.assert_close(shown[0][0, : len(learnt)], learnt, rtol=1e-4, atol=1e-5)
