"""MultiBlock against the paper's loop written out plainly, without a cache, for one prompt."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache

from fastedit import DecodeConfig, Decoder, policies
from fastedit.engine import engine
from fastedit.models import Family
from fastedit.policies import MultiBlock

B, MASK, TOKENS = 8, 127, 20
LENGTHS = (17, 8)
SETTINGS = [
    MultiBlock(threshold=0.3, editing_threshold=0.2, max_post_steps=3),
    MultiBlock(threshold=0.3, editing_threshold=0.0, blocks=3, rounds=2, share=0.5),
    MultiBlock(threshold=0.6, editing_threshold=0.1, blocks=9, rounds=1, share=1.0),
    MultiBlock(threshold=0.3, editing_threshold=0.2, blocks=1, rounds=4, max_post_steps=3),
]


def prompt_of(length: int) -> torch.Tensor:
    return torch.randint(7, 90, (length,), generator=torch.Generator().manual_seed(length))


def forward(model, ids: list[int], window: int) -> torch.Tensor:
    """Logits of all positions; each sees its own block and those before, and from `window` on all
    see each other."""
    place = torch.arange(len(ids)) // B
    seen = place[:, None] >= place[None]
    seen[window:, window:] = True
    with torch.no_grad():
        return model(
            input_ids=torch.tensor([ids]), attention_mask=seen[None, None], use_cache=False
        ).logits[0]


def read(logits: torch.Tensor) -> tuple[list[int], list[float], list[float]]:
    """Best token, its probability, and the entropy, of each position."""
    logp = logits.double().log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    logp[:, MASK] = -math.inf
    best = logp.max(-1)
    return best.indices.tolist(), best.values.exp().tolist(), entropy.tolist()


def paper(model, prompt: torch.Tensor, rule: MultiBlock, tokens: int = TOKENS, draft=(), keep=()):
    """Ids, forwards and edits of the whole loop: joint threshold, then rounds over the window.

    draft: what stands behind the prompt at first; keep: positions of it that never change.
    """
    ids, first = prompt.tolist(), len(prompt) // B * B
    stop = -(-(len(prompt) + tokens) // B) * B
    ids += [*draft, *[MASK] * (stop - len(ids) - len(draft))]
    free = [i for i in range(len(prompt), stop) if i - len(prompt) not in keep]
    forwards = edits = 0
    editing = math.inf if rule.editing_threshold is None else rule.editing_threshold
    for start in range(first, stop, B):
        own = [i for i in free if start <= i < start + B]
        post = 0
        while True:
            masked = [i for i in own if ids[i] == MASK]
            if not masked:
                post += 1
                if post > rule.max_post_steps:
                    break
            token, prob, _ = read(forward(model, ids[: start + B], start))
            forwards += 1
            high = [i for i in masked if prob[i] > rule.threshold]
            if masked and len(high) < rule.num_to_transfer:
                high = sorted(masked, key=lambda i: (-prob[i], i))[: rule.num_to_transfer]
            change = [i for i in own if ids[i] not in (MASK, token[i]) and prob[i] > editing]
            edits += len(change)
            for i in high + change:
                ids[i] = token[i]
            if not masked and not change:
                break
        window = max(start - (rule.blocks - 1) * B, first)
        visible = [i for i in free if window <= i < start + B]
        reopened = editing < math.inf and rule.rounds > 0
        for _ in range(rule.rounds if reopened else 0):
            token, prob, entropy = read(forward(model, ids[: start + B], window))
            forwards += 1
            most = math.ceil(rule.share * len(visible))
            unsure = sorted(visible, key=lambda i: (-entropy[i], i))[:most]
            change = [i for i in unsure if prob[i] > editing and token[i] != ids[i]]
            edits += len(change)
            for i in change:
                ids[i] = token[i]
            if not change:
                break
        forwards += reopened and start + B < stop  # keys and values of the window, again
    return ids[len(prompt) : len(prompt) + tokens], forwards, edits


def config(rule, **options) -> DecodeConfig:
    return DecodeConfig(
        policy=rule,
        **{"block_length": B, "max_new_tokens": TOKENS, "mask_token_id": MASK, "eos_token_id": []}
        | options,
    )


def told(out, i: int) -> tuple[list[int], int, int]:
    return out.sequences[i].tolist(), out.stats[i].forwards, out.stats[i].t2t_edits


@pytest.fixture(scope="module")
def known(golden_model):
    """What the loop gives for each setting and prompt, computed once."""
    return {
        (str(rule), length): paper(golden_model, prompt_of(length), rule)
        for rule in SETTINGS
        for length in LENGTHS
    }


@pytest.mark.parametrize("rule", SETTINGS, ids=str)
def test_it_is_the_papers_loop(golden_model, known, rule):
    """Alone and together, one behind the other in one slot."""
    decoder = Decoder(golden_model)
    want = [known[str(rule), length] for length in LENGTHS]
    prompts = [prompt_of(length) for length in LENGTHS]
    together = decoder.generate(prompts, config=config(rule))
    assert [told(together, i) for i in range(len(prompts))] == want
    alone = decoder.generate(prompts, config=config(rule), max_batch=1)
    assert [told(alone, i) for i in range(len(prompts))] == want


@pytest.mark.parametrize("keep", [False, True])
def test_drafts_are_edited_across_blocks(golden_model, keep):
    """Tokens that are kept are looked at by nobody, and not counted among those of a window."""
    rule, prompt = SETTINGS[0], prompt_of(LENGTHS[0])
    draft = torch.randint(7, 90, (TOKENS,), generator=torch.Generator().manual_seed(1))
    draft[[2, 5, 9, 18]] = MASK
    kept = [i for i in range(TOKENS) if keep and draft[i] != MASK]
    want = paper(golden_model, prompt, rule, draft=draft.tolist(), keep=kept)
    for cache in ("exact", "none"):
        out = Decoder(golden_model).generate(
            prompt, draft=draft, keep_draft=keep, config=config(rule, cache=cache)
        )
        ids, _, edits = told(out, 0)
        assert (ids, edits) == (want[0], want[2])


@pytest.mark.parametrize("delay", [0, 1])
def test_without_a_cache_no_forward_is_for_keys_and_values(golden_model, known, monkeypatch, delay):
    """Nor does the host have to look before the next step."""
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    for rule in SETTINGS[:2]:
        prompts = [prompt_of(length) for length in LENGTHS]
        out = Decoder(golden_model).generate(prompts, config=config(rule, cache="none"))
        for i, length in enumerate(LENGTHS):
            blocks = -(-(length + TOKENS) // B) - length // B
            ids, forwards, edits = known[str(rule), length]
            assert told(out, i) == (ids, forwards - (blocks - 1), edits)


def test_earlier_blocks_are_edited(known):
    """Else the cases above would say little: a window of one block edits other tokens."""
    differ = [known[str(SETTINGS[0]), n][0] != known[str(SETTINGS[3]), n][0] for n in LENGTHS]
    assert all(differ)


@pytest.mark.parametrize("off", [{"rounds": 0}, {"editing_threshold": None}])
def test_without_rounds_it_is_joint_threshold(golden_model, off):
    """Beside requests that have rounds, too; a text ends where it ends there."""
    given = {"threshold": 0.3, "editing_threshold": 0.2, "max_post_steps": 3}
    rounds = {"threshold": 0.3, "editing_threshold": 0.0, "rounds": 2}
    plain = policies.JointThreshold(**given | {k: v for k, v in off.items() if k != "rounds"})
    prompts, decoder = [prompt_of(length) for length in LENGTHS], Decoder(golden_model)
    whole = decoder.generate(prompts, config=config(plain))
    eos = [ids[2].item() for ids in whole.sequences]  # of the first block
    for ends in ([], eos):
        want = decoder.generate(prompts, config=config(plain, eos_token_id=ends))
        both = [
            config(MultiBlock(**one), eos_token_id=ends) for one in (given | off, rounds)
        ] * len(prompts)
        out = decoder.generate([each for each in prompts for _ in range(2)], config=both)
        assert [told(out, 2 * i) for i in range(len(prompts))] == [
            told(want, i) for i in range(len(prompts))
        ]
    assert all(len(ids) < TOKENS for ids in want.sequences)


def test_what_a_stream_has_told_is_final(golden_model, known):
    """A block is told once no window holds it, and nothing of the prompt ever changes."""
    rule, length = SETTINGS[0], LENGTHS[0]
    events = list(Decoder(golden_model, config=config(rule)).stream(prompt_of(length)))
    commits = [event for event in events if event.kind == "commit"]
    assert [len(event.ids) for event in commits] == [B - length % B, TOKENS - (B - length % B)]
    assert [token for event in commits for token in event.ids] == known[str(rule), length][0]


def test_keys_and_values_are_those_of_a_prefill(golden_model):
    """At every moment, of all blocks that are final, and of a window that was computed again."""
    rule = SETTINGS[0]
    prompts = [prompt_of(length) for length in LENGTHS]
    looked = 0
    with Decoder(golden_model).engine() as living:
        for prompt in prompts:
            living.add(prompt, config=config(rule))
        while not living.idle:
            living.step()
            inside = living._engine
            for request in inside.inside:
                lane = next(iter(inside.lanes.values()))
                fresh = request.slot >= 0 and request.step == request.entered
                if not fresh or request.start == request.origin:
                    continue
                ids = torch.cat((request.prompt, torch.tensor(request.written)))[: request.start]
                place = torch.arange(len(ids)) // B
                cache = DynamicCache()
                with torch.no_grad():
                    golden_model(
                        input_ids=ids[None],
                        attention_mask=(place[:, None] >= place[None])[None, None],
                        past_key_values=cache,
                        use_cache=True,
                    )
                first = request.extent.first
                for mine, its in zip(lane.slots.pool.layers, cache.layers, strict=True):
                    for name in ("keys", "values"):
                        kept = getattr(mine, name)[first : first + len(ids)].transpose(0, 1)
                        assert torch.allclose(kept, getattr(its, name)[0], atol=1e-5)
                looked += 1
    assert looked == 2 + 2


def test_a_cache_that_does_not_compute_earlier_blocks_is_refused(golden_model):
    family = Family(attention="full", shift=0, blocks="after_prompt", mask_token_id=MASK)
    decoder = Decoder(golden_model, family=family)
    with pytest.raises(ValueError, match=r"reopens blocks.*cache='dual'"):
        decoder.generate([[1, 2]], config=config(SETTINGS[0], cache="dual"))


@pytest.mark.parametrize("early", [True, False])
def test_a_text_ends_where_its_final_tokens_say(golden_model, known, early):
    """Not where one of them said so for a while; so the ids are the same early and late."""
    ids, forwards, _ = known[str(SETTINGS[0]), LENGTHS[0]]
    for at in (1, 6, 10):
        out = Decoder(golden_model).generate(
            prompt_of(LENGTHS[0]),
            config=config(SETTINGS[0], eos_token_id=ids[at], eos_early_stop=early),
        )
        end = ids.index(ids[at]) + 1
        assert out.sequences[0].tolist() == ids[:end]
        assert out.stats[0].finish_reason == "eos" and out.stats[0].tokens == end
        assert out.stats[0].forwards <= forwards


@pytest.mark.parametrize("rule", SETTINGS[:2], ids=str)
def test_forwards_are_counted_alike_where_a_block_begins_again(golden_model, rule):
    """Behind any step: in a block, in a round, where keys of a window are to be computed again."""
    decoder = Decoder(golden_model, config=config(rule))
    want = decoder.generate(prompt_of(LENGTHS[0])).stats[0]
    for at in range(want.forwards):
        with decoder.engine() as engine:
            engine.add(prompt_of(LENGTHS[0]), seed=want.seed)
            events = []
            for step in range(2 * want.forwards):
                if step == at:
                    engine.reset()
                events += engine.step()
        assert (events[-1].kind, events[-1].stats) == ("end", want)
