"""DiffusionGemma's door: transformers' `generate` of that model, with our decision in it.

    from fastedit.integrations.diffusion_gemma import generate

    out = generate(model, **inputs, max_new_tokens=256, seed=0)

The encoder, the decoder and what it is conditioned on are the model's. A step reads the logits for
its decision and divides them by the temperature in place; it makes nothing else of their size.
Source: transformers 5.24.0, `models/diffusion_gemma/generation_diffusion_gemma.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

try:
    from transformers import DiffusionGemmaGenerationOutput

    from fastedit.integrations.diffusion_gemma.settings import (
        IMAGES,
        chosen_policy,
        new_tokens,
        seeds_of,
        settings_of,
    )
except ImportError as error:
    raise ImportError(
        "fastedit.integrations.diffusion_gemma needs a transformers with "
        f"DiffusionGemmaForBlockDiffusion, which 5.13 to 5.24 have: {error}"
    ) from error
from fastedit import policies
from fastedit.integrations.arguments import check_values
from fastedit.policies import EntropyBound, State
from fastedit.results import BadLogitsError

# transformers 5.24 has another name for it, in calls and in results.
_FIELDS = {field.name for field in fields(DiffusionGemmaGenerationOutput)}
CACHE = "cache" if "cache" in _FIELDS else "past_key_values"


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    policy: EntropyBound | str = "entropy_bound",
    seed: int | Sequence[int] | None = None,
    streamer: Any = None,
    cache: Any = None,
    generation_config: Any = None,
    **given: Any,
) -> Any:
    """Decode `input_ids` [B, P], padded on the left with an attention mask, as the model's own
    `generate` does: canvas by canvas, each of them whole.

    policy    `entropy_bound`; what its text leaves open is the generation config's
    seed      of the draws, which are keyed by it and by the position behind the row's padding: one
              for all rows, or one each; None: fresh ones, which follow `torch.manual_seed`
    streamer  one of transformers: `put` for the prompt and each canvas, `put_draft` for each step
    cache     of earlier tokens, as in a result; the attention mask covers these as well
    given     fields of `DiffusionGemmaGenerationConfig` (`max_new_tokens`, `eos_token_id`, ...),
              and images as the processor returns them

    Returns a `DiffusionGemmaGenerationOutput`, or with `return_dict_in_generate=False` its
    `sequences` [B, P + new] alone. Rows with an EOS have the pad token behind it and take no more
    steps; without a pad token they go on, as released. Raises TypeError for another model,
    ValueError for another policy, an argument that is not known, and wrong shapes, and
    BadLogitsError where the model returns NaN or infinity.
    """
    earlier = given.pop("past_key_values", None)
    cache = cache if earlier is None else earlier
    settings = settings_of(model, generation_config, given)
    rule = chosen_policy(policy, settings, given)
    eos, pad_id = settings.get("eos_token_id"), settings.get("pad_token_id")
    checked = {"input_ids": input_ids, "streamer": streamer, "pad_token_id": pad_id}
    checked |= {"attention_mask": attention_mask} if cache is None else {}
    check_values(checked, model.config.text_config.vocab_size)
    (rows, prompt), size, device = input_ids.shape, model.config.canvas_length, input_ids.device
    seeds = seeds_of(seed, rows).to(device)
    if cache is None:
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    length = prompt + int(cache.get_seq_length())
    canvases = -(-new_tokens(settings, length) // size)
    if attention_mask is None:
        attention_mask = torch.ones((rows, length), device=device)
    if attention_mask.shape != (rows, length):
        raise ValueError(
            f"attention_mask must be [{rows}, {length}], what the cache has included; "
            f"got {list(attention_mask.shape)}"
        )
    mask, images = attention_mask.bool(), {name: given[name] for name in IMAGES if name in given}
    ends = torch.tensor([] if eos is None else eos, dtype=torch.int64, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    forwards = torch.zeros(rows, dtype=torch.int32, device=device)
    if streamer is not None:
        streamer.put(input_ids.cpu())
    ids = unread = input_ids
    for _ in range(canvases):
        _encode(model, unread, mask, cache, images)
        state, images = _canvas(model, rule, mask.sum(-1), seeds), {}
        if pad_id is not None:
            state.done.copy_(finished)
            state.buffers.best.masked_fill_(finished[:, None], pad_id)
        mask = pad(mask, (0, size), value=True)
        _denoise(model, rule, state, mask, cache, streamer)
        forwards += state.counts.forwards.masked_fill(finished, 0)

        unread = state.buffers.best
        last = torch.isin(unread, ends)
        finished = finished | last.any(-1)
        if pad_id is not None:
            unread.masked_fill_(last.cumsum(-1) > last, pad_id)
        ids = torch.cat((ids, unread), dim=-1)
        if streamer is not None:
            streamer.put(unread.cpu())
        if ids.shape[1] >= (settings.get("max_length") or torch.inf) or finished.all():
            break
    if streamer is not None:
        streamer.end()
    if not settings.get("return_dict_in_generate", True):
        return ids
    new = ids[:, prompt:]
    tokens = new.shape[1] if pad_id is None else (new != pad_id).sum(-1)
    found = {"sequences": ids, "tokens_per_forward": tokens / forwards, CACHE: cache}
    return DiffusionGemmaGenerationOutput(**found)


def _encode(model: Any, ids: Tensor, mask: Tensor, cache: Any, images: dict[str, Any]) -> None:
    """Keys and values of `ids` [B, n] into the cache: the last of the tokens of `mask` [B, T]."""
    encoder, total = model.model.encoder, mask.shape[1]
    positions = torch.arange(total - ids.shape[1], total, dtype=torch.int32, device=ids.device)
    given = {"position_ids": positions[None], CACHE: cache}
    masks = encoder.create_masks_for_generate(
        config=model.config,
        inputs_embeds=torch.empty((*ids.shape, 0), dtype=model.dtype, device=ids.device),
        attention_mask=mask,
        mm_token_type_ids=images.get("mm_token_type_ids"),
        **given,
    )
    encoder(input_ids=ids, attention_mask=masks, **given, **images)


def _canvas(model: Any, rule: EntropyBound, start: Tensor, seeds: Tensor) -> State:
    """Canvases of noise behind `start` [B] tokens; decisions are on logits with a temperature."""
    ids = start.new_zeros(len(start), model.config.canvas_length)
    state = policies.open(replace(rule, t_min=1.0, t_max=1.0), ids, mask_token_id=-1, start=start)
    state.sampling.seed.copy_(seeds)
    state.vocab = model.config.text_config.vocab_size
    state.ids.copy_(rule.open(state))
    return state


def _denoise(
    model: Any, rule: EntropyBound, state: State, mask: Tensor, cache: Any, streamer: Any
) -> None:
    """Steps until all canvases of `state`, the last of the tokens of `mask` [B, T], are done."""
    decoder, total = model.model.decoder, mask.shape[1]
    first, dtype = total - state.length, decoder.embed_tokens.weight.dtype
    positions = torch.arange(first, total, dtype=torch.int32, device=mask.device)
    masks = decoder.create_diffusion_decoder_attention_mask(
        config=model.config,
        inputs_embeds=state.ids[..., None],
        decoder_attention_mask=mask,
        **{CACHE: cache},
    )
    given = {"decoder_position_ids": positions[None], "decoder_attention_mask": masks, CACHE: cache}
    before: Any = None
    done: list[int] = []
    for left in range(rule.steps, 0, -1):
        logits = model(decoder_input_ids=state.ids, self_conditioning_logits=before, **given).logits
        # fp32, rounded as transformers' LinearTemperatureScheduleLogitsProcessor does it.
        step = torch.tensor(left, dtype=torch.int32, device=mask.device)
        logits.div_(rule.t_min + (rule.t_max - rule.t_min) * (step / rule.steps))
        policies.step_(state, logits)
        for row in done:
            logits[row] = before[row]
        before = logits.to(dtype)
        del logits
        if hasattr(streamer, "put_draft"):
            with_logits = getattr(streamer, "_takes_logits", False)
            draft = {"logits": before} if with_logits else {"value": state.buffers.best}
            streamer.put_draft(**{name: value.cpu() for name, value in draft.items()})
        flags, bad = torch.stack((state.done, state.bad)).tolist()
        if any(bad):
            row = bad.index(True)
            raise BadLogitsError(
                row, first + int((~(before[row] < torch.inf)).any(-1).int().argmax())
            )
        done = [row for row, flag in enumerate(flags) if flag]
        if len(done) == len(flags):
            return
