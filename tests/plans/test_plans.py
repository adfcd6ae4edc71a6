"""Plans: which rows a forward takes and what they see, against forwards written out by hand."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from cases import GOLDEN, PROMPTS, B, results
from golden_families import loaded
from torch import nn

from fastedit import DecodeConfig, Decoder
from fastedit.models import Family
from fastedit.policies import Policy, Write
from fastedit.policies.primitives import highest

MASK = GOLDEN["mask_token_id"]


@dataclass(frozen=True)
class Verified(Policy):
    """Fills one mask per forward and writes down what the shadows think of the tokens."""

    plan = "shadow"
    needs = frozenset({"current"})
    seen: ClassVar[list] = []

    def rule(self, stats, view):
        masked = view.masked()
        live = (~view.done).nonzero().flatten().tolist()
        for row in live:
            start = int(view.sampling.start[row])
            self.seen.append((start, view.ids[row].clone(), stats.shadow.prob_current[row].clone()))
        fill = highest(stats.prob, masked, 1)
        return Write(torch.where(fill, stats.token, view.ids), ~(masked & ~fill).any(-1))

    def most_forwards(self, length):
        return length


@dataclass(frozen=True)
class Unverified(Verified):
    """The same fills without shadows."""

    plan = "block"

    def rule(self, stats, view):
        fill = highest(stats.prob, view.masked(), 1)
        return Write(torch.where(fill, stats.token, view.ids), ~(view.masked() & ~fill).any(-1))


def options(policy, **others):
    named = ("mask_token_id", "block_length", "max_new_tokens", "eos_token_id", "seed")
    chosen = {name: GOLDEN[name] for name in named if name in GOLDEN}
    return DecodeConfig(policy=policy, **chosen | {"max_new_tokens": 2 * B + 3} | others)


def shadow_by_hand(model, ids, start):
    """p(ids[i]) in the row of a mask that sees all before the block, its other rows and itself."""
    length = len(ids) - start
    rows = torch.cat((ids, torch.full((length,), MASK)))
    positions = torch.cat((torch.arange(len(ids)), torch.arange(start, len(ids))))
    mask = torch.zeros(len(rows), len(rows), dtype=torch.bool)
    for q in range(len(rows)):
        for k in range(len(ids)):
            mask[q, k] = k // B <= int(positions[q]) // B
        if q >= len(ids):
            mask[q, int(positions[q])] = False
            mask[q, q] = True
    logits = model(
        input_ids=rows[None],
        attention_mask=mask[None, None],
        position_ids=positions[None],
        use_cache=False,
    ).logits[0, len(ids) :]
    return logits.softmax(-1).gather(1, ids[start:, None]).squeeze(1)


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_shadows_see_all_but_the_token_at_their_position(golden_model, cache):
    Verified.seen.clear()
    prompt = PROMPTS[1]
    out = Decoder(golden_model, config=options(Verified(), cache=cache)).generate(prompt)
    whole = torch.cat((prompt, out.sequences[0]))
    checked = 0
    for start, block, shadow in Verified.seen[::5]:
        if start + B > len(whole):
            continue
        with torch.no_grad():
            want = shadow_by_hand(golden_model, torch.cat((whole[:start], block)), start)
        tokens = block != MASK
        assert torch.allclose(shadow[tokens], want[tokens], atol=1e-5)
        checked += int(tokens.sum())
    assert checked > B


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_no_real_row_sees_a_shadow_and_their_keys_are_discarded(golden_model, cache):
    with_shadows = Decoder(golden_model, config=options(Verified(), cache=cache))
    without = Decoder(golden_model, config=options(Unverified(), cache=cache))
    want = results(without.generate(PROMPTS))
    assert of_one_row(with_shadows.generate(PROMPTS)) == want
    assert of_one_row(with_shadows.generate(PROMPTS, max_batch=2)) == want


def of_one_row(out):
    """`results`, where every forward has a shadow for each row."""
    return [
        (ids, replace(stats, block_forwards=stats.block_forwards // 2))
        for ids, stats in results(out)
    ]


class Everything(nn.Module):
    """A model in which every position sees every other: two layers of attention and a head."""

    def __init__(self, vocab=41, width=32, shift=0):
        super().__init__()
        torch.manual_seed(5)
        self.config = SimpleNamespace(vocab_size=vocab, mask_token_id=vocab - 1)
        self.embedding, self.places = nn.Embedding(vocab, width), nn.Embedding(256, width)
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(2)
        )
        self.head, self.shift, self.rows, self.masks = nn.Linear(width, vocab), shift, [], []
        self.head.register_forward_hook(lambda _, given, __: self.rows.append(given[0].shape[:2]))

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, position_ids, past_key_values, use_cache):
        assert past_key_values is None and not use_cache
        self.masks.append(attention_mask)
        hidden = self.embedding(input_ids) + self.places(position_ids)
        hidden_from = ~attention_mask.repeat_interleave(2, dim=0)[:, 0]
        for layer in self.layers:
            hidden = hidden + layer(hidden, hidden, hidden, attn_mask=hidden_from)[0]
        return SimpleNamespace(logits=4 * self.head(hidden))


def full(shift=0):
    return Family(attention="full", shift=shift, blocks="after_prompt", policy="low_confidence")


def by_hand(model, prompt, length, new, shift):
    """LLaDA's loop: everything in every forward, one more token of the block at a time."""
    ids = torch.cat((prompt, torch.full((new,), model.config.mask_token_id)))
    positions = torch.arange(len(ids))[None]
    see = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool)
    for start in range(len(prompt), len(ids), length):
        for _ in range(length):
            logits = model(ids[None], see, positions, None, False).logits[0]
            logits[:, model.config.mask_token_id] = -torch.inf
            probs, best = logits.softmax(-1).max(-1)
            masked = torch.zeros(len(ids), dtype=torch.bool)
            masked[start : start + length] = ids[start : start + length] == len(logits[0]) - 1
            if shift:
                probs, best = probs.roll(1), best.roll(1)
            if masked.any():  # the last block may be shorter
                at = probs.masked_fill(~masked, -1).argmax()
                ids[at] = best[at]
    return ids[len(prompt) :].tolist()


