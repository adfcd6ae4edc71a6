"""diffusers' scheduler with our decision in it, alone and inside `LLaDA2Pipeline`."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastedit import Decoder

pytestmark = pytest.mark.engines
LENGTH, VOCAB, MASK = 8, 50, 49
ASK = "State the final answer to the following arithmetic problem: {} ="
TEXTS = [ASK.format(sum_) for sum_ in ("27 + 45 - 86", "1 + 2", "5 - 4 + 3 - 2", "99 + 1")]
QUALITY = {"threshold": 0.7, "editing_threshold": 0.5, "max_post_steps": 16}
NAMES = ("prev_sample", "transfer_index", "editing_transfer_index", "sampled_tokens")


@pytest.fixture(scope="module")
def schedulers():
    from diffusers import BlockRefinementScheduler

    from fastedit.integrations.diffusers import FastEditScheduler

    return BlockRefinementScheduler, FastEditScheduler


@pytest.fixture(scope="module")
def decoder():
    return Decoder.from_pretrained("tiny")


def case(seed: int, batch: int = 3):
    """Logits whose best id is never the mask, and blocks with masks and wrong tokens."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(batch, LENGTH, VOCAB, generator=generator)
    logits[..., MASK] = -9.0
    ids = torch.randint(0, MASK, (batch, LENGTH), generator=generator)
    ids[torch.rand(ids.shape, generator=generator) < 0.5] = MASK
    if seed % 4 == 0:
        ids[ids == MASK] = 3
    return logits, ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_the_step_of_diffusers(schedulers, dtype):
    changed = 0
    values = itertools.product((0.2, 0.6), (None, 0.0, 0.3), (1, 3, 8, 20), range(12))
    for threshold, editing, steps, seed in values:
        logits, ids = case(seed)
        prompt = torch.arange(LENGTH) < seed % 3
        found = []
        for kind in schedulers:
            scheduler = kind(block_length=LENGTH)
            scheduler.set_timesteps(steps)
            given = {"mask_token_id": MASK, "threshold": threshold, "editing_threshold": editing}
            given |= {"prompt_mask": prompt} if seed % 2 else {}
            found.append(scheduler.step(logits.to(dtype), seed % 5, ids, **given))
        theirs, ours = found
        for name in NAMES:
            assert torch.equal(theirs[name], ours[name]), name
        torch.testing.assert_close(theirs.sampled_probs, ours.sampled_probs)
        assert ours.pred_logits.dtype == dtype
        changed += int(ours.editing_transfer_index.sum())
    assert changed > 100


@pytest.mark.parametrize("mask", [-1, VOCAB])
def test_a_mask_that_is_no_id_of_the_logits(schedulers, mask):
    logits, ids = case(1)
    found = []
    for kind in schedulers:
        scheduler = kind(block_length=LENGTH)
        scheduler.set_timesteps(2)
        masked = torch.where(ids == MASK, mask, ids)
        found.append(scheduler.step(logits, 0, masked, mask_token_id=mask).prev_sample)
    assert torch.equal(*found) and (found[0] != mask).any()


def test_without_timesteps_nothing_is_filled(schedulers):
    logits, ids = case(1)
    for kind in schedulers:
        out = kind(block_length=LENGTH).step(logits, 0, ids, mask_token_id=MASK, threshold=0.1)
        assert torch.equal(out.prev_sample, ids)


def test_the_mask_is_never_chosen(schedulers):
    logits, ids = case(2)
    logits[..., MASK] = 30.0
    for kind, expected in zip(schedulers, (True, False), strict=True):
        scheduler = kind(block_length=LENGTH)
        scheduler.set_timesteps(1)
        out = scheduler.step(logits, 0, ids, mask_token_id=MASK, threshold=0.1)
        assert bool((out.prev_sample == MASK).any()) == expected


def test_draws_follow_the_softmax_and_the_generator(schedulers):
    kind = schedulers[1]
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])).expand(64, LENGTH, 5)
    scheduler = kind(block_length=LENGTH)
    scheduler.set_timesteps(1)

    def drawn(seed, **options):
        options = {"temperature": 1.0, "mask_token_id": 4, "threshold": 0.0} | options
        generator = torch.Generator().manual_seed(seed)
        out = scheduler.step(logits, 0, torch.full((64, LENGTH), 4), generator=generator, **options)
        return out.prev_sample

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    counts = sum(torch.bincount(drawn(seed).flatten(), minlength=4) for seed in range(20))
    expected = counts.sum() * torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # 3 degrees, p = .001
    assert set(drawn(0, top_k=2).unique().tolist()) == {0, 1}
    assert set(drawn(0, top_p=0.4).unique().tolist()) == {0}
    assert set(drawn(0, sampling_method="greedy").unique().tolist()) == {0}
    assert torch.equal(drawn(0, top_p=2.0), drawn(0))
    with pytest.raises(ValueError, match="sampling_method='beam'"):
        drawn(0, sampling_method="beam")
    with pytest.raises(ValueError, match="temperature must be >= 0, got nan"):
        drawn(0, temperature=float("nan"))


