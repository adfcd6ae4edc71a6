"""Steps from graphs give what eager steps give. On a CPU a `Tape` stands in for a CUDA graph."""

import contextlib
import warnings

import pytest
import torch
from cases import DRAWN, ENDS, GOLDEN, prompt, results
from tape import Tape

from fastedit import Decoder, ops
from fastedit.engine import engine
from fastedit.engine import graphs as graph
from fastedit.engine.graphs import Graphs, graph_shape
from fastedit.engine.lane import Lane

RULES = [ENDS[0], ENDS[2], DRAWN]
PROMPTS = [prompt(length) for length in (3, 9, 16, 30, 31, 5, 8, 2, 24, 12, 40)]


@pytest.fixture
def model(countless_experts):
    return countless_experts


@pytest.fixture
def taped(monkeypatch):
    """Late steps from tapes; the reference back end, since a tape sees torch's operations only."""
    monkeypatch.setitem(engine.DELAY, "cpu", 1)
    monkeypatch.setitem(graph.CAPTURE, "cpu", Tape)
    monkeypatch.setattr(Tape, "made", [], raising=False)
    with ops.use_backend("reference"):
        yield Tape


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize(
    ("rule", "max_batch"),
    [
        *zip(RULES, (11, 3, 1), strict=True),
        *(
            pytest.param(rule, most, marks=pytest.mark.slow)
            for rule, others in zip(RULES, ((1, 3), (1, 11), (3, 11)), strict=True)
            for most in others
        ),
    ],
)
def test_same_results_and_stats(model, taped, rule, max_batch):
    """Slots change hands, rows outnumber requests, and the cache grows under the graphs."""
    options = GOLDEN | rule
    got = results(Decoder(model).generate(PROMPTS, max_batch=max_batch, **options))
    assert sum(tape.replays for tape in taped.made) > 20
    tapes = len(taped.made)
    want = results(Decoder(model).generate(PROMPTS, cuda_graphs=False, **options))
    assert got == want and len(taped.made) == tapes


def test_a_cache_that_grows_leaves_its_graphs(model, taped, monkeypatch):
    """A longer request comes in while graphs of the same shapes are there."""
    monkeypatch.setattr(graph, "SHORTEST", 8)
    prompts, decoder = [PROMPTS[0], PROMPTS[7]], Decoder(model)
    configs = [decoder.config.replace(**GOLDEN | {"max_new_tokens": n}) for n in (20, 60)]
    out = decoder.generate(prompts, config=configs, max_batch=1)
    assert sum(tape.replays for tape in taped.made) > 10
    want = decoder.generate(prompts, config=configs, cuda_graphs=False)
    assert results(out) == results(want)


def test_rows_without_a_request_keep_out_of_a_pool_that_is_laid_out_anew(model, taped):
    """Three requests in a graph of four rows, after shorter ones had units of their own length."""
    decoder, prompts = Decoder(model), [PROMPTS[3], PROMPTS[4], PROMPTS[10]]
    short = [PROMPTS[0], PROMPTS[5], PROMPTS[7]]  # of one block: nothing of them is kept
    decoder.generate(short, **GOLDEN | {"max_batch": 4, "max_new_tokens": 3})
    got = decoder.generate(prompts, **GOLDEN | {"max_batch": 4, "max_new_tokens": 40})
    assert sum(tape.replays for tape in taped.made) > 20
    want = Decoder(model).generate(prompts, cuda_graphs=False, **GOLDEN | {"max_new_tokens": 40})
    assert results(got) == results(want)
    store = decoder._kept.engine.store
    spare = [lane.slots.spare for lane in decoder._kept.engine.lanes.values()]
    taken = sum(extent.size for extent in [*store.prefixes.unused, *spare])
    assert store.extents.free.count(False) * store.extents.unit == taken


