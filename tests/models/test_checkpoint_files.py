"""Files that are not what they seem: one line that names the file and what to do."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastedit import Decoder
from fastedit.cli import main
from fastedit.models.llada2 import LLaDA2MoeModelLM

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 744312\n"
EXPERT = "model.layers.1.mlp.experts.0.up_proj.weight"


@pytest.fixture
def folder(golden, tmp_path):
    for name in ("config.json", WEIGHTS):
        shutil.copyfile(golden / name, tmp_path / name)
    return tmp_path


def shard(folder) -> None:
    LLaDA2MoeModelLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / WEIGHTS).unlink(missing_ok=True)


def config_says(**keys):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | keys))

    return change


def tensors(change):
    def rewrite(folder):
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return rewrite


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def instead(name, content=b"..."):
    def change(folder):
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(content)

    return change


def without_index(folder):
    shard(folder)
    (folder / INDEX).unlink()


def with_index(change):
    def rewrite(folder):
        shard(folder)
        change(folder)

    return rewrite


def fp8(found):
    found[EXPERT] = found[EXPERT].to(torch.float8_e4m3fn)
    found[EXPERT + "_scale_inv"] = torch.ones(1, 1)


def gptq(found):
    del found[EXPERT]
    stem = EXPERT.removesuffix("weight")
    found |= {f"{stem}qweight": torch.ones(4, 4, dtype=torch.int32)}
    found |= {f"{stem}qzeros": torch.ones(4, 4, dtype=torch.int32)}


def mlx(found):
    stem = EXPERT.removesuffix("weight")
    found[EXPERT] = torch.ones(4, 4, dtype=torch.uint32)
    found |= {f"{stem}scales": torch.ones(4), f"{stem}biases": torch.ones(4)}


def bnb(found):
    found[EXPERT] = torch.ones(4, 1, dtype=torch.uint8)
    found[f"{EXPERT}.absmax"] = torch.ones(4)


def int8(found):
    found["model.norm.weight"] = found["model.norm.weight"].to(torch.int8)


def double(found):
    found.update({name: tensor.double() for name, tensor in found.items()})


def quantised(method):
    return config_says(quantization_config={"quant_method": method, "bits": 4})


FIRST = "model-00001-of-00008.safetensors"
BAD = {
    "LFS weights": (write(WEIGHTS, POINTER.encode()), rf"{WEIGHTS}: is a Git-LFS .*git lfs pull"),
    "LFS config": (write("config.json", POINTER.encode()), r"config.json: is a Git-LFS .*git lfs"),
    "cut in the header": (cut(WEIGHTS, 300), rf"{WEIGHTS}: is truncated.*300 bytes.*download"),
    "cut in the tensors": (cut(WEIGHTS, -10), rf"{WEIGHTS}: is truncated.*download"),
    "longer": (write(WEIGHTS, b"x" * 5000), rf"{WEIGHTS}: is truncated or damaged"),
    "empty": (write(WEIGHTS, b""), rf"{WEIGHTS}: is empty"),
    "a web page": (write(WEIGHTS, b"<!DOCTYPE html><p>Not found"), rf"{WEIGHTS}: is a web page"),
    "no JSON": (write("config.json", b'{"vocab_size": 12'), r"config.json: is not JSON"),
    "no object": (write("config.json", b"[]"), r"config.json: must hold a JSON object"),
    "no index": (without_index, rf"8 of 8 shards but no {INDEX}: download it"),
    "no index of one": (
        lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors"),
        rf"no {INDEX}: rename it to {WEIGHTS}",
    ),
    "a shard is missing": (
        with_index(lambda folder: (folder / FIRST).unlink()),
        rf"{INDEX}: 1 of its 8 files are not in .*{FIRST}.*download",
    ),
    "LFS index": (with_index(write(INDEX, POINTER.encode())), rf"{INDEX}: is a Git-LFS pointer"),
    "an index of nothing": (with_index(write(INDEX, b"{}")), rf"{INDEX}: has no weight_map"),
    "an LFS shard": (with_index(write(FIRST, POINTER.encode())), rf"{FIRST}: is a Git-LFS"),
    "other name": (
        lambda folder: (folder / WEIGHTS).rename(folder / "weights.safetensors"),
        rf"neither {WEIGHTS} nor .* but weights.safetensors",
    ),
    "pickle": (instead("pytorch_model.bin"), r"safetensors only.*pytorch_model.bin.*run code"),
    "checkpoint of torch": (instead("model.pt"), r"model.pt.*run code"),
    "GGUF": (instead("model-Q4_K_M.gguf"), r"no weights.*model-Q4_K_M.gguf is another format"),
    "nothing": (lambda folder: (folder / WEIGHTS).unlink(), r"has no weights: .*safetensors"),
    "fp8": (tensors(fp8), rf"{WEIGHTS}: {EXPERT} .* F8_E4M3.*fp8 with block scales.*torchao"),
    "GPTQ": (tensors(gptq), r"I32.*GPTQ.*torchao"),
    "MLX": (tensors(mlx), r"U32.*MLX.*torchao"),
    "bitsandbytes": (tensors(bnb), r"U8.*bitsandbytes.*torchao"),
    "integers": (tensors(int8), r"model.norm.weight is stored as I8.*torchao"),
    **{
        f"{method} in the config": (quantised(method), rf"config.json: .*\({method}\).*torchao")
        for method in ("fp8", "gptq", "awq", "bitsandbytes", "compressed-tensors", "torchao")
    },
    "MLX in the config": (
        config_says(quantization={"group_size": 64, "bits": 4}),
        r"config.json: .*\(MLX\).*torchao",
    ),
    "fp64": (tensors(double), rf'{WEIGHTS}: .* float64.*dtype="float32"'),
    "fp64 in the config": (config_says(torch_dtype="float64"), r'float64.*dtype="float32"'),
    "LFS generation config": (
        write("generation_config.json", POINTER.encode()),
        r"generation_config.json: is a Git-LFS pointer",
    ),
    "an empty generation config": (
        write("generation_config.json", b""),
        r"generation_config.json: is empty",
    ),
    "LFS tokenizer": (write("tokenizer.json", POINTER.encode()), r"tokenizer.json: is a Git-LFS"),
    "LFS template": (
        write("chat_template.jinja", POINTER.encode()),
        r"chat_template.jinja: is a Git-LFS pointer",
    ),
    "no object in a side file": (write("generation_config.json", b"[]"), r"must hold a JSON obj"),
    "deep JSON": (write("tokenizer_config.json", b"[" * 100_000), r"tokenizer_config.json: is not"),
    "an index without metadata": (
        with_index(write(INDEX, b'{"weight_map": {"a": "model.safetensors"}}')),
        rf"{INDEX}: has no .*metadata",
    ),
    "an index that leaves the folder": (
        with_index(write(INDEX, b'{"metadata": {}, "weight_map": {"a": "../x.safetensors"}}')),
        r"names files outside of its folder \(\.\./x\.safetensors\)",
    ),
    "unknown dtype": (config_says(torch_dtype="bf16"), r"dtype='bf16'"),
    "labels": (config_says(id2label=3), r"this config cannot be read"),
    "no kind of model": (config_says(model_type=["llada2_moe"]), r"model_type=\['llada2_moe'\]"),
    "another model": (config_says(model_type="qwen3"), r"model_type='qwen3'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line(folder, kind, capsys):
    change, words = BAD[kind]
    change(folder)
    with pytest.raises((OSError, ValueError), match=words) as caught:
        LLaDA2MoeModelLM.from_pretrained(folder, dtype="auto")
    text = str(caught.value)
    assert "\n" not in text
    assert ("pickle" in text) == (kind in ("pickle", "checkpoint of torch"))
    if kind == "another model":  # it may have a class of its own
        return
    with pytest.raises((OSError, ValueError), match=words):
        Decoder.from_pretrained(folder)
    capsys.readouterr()
    assert main(["generate", "--checkpoint", str(folder), "1 + 1 ="]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_adapter_is_no_checkpoint(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"is an adapter.*pass this folder as adapter"):
        Decoder.from_pretrained(tmp_path)


def test_fp64_is_cast_where_a_dtype_is_given(folder, golden):
    tensors(double)(folder)
    model = Decoder.from_pretrained(folder, dtype="float32").model
    expected = LLaDA2MoeModelLM.from_pretrained(golden).state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("dtype", ["float64", "float8_e4m3fn", torch.float64, "int8", "fp33"])
def test_other_dtypes_are_refused(folder, dtype):
    with pytest.raises(ValueError, match="dtype must be auto, float32, bfloat16 or float16"):
        Decoder.from_pretrained(folder, dtype=dtype)
