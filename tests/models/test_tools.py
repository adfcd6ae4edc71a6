"""Other tools around the modules: what accelerate, peft and torch ask of a model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload, dispatch_model
from small import IDS, close, logits, random_ids, tiny
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fastedit.decoder import Decoder
from fastedit.models.llada2 import LLaDA2MoeModelLM

ON_DISK = {
    "model.word_embeddings": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.norm": "disk",
    "lm_head": "disk",
}


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
