"""How many requests fit into the memory of a device."""

import math
from types import SimpleNamespace

import pytest
import torch

from fastedit import DecodeConfig
from fastedit.memory import capacity as counting
from fastedit.memory.capacity import Capacity, Room, capacity
from fastedit.models.families import Family


@pytest.fixture
def card(monkeypatch):
    """A CUDA device with 10 GB free, of which torch holds 1 GB unused and 1 GB in use besides."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9_000_000_000, 20_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000_000_000)
    return torch.device("cuda")


SIZES = {
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "hidden_size": 2048,
    "vocab_size": 157184,
}


def model_of(dtype=torch.bfloat16, **sizes):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    return SimpleNamespace(config=SimpleNamespace(**sizes), parameters=lambda: iter([weight]))


def room(max_batch="auto", family=None, **options):
    return Room.of(max_batch, [DecodeConfig(**options)], family or Family())


def test_auto_counts_the_bytes_of_keys_values_logits_and_activations(card):
    had = capacity(room(), model_of(**SIZES), card)
    # Of a position of LLaDA2-mini in bfloat16, here without its experts.
    activations = 2 * (8 * 2048 + 3 * 4 * 2048) * 2
    assert had.memory == counting.SHARE * 10_000_000_000 - 2048 * activations
    # 40 KiB of keys and values per position, 8 KiB for attention.
    assert had.per_position == 2 * 20 * 4 * 128 * 2 + 2 * 16 * 128 * 2
    assert had.per_request == 32 * (3 * 157184 * 4 + activations)
    for length in (512, 4096, 32768):
        rows = int(had.memory // (had.per_request + length * had.per_position))
        assert had.holds(rows, rows * length) and not had.holds(rows + 1, (rows + 1) * length)
    assert not had.holds(counting.MOST + 1, 1)
    wide = capacity(room(lookahead=True), model_of(**SIZES), card)
    assert wide.per_request == 2 * had.per_request
    double = capacity(room(), model_of(torch.float32, **SIZES), card)
    assert double.per_position == 2 * had.per_position and double.memory < had.memory
    routed = {"num_experts_per_tok": 8, "moe_intermediate_size": 512, "intermediate_size": 5120}
    experts = capacity(room(), model_of(**SIZES | routed), card)
    of_a_position = 2 * (8 * 2048 + 3 * 5120 + 8 * (2 * 2048 + 3 * 512)) * 2
    assert 200 * 1024 < of_a_position == experts.per_request // 32 - 3 * 157184 * 4
    whole = capacity(room(use_cache=False), model_of(**SIZES), card)
    assert capacity(room(family=Family(attention="full")), model_of(**SIZES), card) == whole
    assert (whole.per_request, whole.per_position) == (0, 3 * 157184 * 4 + activations)


def test_auto_without_sizes_or_on_a_cpu_is_a_constant(card):
    for model, device in (
        (model_of(**SIZES), torch.device("cpu")),
        (lambda **inputs: None, card),
        (model_of(vocab_size=100), card),
    ):
        assert capacity(room(), model, device) == Capacity(counting.ROWS)
    assert not Capacity(counting.ROWS).counted and math.isinf(Capacity(1).memory)
    assert capacity(room(500), model_of(**SIZES), card) == Capacity(500)
