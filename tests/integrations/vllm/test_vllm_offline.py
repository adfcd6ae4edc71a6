"""`LLM.generate` with the embedded checkpoint: the tokens are those of `Decoder`."""

from __future__ import annotations

import pytest
import torch
from vllm_requests import decoded, engine, inside, mixed, params

from fastedit import DecodeConfig

pytestmark = pytest.mark.engines
# So few pages of keys and values that requests push each other out, and prompts come in parts.
TIGHT = {
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
    "max_model_len": 256,
    "num_gpu_blocks_override": 14,
}


@pytest.fixture(scope="module")
def llm():
    with engine(**TIGHT) as llm:
        yield llm


def generate(llm, asked, **others):
    prompts = [{"prompt_token_ids": one.prompt} for one in asked]
    out = llm.generate(prompts, [params(one, **others) for one in asked], use_tqdm=False)
    return [one.outputs[0] for one in out]


def test_a_hundred_requests(llm, hundred):
    got = generate(llm, hundred)
    assert [list(one.token_ids) for one in got] == [one.ids for one in hundred]
    assert [one.text for one in got] == [one.text for one in hundred]
    assert {len(one.prompt) % 32 == 0 for one in hundred} == {True, False}
    assert {one.finish_reason for one in got} == {"stop", "length"}


def test_requests_that_are_pushed_out(llm, decoder, monkeypatch):
    """Eight that begin with a page and grow to four, where there are thirteen."""
    asked = mixed(decoder.tokenizer, 8, seed=3)
    for one in asked:
        one.prompt, one.max_tokens, one.stop = one.prompt[:20], 97, None
    configs = [DecodeConfig(max_new_tokens=97, eos_token_id=[], **one.options) for one in asked]
    want = decoder.generate([torch.tensor(one.prompt) for one in asked], config=configs)
    scheduler, pushed_out = inside(llm).scheduler, []
    preempt = scheduler._preempt_request

    def counted(request, *args, **kwargs):
        pushed_out.append(request.request_id)
        preempt(request, *args, **kwargs)

    monkeypatch.setattr(scheduler, "_preempt_request", counted)
    got = generate(llm, asked, ignore_eos=True)
    assert [list(one.token_ids) for one in got] == [ids.tolist() for ids in want.sequences]
    assert pushed_out


def step_until(engine, finished, at=None):
    """Steps of vLLM's engine until nothing is left; `at`: what to do before which of them."""
    number = 0
    while engine.has_unfinished_requests():
        (at or {}).get(number, lambda: None)()
        number += 1
        for out in engine.step():
            if out.finished:
                finished[out.request_id] = out.outputs[0]


def test_a_request_is_cancelled_in_the_middle_of_a_block(llm, decoder):
    slow = {"policy": "low_confidence:threshold=1,steps=none"}  # one token per forward
    asked = mixed(decoder.tokenizer, 6, seed=1)
    for one in asked:
        one.options, one.max_tokens, one.stop = slow, 40, None
    decoded(decoder, asked)
    core, finished = llm.llm_engine, {}

    def add(name, one):
        core.add_request(name, {"prompt_token_ids": one.prompt}, params(one))

    for number, one in enumerate(asked):
        add(str(number), one)

    def cancel(*names):
        core.abort_request(list(names))

    def replace():
        cancel("4")
        add("again", asked[1])

    step_until(core, finished, {5: lambda: cancel("1"), 11: replace})
    assert not finished.keys() & {"1", "4"}
    want = {str(n): one.ids for n, one in enumerate(asked) if n not in (1, 4)}
    want["again"] = asked[1].ids
    assert {name: list(one.token_ids) for name, one in finished.items()} == want
    state = inside(llm).model_executor.driver_worker.worker.model_runner.model_state
    step_until(core, finished)
    assert len(state.sampler.places) <= 1  # what ends is told to the worker in the next step


def test_bad_logits_end_their_request_alone(llm, decoder, monkeypatch):
    asked = decoded(decoder, mixed(decoder.tokenizer, 4, seed=2))
    runner = inside(llm).model_executor.driver_worker.worker.model_runner
    sampler = runner.sampler
    step, chosen = sampler._step, {}

    def poisoned(lane, slots, widths, logits, sampled, counts):
        chosen.setdefault("slot", slots[0])
        blocks = logits.view(len(widths), -1, logits.shape[-1])
        for row, slot in enumerate(slots):
            if slot == chosen["slot"] and "over" not in chosen:
                blocks[row] = float("nan")
                chosen["over"] = runner.req_states.index_to_req_id[slot]
        step(lane, slots, widths, logits, sampled, counts)

    monkeypatch.setattr(sampler, "_step", poisoned)
    got = generate(llm, asked)
    failed = [n for n, one in enumerate(got) if one.finish_reason == "error"]
    assert len(failed) == 1
    for number, (one, out) in enumerate(zip(asked, got, strict=True)):
        if number not in failed:
            assert list(out.token_ids) == one.ids
    monkeypatch.undo()
    assert [list(out.token_ids) for out in generate(llm, asked)] == [one.ids for one in asked]


@pytest.mark.parametrize(
    "extra, says",
    [
        ({"threshold": 2}, "threshold must be a number from 0 to 1"),
        ({"editing_threshold": "some"}, "editing_threshold must be"),
        ({"treshold": 0.5}, "no 'treshold'"),
        ({"policy": "best"}, "policy must be one of"),
        ({"policy": "wino"}, "cannot run inside vLLM"),
        ({"policy": "multi_block"}, "cannot run inside vLLM"),
        ({"policy": "correction"}, "needs the scores"),
        ({"policy": "low_confidence", "editing_threshold": 0.5}, "is not of policy"),
        ({"policy": "joint_threshold_indel"}, "trained to insert and delete"),
        ({"block_length": 16}, "decodes blocks of 32"),
        ({"max_new_tokens": 8}, "give max_tokens to vLLM"),
        ({"stop": "a"}, "give stop to vLLM"),
        ({"cache": "none"}, "vLLM's own cache"),
        ({"seed": [1, 2]}, "seed"),
        ({"mode": ["quality"]}, "mode=.* must be one number, text or truth value"),
    ],
)
def test_a_request_is_refused_before_it_is_let_in(llm, extra, says):
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=says):
        llm.generate({"prompt_token_ids": [5]}, SamplingParams(extra_args=extra), use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()


def test_the_largest_top_k_is_all_of_the_vocabulary(llm):
    from vllm import SamplingParams

    drawn = {"temperature": 1.0, "seed": 3}
    every = drawn, drawn | {"top_k": 2**63}
    asked = [SamplingParams(max_tokens=8, extra_args=extra) for extra in every]
    first, second = llm.generate([{"prompt_token_ids": [5]}] * 2, asked, use_tqdm=False)
    assert list(first.outputs[0].token_ids) == list(second.outputs[0].token_ids)


@pytest.mark.parametrize("name, value", [("top_p", 0.5), ("logprobs", 1), ("temperature", 0)])
def test_what_vllm_decides_from_left_to_right_is_refused(llm, name, value):
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=name):
        llm.generate({"prompt_token_ids": [5]}, SamplingParams(**{name: value}), use_tqdm=False)
