"""LLaDA2.2's block routing under the engine: a row is routed by its own block alone."""

import torch

from fastedit import Decoder
from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM

OPTIONS = {"block_length": 8, "max_new_tokens": 20, "mask_token_id": 60, "eos_token_id": []}


def pooled_model() -> LLaDA2MoeModelLM:
    torch.manual_seed(0)
    config = LLaDA2MoeConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=16,
        num_experts_per_tok=2,
        n_group=4,
        topk_group=2,
        expert_capacity=4,
        block_size=8,
        initializer_range=0.3,
        max_position_embeddings=256,
    )
    return LLaDA2MoeModelLM(config).eval()


def test_ragged_rows_equal_their_solo_results_cached_or_not():
    decoder = Decoder(pooled_model())
    generator = torch.Generator().manual_seed(1)
    lengths = (3, 17, 8, 30)
    prompts = [torch.randint(60, (length,), generator=generator) for length in lengths]
    alone = [decoder.generate(prompt, **OPTIONS).sequences[0].tolist() for prompt in prompts]
    for how in ({"use_cache": True}, {"use_cache": False}, {"lookahead": True}):
        together = decoder.generate(prompts, **how, **OPTIONS)
        assert [ids.tolist() for ids in together.sequences] == alone
    for prompt, ids in zip(prompts, alone, strict=True):
        assert decoder.generate(prompt, lookahead=True, **OPTIONS).sequences[0].tolist() == ids
