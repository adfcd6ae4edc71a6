"""Weights in and out, as transformers' own tests ask of every model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors import safe_open
from small import IDS, close, logits, random_ids, tiny, tiny_config
from transformers import AutoModel, AutoModelForCausalLM

from fastedit.models.llada2 import LLaDA2MoeModel, LLaDA2MoeModelLM

CAPACITY = pytest.mark.parametrize("capacity", [None, 3])


@CAPACITY
def test_what_is_saved_and_loaded_is_the_same(tmp_path, capacity):
    model = tiny(expert_capacity=capacity)
    model.save_pretrained(tmp_path)
    for kind in (LLaDA2MoeModelLM, AutoModelForCausalLM):
        assert torch.equal(logits(kind.from_pretrained(tmp_path), IDS), logits(model, IDS))
    trunk = AutoModel.from_pretrained(tmp_path)
    assert isinstance(trunk, LLaDA2MoeModel)
    with torch.no_grad():
        assert torch.equal(trunk(IDS).last_hidden_state, model.model(IDS).last_hidden_state)


def test_copies_and_pickles_are_the_same():
    model = tiny()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(twin, IDS), logits(model, IDS))
        assert twin.config.to_dict() == model.config.to_dict()
        with torch.no_grad():
            twin.lm_head.weight.zero_()
    assert model.lm_head.weight.any()


def test_a_model_is_made_from_its_config_alone():
    made = AutoModelForCausalLM.from_config(tiny_config())
    assert isinstance(made, LLaDA2MoeModelLM) and logits(made, IDS).isfinite().all()


def test_weights_go_into_a_model_on_the_meta_device():
    model = tiny()
    with torch.device("meta"):
        empty = LLaDA2MoeModelLM(tiny_config()).eval()
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(logits(empty, IDS), logits(model, IDS))


def test_every_parameter_is_initialised():
    with torch.device("meta"):
        model = LLaDA2MoeModelLM(tiny_config(initializer_range=0.02))
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(float("nan"))
    model.init_weights()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.isfinite().all(), name
        assert abs(tensor.mean()) < 0.01 or (tensor == 1).all(), name


@pytest.mark.parametrize("size", [50, 64, 75, 80])
def test_embeddings_are_resized_with_head_and_config(tmp_path, size):
    model, ids = tiny(), random_ids(2, 8, vocab=50)
    before = logits(model, ids)
    model.resize_token_embeddings(size, mean_resizing=False)
    assert model.config.vocab_size == model.lm_head.out_features == size
    assert model.get_input_embeddings().weight.shape == model.lm_head.weight.shape == (size, 32)
    kept = min(size, 64)
    close(logits(model, ids)[..., :kept], before[..., :kept])
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(LLaDA2MoeModelLM.from_pretrained(tmp_path), ids), logits(model, ids))
    model(ids, labels=ids).loss.backward()


def test_embeddings_and_head_are_found_and_replaced():
    model = tiny()
    assert model.get_input_embeddings() is model.model.word_embeddings
    assert model.get_output_embeddings() is model.lm_head
    model.set_input_embeddings(torch.nn.Embedding(64, 32))
    model.set_output_embeddings(torch.nn.Linear(32, 7, bias=False))
    assert logits(model, IDS).shape == (2, 10, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes(tmp_path, dtype):
    """The selection bias of the experts stays in fp32, as do the logits."""
    model = tiny()
    bias = model.model.layers[1].mlp.gate.expert_bias.uniform_(-0.1, 0.1).clone()
    model.save_pretrained(tmp_path)
    cast = model.half() if dtype == torch.float16 else model.to(dtype)
    loaded = LLaDA2MoeModelLM.from_pretrained(tmp_path, dtype=dtype)
    for other in (cast, loaded):
        assert other.dtype == other.lm_head.weight.dtype == dtype
        assert torch.equal(other.model.layers[1].mlp.gate.expert_bias, bias)
        found = logits(other, IDS)
        assert found.dtype == torch.float32 and found.isfinite().all()
        assert logits(other, IDS, upcast_logits=False).dtype == dtype
    assert torch.equal(logits(cast, IDS), logits(loaded, IDS))


def test_shards_on_disk_are_whole(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    names = [name for file in files for name in safe_open(file, "pt").keys()]  # noqa: SIM118
    assert len(names) == len(set(names))
    loaded = LLaDA2MoeModelLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))
