"""diffusers' `LLaDA2Pipeline` beside fastedit: same weights, prompts and process, in turn.

`pip install diffusers`. The pipeline decodes by another rule than the released loop, so its output
is compared with the plain rule's and reported, not asserted. As of diffusers 0.42.1:

* No cache: every forward covers the whole text up to the end of the block.
* One loop for the batch: it leaves a block when no row has a mask or changes any more. Rows that
  have no mask left are edited on while others have, beyond their budget of mask-free forwards.
* Left-padded rows share positions, so a block ends elsewhere in the text than without padding.
* `max_post_steps` n allows n + 1 mask-free forwards.
* Positions behind `gen_length` in the last block are decoded, but hidden from the others.
* Commits follow a schedule; at one step per position it forces one, as the released loop does.
* An `editing_threshold` of 0.0 turns edits off, so speed mode does not exist.

It gets what is nearest and fastest for it: prompts sorted by length (on both sides), one post step
less, whole blocks to decode, of which the surplus is cut off, no EOS, no texts, no progress bars.
"""

from __future__ import annotations

import statistics
from contextlib import contextmanager
from functools import partial

import plain
import pytest
import torch
from throughput import row
from torch.nn.utils.rnn import pad_sequence

from fastedit.evaluation.bench.clock import timed

pytest.importorskip("diffusers.pipelines.llada2")

from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

NEW_TOKENS = 64
BATCHES = (1, 4, 16, 64)
TURNS = 3


def test_pipeline(benchmark, decoder, prompts, report):
    prompts = sorted(prompts, key=len)
    want = torch.stack([plain.like(decoder, prompt, NEW_TOKENS) for prompt in prompts])
    pipeline = LLaDA2Pipeline(decoder.model, BlockRefinementScheduler(), decoder.tokenizer)
    pipeline.set_progress_bar_config(disable=True)

    def ours(batch, **options):
        options |= {"max_batch": batch, "max_new_tokens": NEW_TOKENS}
        out = decoder.generate(prompts, **options)
        return torch.stack(out.sequences)

    def theirs(batch):
        groups = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
        return torch.cat([by_pipeline(pipeline, group, decoder.config) for group in groups])

    sides = {"diffusers LLaDA2Pipeline": theirs, "fastedit": ours}
    counts, times = {}, {(batch, name): [] for batch in BATCHES for name in sides}
    for batch, name in times:  # warms up
        eager = {"cuda_graphs": False} if name == "fastedit" else {}  # a graph runs no hooks
        with shapes_of_forwards(decoder.model) as shapes:
            found = sides[name](batch, **eager)
        assert name != "fastedit" or found.equal(want)
        counts[batch, name] = {
            "as the plain rule": f"{100 * (found == want).double().mean():.1f} %",
            "forwards": len(shapes),
            "positions per token": f"{sum(shape.numel() for shape in shapes) / want.numel():.1f}",
        }

    def turn():
        for (batch, name), spent in times.items():
            seconds, found = timed(partial(sides[name], batch), decoder.model.device)
            assert name != "fastedit" or found.equal(want)
            spent.append(seconds)

    benchmark.pedantic(turn, rounds=TURNS)
    label = f"{len(prompts)} of {NEW_TOKENS} tokens"
    for (batch, name), spent in times.items():
        slow = times[batch, "diffusers LLaDA2Pipeline"]
        ratios = [a / b for a, b in zip(slow, spent, strict=True)]
        columns = row(label, f"{name}, batch {batch}", want.numel(), spent, ratios)
        report("pipeline", **columns, **counts[batch, name])
        assert name != "fastedit" or statistics.median(ratios) > 1.0


def by_pipeline(pipeline, group, config):
    """Generated ids [batch, NEW_TOKENS] of one batch; padded on the left where lengths differ."""
    pad = pipeline.tokenizer.pad_token_id
    ids = pad_sequence(group, batch_first=True, padding_value=pad, padding_side="left")
    real = [torch.ones_like(prompt) for prompt in group]
    blocks = -(-(ids.shape[1] + NEW_TOKENS) // config.block_length)
    mask = pad_sequence(real, batch_first=True, padding_side="left")
    out = pipeline(
        input_ids=ids.to(pipeline.model.device),
        attention_mask=mask.to(pipeline.model.device),
        gen_length=blocks * config.block_length - ids.shape[1],
        block_length=config.block_length,
        num_inference_steps=config.block_length,
        threshold=config.threshold,
        editing_threshold=config.editing_threshold,
        max_post_steps=config.max_post_steps - 1,
        temperature=0.0,
        eos_early_stop=False,
        output_type="seq",
    )
    return out.sequences[:, :NEW_TOKENS].cpu()


@contextmanager
def shapes_of_forwards(model):
    """Yields a list that gets [rows, positions] of every forward."""
    shapes = []

    def note(_, args, kwargs):
        shapes.append((args[0] if args else kwargs["input_ids"]).shape)

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()