def test_free_slots_are_left_alone(model, taped, monkeypatch):
    """Rows of a graph without a request are done, even where it had only come to an EOS."""
    run, outnumbered = Lane.round, []

    def watched(self):
        finished = run(self)
        assert self.slots.blocks.done[len(self.live) :].all()
        outnumbered.append(0 < len(self.live) < self.slots.live.blocks.ids.shape[0])
        return finished

    monkeypatch.setattr(Lane, "round", watched)
    out = Decoder(model).generate(PROMPTS, **GOLDEN | {"max_batch": 7, "max_new_tokens": 60})
    assert any(stats.finish_reason == "eos" for stats in out.stats) and any(outnumbered)


def test_requests_of_their_own_settings_share_a_graph(model, taped):
    decoder = Decoder(model)
    configs = [
        decoder.config.replace(**GOLDEN | rule | {"max_new_tokens": 20 + 9 * i, "temperature": 0.0})
        for i, rule in enumerate(RULES * 2)
    ]
    out = decoder.generate(PROMPTS[:6], config=configs, max_batch=4)
    assert sum(tape.replays for tape in taped.made) > 20
    for ids, config, got in zip(PROMPTS, configs, results(out), strict=False):
        assert results(decoder.generate(ids, config=config, cuda_graphs=False)) == [got]


def test_a_shape_is_captured_when_it_comes_back(model, taped):
    """All steps of one request have the same; the first ones run as they are."""
    forwards = Decoder(model).generate(PROMPTS[0], **GOLDEN).stats[0].forwards
    (tape,) = taped.made
    assert tape.replays == forwards + 1 - graph.WARM_UP  # one forward is for nothing


def test_drafts_are_shown_without_graphs(model, taped):
    """Their logits would be gone before they are read."""
    decoder = Decoder(model)
    events = list(decoder.stream(PROMPTS[0], drafts=True, **GOLDEN))
    assert not taped.made
    assert sum(event.kind == "draft" for event in events) > 20


def test_without_a_cache_there_are_no_graphs(model, taped):
    Decoder(model).generate(PROMPTS[0], use_cache=False, **GOLDEN)
    assert not taped.made


@pytest.mark.parametrize(
    ("places", "graphs"), [((0, 0), True), ((0, 1), False), ((0, "cpu"), False)]
)
def test_a_model_over_several_devices_has_no_graphs(model, taped, monkeypatch, places, graphs):
    parts = dict(zip(("model", "lm_head"), places, strict=True))
    monkeypatch.setattr(model, "hf_device_map", parts, raising=False)
    Decoder(model).generate(PROMPTS[0], **GOLDEN)
    assert bool(taped.made) == graphs


