"""SGLang's own loops around the embedded checkpoint, with our algorithm in them."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch

from fastedit import Decoder
from fastedit.evaluation.bench import sglang_step

pytestmark = pytest.mark.engines
ALGORITHMS = "sglang.srt.dllm.algorithm"
WHEEL = ("sglang.srt.environ", "sglang.srt.plugins", "sglang.srt.dllm.config", ALGORITHMS)
ASK = "State the final answer to the following arithmetic problem: {} ="
TEXTS = [ASK.format(sum_) for sum_ in ("27 + 45 - 86", "1 + 2", "5 - 4 + 3 - 2", "99 + 1")]
TOKENS = 48
JOINT = {"threshold": 0.7, "edit_threshold": 0.5, "max_post_edit_steps": 4}


@pytest.fixture(scope="module")
def decoder():
    return Decoder.from_pretrained("tiny")


@pytest.fixture
def sglang(monkeypatch):
    """The wheel's files, and our algorithm registered as its process would."""
    stand_ins = set(sglang_step.STAND_INS) - {ALGORITHMS, "sglang.srt.dllm"}
    monkeypatch.setattr(sglang_step, "STAND_INS", (*stand_ins, "sglang.srt.dllm"))
    for name in [n for n in sys.modules if n.startswith("fastedit.integrations.sglang")]:
        monkeypatch.delitem(sys.modules, name)
    with sglang_step.loaded(*WHEEL):
        yield importlib.import_module(ALGORITHMS)
        for name in [n for n in sys.modules if n.startswith("fastedit.integrations.sglang")]:
            del sys.modules[name]


def register(monkeypatch, asked: str) -> None:
    monkeypatch.setenv("FASTEDIT_SGLANG", asked)
    importlib.import_module("fastedit.integrations.sglang").register()


def algorithm(sglang, model, name="FastEdit", fdfo=False, **settings):
    config = sys.modules["sglang.srt.dllm.config"].DllmConfig(
        algorithm=name,
        algorithm_config=settings,
        block_size=model.config.block_size,
        mask_id=model.config.mask_token_id,
        max_running_requests=8,
        first_done_first_out_mode=fdfo,
    )
    return sglang.get_algorithm(config)


class Runner:
    """Computes everything that stands before a block anew; a forward per request."""

    def __init__(self, model) -> None:
        self.model, self.length, self.calls = model, model.config.block_size, 0

    @torch.inference_mode()
    def forward(self, batch, pp_proxy_tensors=None):
        self.calls += 1
        rows = []
        for before, block in zip(batch.before, batch.input_ids.view(-1, self.length), strict=True):
            ids = torch.cat((torch.tensor(before, dtype=torch.int64), block))
            number = torch.arange(len(ids)) // self.length
            seen = number[:, None] >= number
            out = self.model(
                input_ids=ids[None],
                attention_mask=seen[None, None],
                position_ids=torch.arange(len(ids))[None],
            )
            rows.append(out.logits[0, -self.length :])
        logits = SimpleNamespace(full_logits=torch.cat(rows))
        return SimpleNamespace(logits_output=logits, can_run_graph=False)


