"""How a row is cut: splits, programs per row, odd shapes, and nothing left behind."""

import math
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastedit import ops

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = torch.finfo(torch.float32).eps
MASK = 0


def stats(backend, logits, current, **options):
    with ops.use_backend(backend):
        return ops.row_stats(logits, current, entropy=True, **options)


def fields(stats):
    """Those that were asked for, in order."""
    return [field for field in vars(stats).values() if field is not None]


def decided(backend, ids, logits, editable, **options):
    ids = ids.clone()
    state = ops.StepState.new(len(ids))
    rules = {"threshold": 0.3, "editing_threshold": 0.2, "max_post_steps": 3, "num_to_transfer": 2}
    with ops.use_backend(backend):
        ops.joint_threshold_step_(
            ids, logits, editable, state, mask_token_id=MASK, **(rules | options)
        )
    return torch.cat([ids, torch.stack([field.long() for field in state.fields()], 1)], 1)


def some_logits(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * 1.5
    favourite = torch.randint(shape[-1], (*shape[:-1], 1), generator=generator)
    strength = torch.rand(favourite.shape, generator=generator) * 2 * math.log(shape[-1])
    return logits.scatter_add(-1, favourite, strength).to(dtype)


@pytest.mark.parametrize(
    ("vocab", "width"),
    [
        *[(157184, 4912), (126464, 3952), (512, 1024), (300, 1024), (4912, 5120)],
        *[(8192, 8192), (8193, 8192), (151936, 8192), (299520, 8192), (1, 1024)],
    ],
)
def test_the_width_of_a_split_follows_from_the_vocabulary(kernels, vocab, width):
    assert kernels[0].split_width(vocab) == width


@pytest.mark.parametrize("rows", [1, 32, 128, 512, 4096])
def test_programs_are_enough_for_a_large_gpu_and_not_more(kernels, rows):
    each = kernels[0].splits_per_program(rows, 32)
    assert rows * math.ceil(32 / each) >= min(rows * 32, 528)
    assert rows * math.ceil(32 / each) <= 2 * max(rows, 1024)


@pytest.mark.parametrize("vocab", [1, 2, 31, 63, 100, 1000, 4912, 8191, 8193, 20001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_vocabularies_are_as_exact_as_the_reference(triton, poisoned, vocab, dtype):
    logits = some_logits(2, vocab, dtype=dtype)
    current = torch.tensor([vocab - 1, vocab])
    forbid = sorted({vocab // 2, vocab - 1}) if vocab > 2 else []
    got = stats(triton, logits, current, forbid=forbid)
    want = stats("reference", logits, current, forbid=forbid)
    assert torch.equal(got.token, want.token) and torch.equal(got.bad, want.bad)
    p = logits.double().softmax(-1)
    truth = {
        "prob": p.gather(-1, want.token[:, None])[:, 0],
        "prob_current": torch.stack([p[0, -1], torch.tensor(0.0).double()]),
        "lse": logits.double().logsumexp(-1),
        "entropy": torch.special.entr(p).sum(-1),
    }
    for name, true in truth.items():  # no further from it than plain fp32 torch, give or take 4 ulp
        far = (getattr(got, name).double() - true).abs()
        allowed = (getattr(want, name).double() - true).abs() + 4 * EPS * true.abs().clamp(min=1.0)
        assert (far <= allowed).all(), name


@pytest.mark.parametrize(
    ("length", "vocab"), [(1, 31), (3, 8193), (8, 63), (32, 40), (33, 5), (3, 1), (2, 4912)]
)
def test_odd_blocks_equal_the_reference(triton, poisoned, length, vocab):
    logits = some_logits(2, length, vocab, seed=length)
    ids = torch.arange(2 * length).reshape(2, length) % 3 % vocab
    editable = torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.9
    want = decided("reference", ids, logits, editable)
    assert torch.equal(decided(triton, ids, logits, editable), want)
    assert vocab == 1 or not torch.equal(want[:, :length], ids)


def test_any_view_of_the_arguments_will_do(triton, poisoned):
    buffer = some_logits(7, 5, 203)
    canvas, flags = torch.zeros(3, 12, dtype=torch.int64), torch.ones(3, 1, dtype=torch.bool)
    canvas[:, 4:9] = torch.tensor([0, 1, 0, 2, 0])
    for logits in (buffer[:3, :, 1:], buffer[::3, :, 3:100], buffer[1:2, :, 5:].expand(3, -1, -1)):
        for ids in (canvas[:, 4:9], canvas[:, 4:9].T.contiguous().T):
            editable = flags.expand(3, 5)
            want = decided("reference", ids, logits, editable)
            assert torch.equal(decided(triton, ids, logits, editable), want)


def test_a_strided_state_is_written_in_place(triton):
    state, twin = ops.StepState.new(4), ops.StepState.new(4)
    for backend, mine in ((triton, state), ("reference", twin)):
        with ops.use_backend(backend):
            ops.joint_threshold_step_(
                torch.zeros(2, 3, dtype=torch.int64),
                some_logits(2, 3, 9),
                torch.ones(2, 3, dtype=torch.bool),
                mine[::2],
                mask_token_id=MASK,
                threshold=0.1,
                editing_threshold=None,
                max_post_steps=0,
            )
    assert state.m2t_commits[0] > 0 and state.forwards.tolist() == [1, 0, 1, 0]
    for field, want in zip(state.fields(), twin.fields(), strict=True):
        assert torch.equal(field, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_several_splits_has_the_same_bits_in_any_company(triton, poisoned, dtype):
    logits = some_logits(4, 17000, dtype=dtype)
    current = torch.arange(4)

    def bits(rows):
        found = stats(triton, logits[rows], current[rows], forbid=[16999])
        return torch.stack([field.double() for field in fields(found)], 1)

    together = bits([0, 1, 2, 3])
    assert torch.equal(bits([3, 1, 0, 2]), together[[3, 1, 0, 2]])
    assert torch.equal(torch.cat([bits([r]) for r in range(4)]), together)


@pytest.mark.parametrize("per_program", [1, 2, 3])
def test_the_bits_do_not_depend_on_how_splits_are_shared_out(
    triton, poisoned, monkeypatch, per_program
):
    logits, current = some_logits(2, 20000), torch.tensor([3, 19999])
    want = stats(triton, logits, current, forbid=[7])
    monkeypatch.setattr("fastedit_kernels.row_stats.splits_per_program", lambda *_: per_program)
    got = stats(triton, logits, current, forbid=[7])
    assert all(torch.equal(a, b) for a, b in zip(fields(got), fields(want), strict=True))


def test_ties_across_splits_go_to_the_lowest_id(triton, poisoned):
    logits = torch.zeros(1, 20000)
    logits[0, [9000, 9001, 17000]] = 5.0
    assert stats(triton, logits, torch.tensor([0])).token.item() == 9000
    assert stats(triton, logits, torch.tensor([0]), forbid=[9000, 9001]).token.item() == 17000


def test_a_split_that_is_empty_or_broken_spoils_no_other(triton, poisoned):
    logits = torch.full((3, 20000), -math.inf)
    logits[:, 17000] = 1.0
    logits[1, 3] = math.nan
    logits[2, 17000] = -math.inf
    got = stats(triton, logits, torch.tensor([17000, 3, 5]))
    assert got.token.tolist() == [17000, 17000, 5]
    assert got.prob.tolist() == [1.0, 1.0, 0.0] and got.prob_current.tolist() == [1.0, 0.0, 0.0]
    assert got.bad.tolist() == [False, True, True]
    assert got.lse.tolist() == [1.0, 1.0, -math.inf] and got.entropy.tolist() == [0.0, 0.0, 0.0]


def test_rows_that_cannot_change_are_not_read(triton, kernels, monkeypatch):
    """Their splits stay as they were in the workspace."""
    _, arrivals = kernels
    works = []

    def fresh(device, spots):
        works.append(arrivals.Workspace.new(device, spots))
        works[-1].numbers.fill_(math.nan)
        return works[-1]

    monkeypatch.setattr("fastedit_kernels.joint_threshold.workspace", fresh)
    ids = torch.tensor([[MASK, MASK, 5, 5], [MASK, MASK, 5, 5]])
    editable = torch.tensor([[True, False, True, False]] * 2)
    state = ops.StepState.new(2)
    state.done[1] = True
    with ops.use_backend(triton):
        ops.joint_threshold_step_(
            ids,
            some_logits(2, 4, 50),
            editable,
            state,
            mask_token_id=MASK,
            threshold=0.0,
            editing_threshold=torch.tensor([math.inf, 0.0]),
            max_post_steps=1,
        )
    read = ~works[0].numbers[:8].isnan()
    assert read.tolist() == [True] + [False] * 7
    assert not works[0].counters.any()


def test_the_same_call_gives_the_same_result_again_and_again(triton, kernels):
    logits = some_logits(1, 2, 9000)
    ids, editable = torch.tensor([[MASK, 7]]), torch.ones(1, 2, dtype=torch.bool)
    first = decided(triton, ids, logits, editable)
    for _ in range(10):
        assert torch.equal(decided(triton, ids, logits, editable), first)


class Operations(TorchDispatchMode):
    """What torch does between the public call and the launch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("draws", [False, True])
def test_a_step_is_one_launch_and_nothing_else(triton, kernels, monkeypatch, draws):
    """What a CUDA graph asks for: no tensor is made, no value read, the same addresses again."""
    ids, editable = torch.tensor([[MASK, 7]]), torch.ones(1, 2, dtype=torch.bool)
    logits, state, launches = some_logits(1, 2, 9000), ops.StepState.new(1), []
    real, integer = torch.full((1,), 0.5), torch.ones(1, dtype=torch.int32)
    rules = {"threshold": real, "editing_threshold": real, "forbid": (3,)}
    rules |= {"max_post_steps": integer, "num_to_transfer": integer}
    if draws:
        rules["sampling"] = ops.Sampling(real, integer.long(), real, integer.long(), ids[:, 0])

    def step():
        with ops.use_backend(triton):
            ops.joint_threshold_step_(ids, logits, editable, state, mask_token_id=MASK, **rules)

    def launch(grid, *args, **constants):
        pointers = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in args]
        launches.append((grid, pointers, constants))

    step()  # makes the workspace and the list of forbidden ids
    kernel = type("Kernel", (), {"__getitem__": lambda _, grid: partial(launch, grid)})()
    monkeypatch.setattr("fastedit_kernels.joint_threshold.joint_threshold_kernel", kernel)
    step()
    with Operations() as operations:
        step()
    assert operations.seen == []
    assert len(launches) == 2 and launches[0] == launches[1]