@pytest.mark.parametrize("new", [12, 10, 3])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_full_attention_model_is_recomputed_from_all_positions(shift, new):
    model = Everything().eval()
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 40, (n,), generator=generator) for n in (3, 9, 1, 6)]
    decoder = Decoder(
        model,
        config=DecodeConfig(threshold=1, block_length=4, max_new_tokens=new, eos_token_id=[]),
        family=full(shift),
    )
    out = decoder.generate(prompts)
    # Only the rows that are decided on reach the head.
    assert {width for _, width in model.rows} == {4}
    with torch.no_grad():
        want = [by_hand(model, prompt, 4, new, shift) for prompt in prompts]
    assert [ids.tolist() for ids in out.sequences] == want
    assert len({tuple(ids) for ids in want}) == 4
    assert [stats.forwards for stats in out.stats] == [new] * 4
    alone = decoder.generate(prompts[1])
    assert alone.sequences[0].tolist() == want[1]


def test_a_full_attention_model_under_an_editing_rule_and_with_shadows():
    model = Everything().eval()
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4] * 7)]
    decoder = Decoder(model, family=full())
    settings = {"block_length": 4, "max_new_tokens": 8, "eos_token_id": [], "seed": 1}
    out = decoder.generate(prompts, policy="joint_threshold", threshold=0.3, **settings)
    assert all(len(ids) == 8 and MASK not in ids.tolist() for ids in out.sequences)
    Verified.seen.clear()
    shadows = decoder.generate(prompts, policy=Verified(), **settings)
    plain = decoder.generate(prompts, policy=Unverified(), **settings)
    assert of_one_row(shadows) == results(plain) and Verified.seen


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_shadows_beside_an_approximate_cache(cache):
    """Real rows see none. Of a single block without a prompt nothing is kept, so all is exact."""
    decoder = loaded("llada")
    settings = {"block_length": 4, "eos_token_id": [], "seed": 1}
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4] * 7), torch.tensor([9])]
    lengths = [DecodeConfig(max_new_tokens=new, cache=cache, **settings) for new in (8, 12, 3)]
    rules = [[c.replace(policy=rule()) for c in lengths] for rule in (Verified, Unverified)]
    shadows, plain = (decoder.generate(prompts, config=configs) for configs in rules)
    assert of_one_row(shadows) == results(plain)
    draft, seen = torch.tensor([[5, 191, 191, 8, 191, 3]]), {}
    for kind in ("exact", cache):
        Verified.seen.clear()
        decoder.generate(
            [torch.empty(0, dtype=torch.int64)],
            draft=draft,
            policy=Verified(),
            cache=kind,
            **settings | {"block_length": 6},
        )
        seen[kind] = torch.stack([prob for _, _, prob in Verified.seen])
    assert len(seen[cache]) == 3
    assert torch.allclose(seen["exact"], seen[cache], atol=1e-6)