@pytest.fixture
def pipe(decoder, schedulers):
    from diffusers import LLaDA2Pipeline

    scheduler = schedulers[1].from_config(schedulers[0](block_length=32).config)
    pipe = LLaDA2Pipeline(model=decoder.model, scheduler=scheduler, tokenizer=decoder.tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def decoded(pipe, ids, **options) -> list[int]:
    new = -ids.shape[-1] % 32 + 32
    given = {"num_inference_steps": 32, "output_type": "seq"} | QUALITY | options
    mask, eos = pipe.model.config.mask_token_id, pipe.tokenizer.eos_token_id
    out = pipe(input_ids=ids, gen_length=new, mask_token_id=mask, eos_token_id=eos, **given)
    rows = [row.tolist() for row in out.sequences]
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def test_the_pipeline_gives_the_tokens_of_the_decoder(pipe, decoder):
    for text in TEXTS:
        ids = decoder.tokenizer(text, return_tensors="pt").input_ids
        new = -ids.shape[-1] % 32 + 32
        want = decoder.generate(ids, max_new_tokens=new, mode="quality", threshold=0.7)
        assert decoded(pipe, ids) == [want.sequences[0].tolist()]


def test_the_pipeline_leaves_the_edits_of_a_block_with_an_eos(pipe, decoder):
    """Unless it is told to finish the block."""
    chat = [{"role": "user", "content": "12 + 34 ="}]
    ids = decoder.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).input_ids
    new = -ids.shape[-1] % 32 + 32
    want = decoder.generate(ids, max_new_tokens=new, mode="quality", threshold=0.7)
    tokens = [want.sequences[0].tolist()]
    assert decoded(pipe, ids, eos_early_stop=False) == tokens
    assert decoded(pipe, ids) != tokens


def test_callbacks_are_told_what_they_ask_for(pipe, decoder):
    seen = []
    keys = ["block_x", "transfer_index", "editing_transfer_index", "sampled_tokens"]
    keys += ["sampled_probs", "active_block"]

    def watch(pipe, step, timestep, given):
        seen.append((step, {name: tuple(value.shape) for name, value in given.items()}))
        return given

    ids = decoder.tokenizer(TEXTS[1], return_tensors="pt").input_ids
    plain = decoded(pipe, ids)
    options = {"callback_on_step_end": watch, "callback_on_step_end_tensor_inputs": keys}
    assert decoded(pipe, ids, **options) == plain
    assert [step for step, _ in seen] == list(range(len(seen)))
    assert all(shapes.keys() == set(keys) for _, shapes in seen)
    assert all(shapes["transfer_index"] == (1, 32) for _, shapes in seen)


class Flipping(torch.nn.Module):
    """Fills every mask with 1, and then would have each token other than it is."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, input_ids, **_):
        self.calls += 1
        wanted = torch.where(input_ids == 1, 2, 1)
        logits = torch.nn.functional.one_hot(wanted, VOCAB) * 20.0
        return type("Out", (), {"logits": logits})


def flipped(scheduler, **options) -> Flipping:
    from diffusers import LLaDA2Pipeline

    model = Flipping()
    pipe = LLaDA2Pipeline(model=model, scheduler=scheduler(block_length=LENGTH), tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    given = {"threshold": 0.5, "editing_threshold": 0.5, "max_post_steps": 4} | options
    pipe(
        input_ids=torch.zeros(1, LENGTH, dtype=torch.int64),
        gen_length=LENGTH,
        num_inference_steps=LENGTH,
        mask_token_id=MASK,
        output_type="seq",
        **given,
    )
    return model


@pytest.mark.parametrize("number", [0, 1])
def test_the_loop_of_the_pipeline_takes_one_more_post_step(schedulers, number):
    kind, ours = schedulers[number], Flipping()
    decoder = Decoder(ours)
    ours.config = type("Config", (), {"vocab_size": VOCAB, "max_position_embeddings": 64})()
    options = {"threshold": 0.5, "editing_threshold": 0.5, "max_post_steps": 4}
    decoder.generate(
        torch.zeros(1, LENGTH, dtype=torch.int64),
        max_new_tokens=LENGTH,
        block_length=LENGTH,
        mask_token_id=MASK,
        eos_token_id=[],
        use_cache=False,
        **options,
    )
    assert flipped(kind).calls == ours.calls + 1 == 1 + 4 + 1


@pytest.mark.parametrize("number", [0, 1])
def test_zero_switches_editing_off_in_the_pipeline(schedulers, number):
    assert flipped(schedulers[number], editing_threshold=0.0).calls == 2  # and one that looks
    assert flipped(schedulers[number], editing_threshold=1e-9).calls > 2


@pytest.mark.parametrize("number", [0, 1])
def test_rows_of_a_batch_go_on_together_in_the_pipeline(schedulers, number):
    """A row that is done is decided again for as long as another has masks."""
    scheduler = schedulers[number](block_length=LENGTH)
    scheduler.set_timesteps(LENGTH)
    edits = torch.zeros(2, LENGTH, dtype=torch.bool)
    edits[1, 0] = True
    asked = {"step_idx": 1, "editing_enabled": True, "post_steps": 1, "max_post_steps": 4}
    asked["finished"] = torch.zeros(2, dtype=torch.bool)
    goes_on = scheduler.check_block_should_continue
    assert goes_on(masks_remaining=True, editing_transfer_index=edits & False, **asked)
    assert goes_on(masks_remaining=False, editing_transfer_index=edits, **asked)
    assert not goes_on(masks_remaining=False, editing_transfer_index=edits[:1], **asked)
