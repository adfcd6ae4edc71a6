"""The decision step of fastedit in somebody else's loop: `policies.open` and `policies.step_`.

    python examples/own_loop.py

The loop owns the model, its forwards and the order of blocks; a step decides in place what a block
holds next. The first block begins with the prompt's tail, which is not editable.
"""

import torch

from fastedit import Decoder, policies

BLOCK = 32


@torch.inference_mode()
def decode(model, prompt: list[int], new_tokens: int, mask_token_id: int, policy: str) -> list[int]:
    """Ids behind `prompt`, in whole blocks, at least `new_tokens` of them."""
    known, tail = prompt[: len(prompt) // BLOCK * BLOCK], prompt[len(prompt) // BLOCK * BLOCK :]
    while len(known) < len(prompt) + new_tokens:
        block = torch.tensor([tail + [mask_token_id] * (BLOCK - len(tail))])
        editable = torch.arange(BLOCK)[None] >= len(tail)
        state = policies.open(
            policy, block, editable, mask_token_id=mask_token_id, start=len(known)
        )
        while not state.done.all():
            ids = torch.cat((torch.tensor([known], dtype=torch.int64), state.ids), dim=1)
            logits = model(input_ids=ids, use_cache=False).logits[:, -BLOCK:]
            policies.step_(state, logits)
        print(policy, {name: int(number) for name, number in state.counts.items() if number})
        known, tail = known + state.ids[0].tolist(), []
    return known[len(prompt) :]


def main() -> None:
    decoder = Decoder.from_pretrained("tiny")
    tokenizer, mask = decoder.tokenizer, decoder.tokenizer.mask_token_id
    ask = "State the final answer to the following arithmetic problem: 27 + 45 - 86 ="
    chat = [{"role": "user", "content": ask}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    for policy in ("joint_threshold", "remask:tau=0.5"):
        written = decode(decoder.model, ids, 32, mask, policy)
        print(tokenizer.decode(written, skip_special_tokens=True))


if __name__ == "__main__":
    main()
