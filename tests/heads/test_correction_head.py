"""The correction head by itself: what it sees, and how it is stored."""

import dataclasses
import json
import re

import pytest
import torch

from fastedit.heads import CorrectionHead, CorrectionHeadConfig

SHAPES = {
    "two blocks": {},
    "narrow": {"width": 8, "depth": 1, "intermediate_size": 12, "layer": 0},
    "probe": {"depth": 0},
}


def head_of(**options) -> CorrectionHead:
    torch.manual_seed(1)
    return CorrectionHead(CorrectionHeadConfig(hidden_size=16, **options)).eval()


def hidden_of(rows: int = 2, length: int = 8) -> torch.Tensor:
    return torch.randn(rows, length, 16, generator=torch.Generator().manual_seed(2)) * 9


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_stored_head_is_the_same_head(shape, tmp_path):
    head = head_of(**SHAPES[shape])
    head.save_pretrained(tmp_path)
    again = CorrectionHead.from_pretrained(tmp_path)
    assert again.config == head.config and not again.training
    assert torch.equal(again(hidden_of()), head(hidden_of()))
    assert all(weights.requires_grad for weights in again.parameters())
    narrow = CorrectionHead.from_pretrained(tmp_path, dtype=torch.bfloat16)
    logits = narrow(hidden_of().to(torch.bfloat16))
    assert logits.dtype == torch.float32 and logits.shape == (2, 8)
    assert torch.allclose(logits, head(hidden_of()), atol=0.05)


@torch.no_grad()
def test_a_position_sees_what_the_mask_lets_it_and_where_that_stands():
    head, hidden = head_of(), hidden_of()
    for weights in head.blocks.parameters():  # a fresh one hardly looks around
        weights.mul_(10)
    alone = head(hidden[:, :4], position_ids=torch.arange(400, 404)[None])
    blocks = torch.arange(8) // 4
    mask = (blocks[:, None] == blocks)[None, None]
    assert torch.allclose(head(hidden, mask)[:, :4], alone, atol=1e-4)
    assert not torch.allclose(head(hidden)[:, :4], alone, atol=1e-4)
    moved = head(hidden[:, [1, 0, 2, 3]])[:, [1, 0, 2, 3]]
    assert not torch.allclose(moved, head(hidden[:, :4]), atol=1e-4)
    probe = head_of(depth=0)
    assert torch.equal(probe(hidden, mask), probe(hidden))


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"width": 8, "depth": 0},
        {"depth": -1},
        {"num_heads": 3},
        {"num_heads": 16},
        {"intermediate_size": 1.5},
        {"layer": -1},
        {"layer": "last"},
        {"attention": "block_causal"},
        {"eps": 0},
        {"base": 7},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_raise_with_their_name(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=name):
        CorrectionHeadConfig(hidden_size=16, **options)


def test_the_layer_is_an_index_into_hidden_states():
    for layer, block in ((-2, 3), (0, 0), (2, 2), (-5, 0)):
        assert CorrectionHeadConfig(hidden_size=16, layer=layer).input_of(4) == block
    for layer in (4, -6):
        with pytest.raises(ValueError, match=f"layer={layer}.*0 to 3"):
            CorrectionHeadConfig(hidden_size=16, layer=layer).input_of(4)


@dataclasses.dataclass
class Base:
    hidden_size: int = 16
    model_type: str = "llada2_moe"
    num_hidden_layers: int = 4
    vocab_size: int = 64


def test_another_base_is_told_from_its_own():
    config = CorrectionHeadConfig.of(Base(), "full", depth=0)
    assert config.attention == "full" and config.depth == 0
    head = CorrectionHead(config)
    head.check_base(Base())
    head.check_base(object())  # says nothing of itself
    for other in (Base(hidden_size=8), Base(model_type="sdar"), Base(num_hidden_layers=5)):
        with pytest.raises(ValueError, match="made for a model with"):
            head.check_base(other)


def _config_without(key):
    return lambda folder: _rewrite(folder, lambda values: values.pop(key))


def _rewrite(folder, change):
    file = folder / "correction_head.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def _poison(folder):
    head = head_of()
    with torch.no_grad():
        head.score.weight[0, 0] = torch.nan
    head.save_pretrained(folder)


WEIGHTS = "correction_head.safetensors"
DAMAGE = {
    "no config": (lambda f: (f / "correction_head.json").unlink(), "has no correction_head.json"),
    "no JSON": (lambda f: (f / "correction_head.json").write_text("{"), "is not JSON"),
    "other head": (lambda f: _rewrite(f, lambda v: v.update(head="x")), "of a head 'x'"),
    "unknown field": (lambda f: _rewrite(f, lambda v: v.update(x=1)), "does not know 'x'"),
    "no width": (_config_without("hidden_size"), "needs 'hidden_size'"),
    "bad value": (lambda f: _rewrite(f, lambda v: v.update(depth=-1)), "depth must be"),
    "other sizes": (
        lambda f: _rewrite(f, lambda v: v.update(hidden_size=32)),
        "not of one head",
    ),
    "fewer blocks": (lambda f: _rewrite(f, lambda v: v.update(depth=1)), "not of one head"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "safetensors only"),
    "cut": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:99]), "damaged"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "is empty"),
    "diverged": (_poison, "NaN or infinity"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_is_not_whole_says_what_is_wrong(damage, tmp_path):
    head_of().save_pretrained(tmp_path)
    change, words = DAMAGE[damage]
    change(tmp_path)
    with pytest.raises(OSError, match=re.escape(words)) as caught:
        CorrectionHead.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_folder_is_no_head(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        CorrectionHead.from_pretrained(tmp_path / "nowhere")
    assert not CorrectionHead.is_in(tmp_path)