def test_bad_logits_name_their_position(model, taped):
    """The logits of a graph are gone when the host hears of them."""

    def poisoned(**inputs):
        out = model(**inputs)
        bad = (inputs["position_ids"] == 45) & (inputs["input_ids"].shape[0] > 1)
        marked = (out.logits.argmax(-1) >= 0) & (inputs["position_ids"][:, :1] // 8 * 8 + 5 == 45)
        out.logits.masked_fill_((bad & marked)[..., None], torch.nan)
        return out

    prompts = [PROMPTS[3], PROMPTS[10][:5], PROMPTS[9]]
    options = GOLDEN | {"eos_token_id": [], "max_new_tokens": 25}
    out = Decoder(poisoned).generate(prompts, **options)
    assert sum(tape.replays for tape in taped.made) > 5
    assert [error and error.position for error in out.errors] == [45, None, None]
    assert results(out)[1:] == results(Decoder(model).generate(prompts, **options))[1:]


def test_a_model_that_cannot_be_captured_goes_on_without(model, taped, monkeypatch):
    def refuse(step, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    want = results(Decoder(model).generate(PROMPTS[:3], **GOLDEN))
    monkeypatch.setitem(graph.CAPTURE, "cpu", refuse)
    with pytest.warns(UserWarning, match=r"cannot be captured.*not permitted when.*cuda_graphs="):
        assert results(Decoder(model).generate(PROMPTS[:3], **GOLDEN)) == want
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert results(Decoder(model).generate(PROMPTS[:3], cuda_graphs=False, **GOLDEN)) == want


def test_a_capture_that_fails_is_cleaned_up(monkeypatch):
    """What torch leaves behind where `capture_end` raises: a generator that refuses to draw."""
    calls = []

    class Capture(contextlib.nullcontext):
        def __init__(self, graph, pool, stream, capture_error_mode):
            super().__init__()
            assert stream == "stream of 1" and capture_error_mode == "thread_local"

        def __exit__(self, kind, *error):
            if kind is not None:
                raise RuntimeError("operation failed due to a previous error during capture")

    class Generator:
        def get_state(self):
            return "state"

        def set_state(self, state):
            calls.append(("set", state))

        def clone_state(self):
            return "clone"

        def graphsafe_set_state(self, state):
            calls.append(("graphsafe_set", state))

    def rand(*size, device):
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    graph._capture_stream.cache_clear()
    for name, value in {
        "graph_pool_handle": lambda: "pool",
        "current_device": lambda: 1,
        "CUDAGraph": object,
        "current_stream": lambda: None,
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda device: calls.append(("synchronize", device.index)),
        "Stream": lambda device: f"stream of {device}",
        "graph": Capture,
        "default_generators": [None, Generator()],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "rand", rand)

    def step():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graph, "WARM_UP", 0)
    graphs = Graphs(torch.device("cuda", 1), wanted=True)
    graphs.captured["earlier"] = "broken by it"
    with (
        pytest.warns(UserWarning, match=r"\(operation not permitted"),
        pytest.raises(RuntimeError, match="not permitted"),
    ):
        graphs.run("key", step)
    graph._capture_stream.cache_clear()
    assert calls[:2] == [("graphsafe_set", "clone"), ("set", "state")]
    assert calls[2:] == [("synchronize", 1)] and not graphs.captured


def test_a_step_that_waits_is_found_out_before_it_is_captured(taped, monkeypatch):
    strict = []

    @contextlib.contextmanager
    def rehearsal():
        strict.append(True)
        try:
            yield
        finally:
            strict.pop()

    def step():
        if strict:
            raise RuntimeError("called a synchronizing CUDA operation")
        return "done"

    monkeypatch.setitem(graph.REHEARSAL, "cpu", rehearsal)
    taped.made.clear()
    graphs = Graphs(torch.device("cpu"), wanted=True)
    assert [graphs.run("key", step) for _ in range(graph.WARM_UP - 1)] == ["done"]
    with pytest.warns(UserWarning, match=r"\(called a synchronizing"):
        assert graphs.run("key", step) == "done"
    assert [graphs.run("key", step) for _ in range(3)] == ["done"] * 3
    assert not taped.made and not strict


def test_memory_that_runs_out_in_a_capture(model, taped, monkeypatch):
    """Half as many requests go on, from new graphs, with the same results."""
    refused = []

    def short(step, pool):
        if not refused:
            refused.append(step)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Tape(step, pool)

    want = results(Decoder(model).generate(PROMPTS[:4], **GOLDEN))
    monkeypatch.setitem(graph.CAPTURE, "cpu", short)
    taped.made.clear()
    got = results(Decoder(model).generate(PROMPTS[:4], **GOLDEN))
    assert [ids for ids, _ in got] == [ids for ids, _ in want]
    assert refused and sum(tape.replays for tape in taped.made) > 20


def test_shapes():
    """Few shapes, none too small, none beyond what there is room for."""
    rows = [graph_shape(n, 1, 100)[0] for n in (1, 2, 3, 4, 5, 8, 9, 33, 99, 100)]
    assert rows == [1, 2, 4, 4, 8, 8, 16, 40, 100, 100]
    reaches = [graph_shape(1, n, 100)[1] for n in (1, 256, 257, 512, 513, 999)]
    assert reaches == [256, 256, 512, 512, 1024, 1024]


def test_cleared_graphs_are_captured_anew(taped):
    """What they work on has moved."""
    graphs = Graphs(torch.device("cpu"), wanted=True)
    counter = torch.zeros(())
    for _ in range(5):
        graphs.run("key", lambda: counter.add_(1))
    counter = torch.zeros(())
    graphs.clear()
    for _ in range(5):
        graphs.run("key", lambda: counter.add_(1))
    assert counter == 5 and [tape.replays for tape in taped.made] == [3, 3]
