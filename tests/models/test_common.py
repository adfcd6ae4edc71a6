"""What transformers' own tests ask of every model, and what accelerate, peft and torch ask."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload, dispatch_model
from safetensors import safe_open
from small import checkpointed, random_ids, tiny, tiny_config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.attention.flex_attention import flex_attention
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache
from transformers.integrations.flex_attention import WrappedFlexAttention

from fastedit.decoder import Decoder
from fastedit.models.llada2 import LLaDA2MoeModel, LLaDA2MoeModelLM

close = functools.partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
IDS = random_ids(2, 10)
CAPACITY = pytest.mark.parametrize("capacity", [None, 3])
ON_DISK = {
    "model.word_embeddings": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.norm": "disk",
    "lm_head": "disk",
}


def logits(model, *args, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).logits


# Weights in and out


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


# One forward, said in different ways


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", [None, "left", "right"])
@pytest.mark.parametrize("attn", ["eager", "flex_attention"])
def test_attention_implementations_agree(monkeypatch, attn, mask):
    """flex_attention is not compiled: torch 2.13 compiles it wrongly for CPUs with AVX2."""
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda self: flex_attention)
    model, padding = tiny(), None
    if mask:
        padding = torch.ones_like(IDS)
        padding[0, slice(3) if mask == "left" else slice(-3, None)] = 0
    expected = logits(model, IDS, attention_mask=padding)
    model.set_attn_implementation(attn)
    found = logits(model, IDS, attention_mask=padding)
    seen = slice(None) if padding is None else padding.bool()
    close(found[seen], expected[seen])


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_experts_implementations_agree(experts):
    model, ids = tiny(), random_ids(2, 50)  # too many tokens for all experts on all of them
    expected = logits(model, ids)
    model.set_experts_implementation(experts)
    close(logits(model, ids), expected)


@CAPACITY
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side, capacity):
    model = tiny(expert_capacity=capacity)
    ids = random_ids(1, 9)
    pad, ones = torch.full((1, 5), 7), torch.ones(1, 9, dtype=torch.long)
    order = [pad, ids] if side == "left" else [ids, pad]
    marks = [torch.zeros_like(pad), ones] if side == "left" else [ones, torch.zeros_like(pad)]
    batch = torch.cat([torch.cat(order, 1), random_ids(1, 14)])
    mask = torch.cat([torch.cat(marks, 1), torch.ones(1, 14, dtype=torch.long)])
    found = logits(model, batch, attention_mask=mask)
    assert found.isfinite().all()
    close(found[:1, 5:] if side == "left" else found[:1, :9], logits(model, ids))


def test_embeddings_stand_in_for_ids():
    model = tiny()
    embeds = model.get_input_embeddings()(IDS)
    assert torch.equal(logits(model, inputs_embeds=embeds), logits(model, IDS))
    for wrong in ({}, {"input_ids": IDS, "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="exactly one"):
            model(**wrong)


def test_the_same_again_and_in_training_mode():
    model = tiny()
    expected = logits(model, IDS)
    assert torch.equal(logits(model, IDS), expected)
    assert torch.equal(logits(model.train(), IDS), expected)


def test_tuples_hold_what_the_output_holds():
    model = tiny("eager")
    asked = {"output_hidden_states": True, "output_attentions": True, "use_cache": True}
    with torch.no_grad():
        whole, parts = model(IDS, **asked), model(IDS, **asked, return_dict=False)
        assert isinstance(parts, tuple) and len(parts) == len(whole.to_tuple()) == 4
        assert torch.equal(parts[0], whole.logits)
        model.config.return_dict = False
        # With a cache, too: keys then lie elsewhere, and a matrix product may round otherwise.
        assert torch.equal(model(IDS, use_cache=True)[0], whole.logits)
        whole_again = model(IDS, use_cache=True, return_dict=True)
        assert torch.equal(whole_again.logits, whole.logits)


# What is returned beside the logits


def test_hidden_states_and_attentions():
    model = tiny("eager")
    with torch.no_grad():
        output = model(IDS, output_hidden_states=True, output_attentions=True, use_cache=True)
        trunk = model.model(IDS, use_cache=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 10, 32)] * 4
    assert torch.equal(output.hidden_states[0], model.model.word_embeddings(IDS))
    assert torch.equal(output.hidden_states[-1], trunk.last_hidden_state)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 10, 10)] * 3
    for weights in output.attentions:
        close(weights.sum(-1), torch.ones(2, 4, 10))
        assert not weights[..., :4, 4:].any() and not weights[..., 4:8, 8:].any()
    cache = output[next(name for name in ("cache", "past_key_values") if name in output)]
    assert isinstance(cache, DynamicCache) and cache.get_seq_length() == 10
    assert logits(model, IDS[:, :2], past_key_values=cache).shape == (2, 2, 64)


def test_gradients_reach_what_is_returned():
    model = tiny("eager")
    output = model(IDS, output_hidden_states=True, output_attentions=True)
    for tensor in (*output.hidden_states, *output.attentions):
        tensor.retain_grad()
    output.logits[0, -1].sum().backward(retain_graph=True)
    for tensor in (*output.hidden_states, *output.attentions):
        assert tensor.grad.any()
    model.zero_grad()
    output.attentions[2].square().sum().backward()
    attention = model.model.layers[2].attention
    query, key, value = attention.query_key_value.weight.grad.split((64, 32, 32))
    assert query.any() and key.any() and not value.any()
    assert attention.query_layernorm.weight.grad.any()
    assert attention.key_layernorm.weight.grad.any()


def test_attentions_need_an_implementation_that_has_them():
    model = tiny()
    for asked in ({"output_attentions": True}, {"output_attentions": True, "return_dict": False}):
        with pytest.raises(ValueError, match=r"'sdpa'.*set_attn_implementation\(\"eager\"\)"):
            model(IDS, **asked)
        with pytest.raises(ValueError, match="'sdpa'"):
            model.model(IDS, **asked)
    assert model(IDS, output_attentions=False).attentions is None


def test_checkpointed_gradients_are_the_same():
    for reentrant in (False, True):
        grads = []
        for model in (tiny().train(), checkpointed(tiny().train(), use_reentrant=reentrant)):
            embeds = model.get_input_embeddings()(IDS)
            model(inputs_embeds=embeds, labels=IDS).loss.backward()
            grads.append([parameter.grad for parameter in model.parameters()])
        for plain, again in zip(*grads, strict=True):
            torch.testing.assert_close(plain, again)


def test_a_checkpointed_layer_writes_no_cache():
    model = checkpointed(tiny().train(), use_reentrant=False)
    cache = DynamicCache(config=model.config)
    model(IDS, past_key_values=cache, labels=IDS).loss.backward()
    assert cache.get_seq_length() == 0


# Other tools around the modules


def test_weights_on_the_cpu_come_to_their_modules():
    model = tiny()
    for ids in (IDS, random_ids(4, 40)):  # both ways of running the experts
        expected = logits(model, ids)
        for buffers in (False, True):
            there = cpu_offload(copy.deepcopy(model), torch.device("cpu"), offload_buffers=buffers)
            assert all(parameter.is_meta for parameter in there.parameters())
            assert torch.equal(logits(there, ids), expected)


def test_weights_on_disk_come_to_their_modules(tmp_path):
    model = tiny()
    expected = logits(model, IDS)
    there = disk_offload(copy.deepcopy(model), str(tmp_path / "all"), torch.device("cpu"))
    assert torch.equal(logits(there, IDS), expected)
    parts = dispatch_model(
        copy.deepcopy(model), ON_DISK, main_device="cpu", offload_dir=str(tmp_path / "parts")
    )
    assert torch.equal(logits(parts, IDS), expected)
    model.save_pretrained(tmp_path / "saved")
    loaded = LLaDA2MoeModelLM.from_pretrained(
        tmp_path / "saved", device_map=ON_DISK, offload_folder=tmp_path / "loaded"
    )
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu", "meta"}
    assert torch.equal(logits(loaded, IDS), expected)
    options = {"max_new_tokens": 6, "block_length": 4, "mask_token_id": 63, "eos_token_id": 1}
    prompt = random_ids(1, 5, vocab=60)
    everything = LLaDA2MoeModelLM.from_pretrained(
        tmp_path / "saved", device_map={"": "disk"}, offload_folder=tmp_path / "everything"
    )
    on_cpu = cpu_offload(copy.deepcopy(model), torch.device("cpu"))
    want = Decoder(model).generate(prompt, **options).sequences[0]
    for other in (loaded, everything, on_cpu):
        assert Decoder(other).device == torch.device("cpu")
        assert torch.equal(Decoder(other).generate(prompt, **options).sequences[0], want)


def test_every_parameter_is_read_inside_a_call_of_its_module():
    """Whatever acts around a call, such as hooks of offloading and sharding, sees each weight."""
    for model, ids in ((tiny(), IDS), (tiny(), random_ids(4, 40)), (tiny("eager"), IDS)):
        called = set()
        for module in model.modules():
            module.register_forward_pre_hook(lambda module, _, called=called: called.add(module))
        model(ids, labels=ids)
        for name, module in model.named_modules():
            assert module in called or not list(module.parameters(recurse=False)), name


def test_every_module_may_be_sharded_alone(tmp_path):
    """FSDP2: the parameters of a module are whole during its call and no longer."""
    model, ids = tiny(), IDS
    expected = logits(model, ids)
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", world_size=1, rank=0)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for module in reversed(list(model.modules())):
            if any(True for _ in module.parameters(recurse=False)):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert torch.equal(logits(model, ids), expected)
        model(ids, labels=ids).loss.backward()
        assert all(parameter.grad.full_tensor().any() for parameter in model.parameters())
    finally:
        dist.destroy_process_group()


def test_tuned_norms_of_queries_and_keys():
    from peft import LNTuningConfig, get_peft_model

    model = tiny()
    before = logits(model, IDS)
    tuned = get_peft_model(
        model, LNTuningConfig(target_modules=["query_layernorm", "key_layernorm"])
    )
    torch.testing.assert_close(logits(tuned, IDS), before)
    tuned(IDS, labels=IDS).loss.backward()
    trained = [p for p in tuned.parameters() if p.requires_grad]
    assert len(trained) == 6 and all(p.grad.any() for p in trained)
    with torch.no_grad():
        for parameter in trained:
            parameter *= torch.linspace(0.5, 2, len(parameter))
    after = logits(tuned, IDS)
    assert not torch.allclose(after, before, atol=1e-2)
    close(logits(tuned.merge_and_unload(), IDS), after)


def test_virtual_tokens_of_peft():
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    for kind in (PromptTuningConfig, PrefixTuningConfig):
        model = get_peft_model(tiny(), kind(task_type="CAUSAL_LM", num_virtual_tokens=4))
        loss = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS).loss
        loss.backward()
        assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


B, Q = torch.export.Dim("B", min=1, max=64), torch.export.Dim("Q", min=2, max=512)
PACKED = torch.tensor([[0, 1, 2, 3, 4, 0, 0, 1, 2, 3]]).expand(2, -1)
EXPORTED = {
    "ids": {},
    "padding": {"attention_mask": torch.ones(2, 10, dtype=torch.long)},
    "mask": {
        "attention_mask": torch.ones(2, 1, 10, 10, dtype=torch.bool),
        "position_ids": torch.arange(10).expand(2, 10),
    },
    "packed": {"position_ids": PACKED},
}


@pytest.mark.parametrize(
    ("given", "strict", "overrides"),
    [
        ("ids", True, {}),
        pytest.param("padding", False, {"num_experts": 32}, marks=pytest.mark.slow),
        ("mask", False, {}),
        ("packed", False, {"expert_capacity": 3}),
    ],
)
def test_one_exported_program_for_any_batch_and_length(given, strict, overrides):
    model = tiny(num_hidden_layers=2, **overrides)
    inputs = {"input_ids": IDS, **EXPORTED[given]}
    shapes = {
        name: {0: B, 1: Q} if tensor.ndim == 2 else {0: B, 2: Q, 3: Q}
        for name, tensor in inputs.items()
    }
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=strict).module()
    for batch, length in ((2, 10), (1, 3), (3, 70)):
        case = {"input_ids": random_ids(batch, length)}
        for name, tensor in EXPORTED[given].items():
            if tensor.ndim == 4:
                case[name] = torch.ones(batch, 1, length, length, dtype=torch.bool)
            else:
                case[name] = tensor[:1].repeat(1, 7)[:, :length].expand(batch, -1)
        close(logits(program, **case), logits(model, **case))


def test_the_forward_compiles_without_a_break():
    model = tiny(num_hidden_layers=2)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    found = compiled(IDS, labels=IDS)
    close(found.logits, logits(model, IDS))
    found.loss.backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    for ids in (IDS, random_ids(3, 70)):
        close(logits(compiled, ids), logits(model, ids))
    torch._dynamo.reset()


def test_shards_on_disk_are_whole(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    names = [name for file in files for name in safe_open(file, "pt").keys()]  # noqa: SIM118
    assert len(names) == len(set(names))
    loaded = LLaDA2MoeModelLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, IDS), logits(model, IDS))


def test_nothing_warns():
    model = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(IDS, labels=IDS, use_cache=True).loss.backward()
        model.resize_token_embeddings(70, mean_resizing=False)
        logits(model, IDS, attention_mask=torch.ones_like(IDS))