def test_a_block_causal_model_with_a_shift_is_recomputed(golden_model):
    """Its first logits of a block are of the row before it, which a cache does not have."""
    decoder, options = Decoder(golden_model, family=Family(shift=1)), {"mask_token_id": MASK}
    options |= {"max_new_tokens": 40}  # of two blocks
    want = decoder.generate(PROMPTS[0], cache="none", **options).sequences[0]
    got = decoder.generate(PROMPTS[0], **options)
    assert got.sequences[0].equal(want) and got.stats[0].prefill_forwards == 0


@pytest.mark.parametrize(
    "wrong", [{"attention": "causal"}, {"shift": 2}, {"blocks": "anywhere"}], ids=str
)
def test_a_family_of_unknown_kind_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Family(**wrong)


@pytest.mark.parametrize("policy", ["entropy_bound:steps=6", "low_confidence:steps=4", "remask"])
def test_lookahead_changes_no_token_under_any_rule(golden_model, policy):
    """A rule whose blocks open as noise goes on without: what rides along rides as masks."""
    golden_model.config.vocab_size, before = 128, golden_model.config.vocab_size
    plain = Decoder(golden_model, config=options(policy)).generate(PROMPTS)
    ahead = Decoder(golden_model, config=options(policy, lookahead=True)).generate(PROMPTS)
    assert before == 128
    assert [ids.tolist() for ids in ahead.sequences] == [ids.tolist() for ids in plain.sequences]


def test_shadows_and_noise_are_refused_where_they_cannot_be_had(golden_model):
    decoder = Decoder(Everything().eval(), family=full(shift=1))
    with pytest.raises(ValueError, match="shift=1"):
        decoder.generate([[3]], policy=Verified(), max_new_tokens=4, block_length=4)
    bare = Decoder(lambda **_: None)
    with pytest.raises(ValueError, match="vocab_size"):
        bare.generate([[1, 2]], config=options("entropy_bound"))
    with pytest.raises(ValueError, match="strict_reference"):
        Decoder(golden_model).generate(
            PROMPTS[0], config=options("entropy_bound", strict_reference=True)
        )
    with pytest.raises(ValueError, match="temperatures of its own"):
        Decoder(golden_model).generate(PROMPTS[0], config=options("entropy_bound", temperature=0.5))


def test_a_head_that_is_no_module_call_gives_all_rows_and_the_wanted_ones_are_taken():
    class Plain(Everything):
        def forward(self, input_ids, **inputs):
            whole = super().forward(input_ids, **inputs)
            self.rows.clear()
            return whole

    model = Plain().eval()
    model.head.register_forward_hook(lambda *_: None)
    want = Decoder(model, family=full(1), config=DecodeConfig(block_length=4, max_new_tokens=4))
    bare = Everything().eval()
    bare.get_output_embeddings = lambda: nn.Linear(1, 1)  # never called
    got = Decoder(bare, family=full(1), config=want.config)
    prompt = torch.tensor([3])
    assert got.generate(prompt).sequences[0].equal(want.generate(prompt).sequences[0])
