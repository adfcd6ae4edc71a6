"""On a trained model: the decoder writes what the released rule, written plainly, writes."""

import sys
from pathlib import Path

import pytest
import torch

from fastedit import Decoder
from fastedit.tasks import get_task

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import plain

LENGTH = 64
MODES = {
    "quality": {"threshold": 0.7, "editing_threshold": 0.5},
    "speed": {"threshold": 0.5, "editing_threshold": 0.0},
    "eager": {"threshold": 0.1, "editing_threshold": 0.0},
}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.from_pretrained("tiny")


@pytest.fixture(scope="module")
def prompts(decoder) -> list[torch.Tensor]:
    tasks = [get_task("chain_sum"), get_task("leg_counting")]
    chats = [task.messages(p.question) for task in tasks for p in task.test_set(2)]
    template = decoder.tokenizer.apply_chat_template
    return [
        torch.tensor(template(chat, add_generation_prompt=True, return_dict=False))
        for chat in chats
    ]


@pytest.mark.parametrize("mode", MODES)
def test_alone_in_a_batch_cached_or_not_it_is_the_released_rule(decoder, prompts, mode):
    shared = {"max_post_steps": 16, "num_to_transfer": 1, "block_length": 32} | MODES[mode]
    mask = decoder.model.config.mask_token_id
    expected = [
        plain.generate(
            decoder.model, prompt, gen_length=LENGTH, mask_id=mask, eos_id=-1, **shared
        ).tolist()
        for prompt in prompts
    ]
    options = {"max_new_tokens": LENGTH, "eos_token_id": []} | shared
    together = decoder.generate(prompts, **options)
    assert [ids.tolist() for ids in together.sequences] == expected
    assert sum(stats.t2t_edits for stats in together.stats) > 0
    for use_cache in (True, False):
        out = decoder.generate(prompts[0], use_cache=use_cache, **options)
        assert out.sequences[0].tolist() == expected[0]