class Request:
    def __init__(self, ids: list[int], length: int, mask: int, eos: int) -> None:
        self.ids, self.prompt = ids, len(ids)
        self.length, self.mask, self.eos = length, mask, eos
        self.state, self.block = None, self.opening()

    def opening(self) -> list[int]:
        tail = self.ids[len(self.ids) // self.length * self.length :]
        return tail + [self.mask] * (self.length - len(tail))

    def before(self) -> list[int]:
        return self.ids[: len(self.ids) // self.length * self.length]

    def commit(self, block: list[int]) -> None:
        self.ids = self.before() + block
        self.state, self.block = None, self.opening()

    def output(self) -> list[int]:
        new = self.ids[self.prompt :][:TOKENS]
        return new[: new.index(self.eos) + 1] if self.eos in new else new

    @property
    def over(self) -> bool:
        return self.eos in self.ids[self.prompt :] or len(self.ids) >= self.prompt + TOKENS


def batch_of(live):
    return SimpleNamespace(
        batch_size=len(live),
        input_ids=torch.tensor([r.block for r in live]).view(-1),
        dllm_prompt_mask=None,
        before=[r.before() for r in live],
    )


def serve(algorithm, runner, decoder, prompts) -> list[list[int]]:
    """All prompts through `algorithm.run`, two of them from the start."""
    eos = decoder.tokenizer.eos_token_id
    waiting = [Request(p.tolist(), algorithm.block_size, algorithm.mask_id, eos) for p in prompts]
    requests, live = list(waiting), []
    while waiting or live:
        if waiting:
            live.append(waiting.pop(0))
        batch, held = batch_of(live), [r.block for r in live]
        kept = batch.input_ids
        states = [r.state for r in live] if algorithm.fdfo else None
        _, new, accepted, states, _ = algorithm.run(runner, batch, states)
        assert batch.input_ids is kept
        for row, request in enumerate(live):
            if accepted is None:
                start = algorithm.block_size - len(new[row])
                request.commit(held[row][:start] + new[row].tolist())
            elif accepted[row]:
                request.commit(new[row])
            else:
                request.block, request.state = new[row], states[row]
        live = [r for r in live if not r.over]
    return [r.output() for r in requests]


def ids_of(decoder) -> list[torch.Tensor]:
    return [decoder.tokenizer(text, return_tensors="pt").input_ids[0] for text in TEXTS]


@pytest.mark.parametrize("fdfo", [False, True])
@pytest.mark.parametrize(
    "settings, policy",
    [
        (JOINT, "joint_threshold:threshold=0.7,editing_threshold=0.5,max_post_steps=4"),
        ({}, "joint_threshold:threshold=0.5,editing_threshold=0.0"),
        ({"editing_threshold": "none"}, "joint_threshold:threshold=0.5,editing_threshold=none"),
        ({"policy": "low_confidence:threshold=0.8"}, "low_confidence:threshold=0.8"),
        (
            {"policy": "joint_threshold_indel", "delete_token_id": 9, "split_token_id": 11},
            "joint_threshold_indel:threshold=0.5,editing_threshold=0,"
            "delete_token_id=9,insert_token_id=11",
        ),
    ],
)
def test_tokens_are_those_of_the_decoder(sglang, decoder, monkeypatch, settings, policy, fdfo):
    register(monkeypatch, "add")
    ours = algorithm(sglang, decoder.model, fdfo=fdfo, **settings)
    prompts = ids_of(decoder)
    want = decoder.generate(prompts, max_new_tokens=TOKENS, policy=policy)
    got = serve(ours, Runner(decoder.model), decoder, prompts)
    assert got == [sequence.tolist() for sequence in want.sequences]
    if "edit_threshold" in settings:
        assert sum(stats.t2t_edits for stats in want.stats)


@pytest.mark.parametrize("fdfo", [False, True])
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("post", [0, 1, 16])
def test_the_replaced_step_is_the_built_in_one(
    sglang, decoder, monkeypatch, fdfo, vectorized, post
):
    prompts, made = ids_of(decoder), []
    settings = {"edit_threshold": 0.2, "max_post_edit_steps": post}
    settings["vectorized_decoding"] = vectorized
    for replaced in (False, True):
        if replaced:
            register(monkeypatch, "replace")
            registry = sys.modules["sglang.srt.plugins.hook_registry"].HookRegistry
            registry.apply_hooks()
        theirs = algorithm(sglang, decoder.model, "JointThreshold", fdfo, **settings)
        runner = Runner(decoder.model)
        made.append((serve(theirs, runner, decoder, prompts), runner.calls))
    assert made[0] == made[1]


def test_nothing_happens_before_it_is_asked_for(sglang, decoder, monkeypatch):
    door = importlib.import_module("fastedit.integrations.sglang")
    monkeypatch.delenv("FASTEDIT_SGLANG", raising=False)
    other = ["launch_server", "--model-path=FastEdit/model", "--dllm-algorithm", "JointThreshold"]
    monkeypatch.setattr(sys, "argv", other)
    door.register()
    assert "fastedit.integrations.sglang.algorithm" not in sys.modules
    assert "FastEdit" not in sglang.algo_name_to_cls
    monkeypatch.setattr(sys, "argv", ["launch_server", "--dllm-algorithm", "FastEdit"])
    door.register()
    assert "FastEdit" in sglang.algo_name_to_cls
    assert "JointThreshold" in sglang.algo_name_to_cls
    monkeypatch.setenv("FASTEDIT_SGLANG", "yes")
    with pytest.raises(ValueError, match="'yes' must be add or replace"):
        door.register()


def test_releases_that_ask_for_a_tensor_get_one(sglang, decoder, monkeypatch):
    register(monkeypatch, "add")
    ours, mask = algorithm(sglang, decoder.model), decoder.model.config.mask_token_id
    ids = torch.full((ours.block_size,), mask)
    batch = SimpleNamespace(batch_size=1, input_ids=ids, dllm_prompt_mask=None)
    logits = torch.randn(ours.block_size, decoder.model.config.vocab_size)
    states = ours.init_step_state(batch)
    assert ours.step(batch, logits, states) == [False]
    monkeypatch.setattr(sys.modules[type(ours).__module__], "RETURNS_TENSOR", True)
    done = ours.step(batch, logits, states)
    assert done.dtype == torch.bool and done.shape == (1,)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"treshold": 0.5}, "joint_threshold has no treshold; its parameters are threshold"),
        ({"penalty_lambda": 0.1}, "no penalty_lambda"),
        ({"policy": "wino"}, "cannot run policy wino inside SGLang"),
        ({"policy": "entropy_bound"}, "cannot run policy entropy_bound inside SGLang"),
        ({"policy": "correction"}, "cannot run policy correction inside SGLang"),
        ({"policy": "none"}, "policy must be one of"),
        ({"policy": 5}, "policy must be one of .*; got 5"),
        (
            {"policy": "remask:tau=0.3", "tau": 0.4},
            "tau is in policy 'remask:tau=0.3' and beside it",
        ),
        ({"edit_threshold": 0.5, "editing_threshold": 0.5}, "given under two names"),
        ({"threshold": 2.0}, "threshold"),
    ],
)
def test_what_sglang_cannot_run_is_refused(sglang, decoder, monkeypatch, settings, message):
    register(monkeypatch, "add")
    with pytest.raises(ValueError, match=message):
        algorithm(sglang, decoder.model, **settings)


def test_blocks_whose_logits_are_bad_end_alone(sglang, decoder, monkeypatch):
    register(monkeypatch, "add")
    ours, mask = algorithm(sglang, decoder.model), decoder.model.config.mask_token_id
    ids = torch.full((2 * ours.block_size,), mask)
    batch = SimpleNamespace(batch_size=2, input_ids=ids, dllm_prompt_mask=None)
    states = ours.init_step_state(batch)
    logits = torch.randn(2 * ours.block_size, decoder.model.config.vocab_size)
    logits[: ours.block_size] = torch.nan
    wrapped = SimpleNamespace(full_logits=logits)  # as other releases give them
    assert ours.step(batch, wrapped, states) == [True, False]
    before, after = ids.view(2, -1)
    assert (before == mask).all() and (after != mask).any()
    assert ours.step(batch, torch.randn(logits.shape), states)[0]  # another one goes on
    assert (before == mask).all()
