"""A merged checkpoint decodes what its adapter does, and takes along what belongs to it."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("peft")

from fastedit import Decoder
from fastedit.heads import CorrectionHead, CorrectionHeadConfig
from fastedit.models.adapters import save_control_tokens
from fastedit.training.merge import merge
from fastedit.training.runs.lora import add_lora

PROMPT = [{"role": "user", "content": "27 + 45 - 86 ="}]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run's folder: an adapter with rows and ids of new control tokens, and a head beside it."""
    folder = tmp_path_factory.mktemp("run")
    decoder = Decoder.from_pretrained("tiny", device="cpu")
    model, tokenizer = decoder.model, decoder.tokenizer
    tokenizer.add_tokens(["<|del|>", "<|ins|>"], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = tokenizer.convert_tokens_to_ids(["<|del|>", "<|ins|>"])
    model.config.delete_token_id, model.config.insert_token_id = ids
    torch.manual_seed(0)
    head = CorrectionHead(CorrectionHeadConfig.of(model.config, "block_causal", depth=1))
    head.save_pretrained(folder / "head")
    adapted = add_lora(model, rank=4, tokens=ids)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(folder / "adapter")
    save_control_tokens(model.config, folder / "adapter")
    return folder, ids


def test_tokens_rows_and_ids_are_those_of_the_adapter(run_folder, tmp_path):
    folder, ids = run_folder
    merged = merge("tiny", folder / "adapter", tmp_path / "new" / "whole")
    assert merged.folder == tmp_path / "new" / "whole" and merged.left is None
    assert [path.name for path in merged.folder.parent.iterdir()] == ["whole"]
    adapted = Decoder.from_pretrained("tiny", adapter=folder / "adapter", device="cpu")
    whole = Decoder.from_pretrained(merged.folder, head=merged.head, device="cpu")
    options = {"policy": "joint_threshold_indel", "max_new_tokens": 64, "eos_token_id": []}
    one, two = adapted.generate(PROMPT, **options), whole.generate(PROMPT, **options)
    assert one.sequences[0].tolist() == two.sequences[0].tolist()
    base = Decoder.from_pretrained("tiny", device="cpu")
    plain = {"max_new_tokens": 64, "eos_token_id": []}
    assert whole.generate(PROMPT, **plain).texts != base.generate(PROMPT, **plain).texts
    config = json.loads((merged.folder / "config.json").read_text())
    assert [config["delete_token_id"], config["insert_token_id"]] == ids
    assert whole.tokenizer.convert_tokens_to_ids("<|ins|>") == ids[1]
    assert (merged.folder / "chat_template.jinja").exists()
    weights = adapted.model.state_dict()
    assert all(torch.equal(weights[name], x) for name, x in whole.model.state_dict().items())


@pytest.mark.parametrize("there", ["folder", "file", "nothing"])
def test_nothing_is_overwritten_and_a_failure_leaves_nothing(run_folder, tmp_path, there, run):
    target, adapter = tmp_path / "whole", run_folder[0] / "adapter"
    arguments = ["merge", "--adapter", adapter, "--output", target]
    if there == "folder":
        target.mkdir()
    elif there == "file":
        target.write_text("mine")
    else:
        arguments += ["--head", tmp_path / "nowhere"]
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert (f"{target} exists: give a new folder" if there != "nothing" else "nowhere") in err
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([] if there == "nothing" else ["whole"])


def test_the_command_says_what_came_along(run_folder, tmp_path, run):
    target = tmp_path / "whole"
    code, _, err = run("merge", "--adapter", run_folder[0] / "adapter", "--output", target)
    assert code == 0
    assert f"its head came along, into {target / 'head'}" in err
    assert f"fastedit generate --checkpoint {target} --head {target / 'head'} ..." in err
    assert run("merge")[2] == "fastedit: missing: --adapter, --output\n"
