"""The embedded checkpoint and an adapter of it, asked about a handful of problems."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from plain_masks import doubled_block_mask

from fastedit.decoder import Decoder
from fastedit.evaluation.errors import drafted as drafting
from fastedit.evaluation.errors.decoded import Watch, decoded
from fastedit.evaluation.errors.drafted import RATES, drafted
from fastedit.evaluation.errors.held_out import read_held_out
from fastedit.evaluation.errors.rules import KINDS, Rules
from fastedit.evaluation.errors.survey import Survey
from fastedit.tasks import get_task

pytest.importorskip("reasoning_gym")
SAMPLES = 6
SOURCE = "task:chain_sum,min_terms=4"  # the longest: the checkpoint errs now and then


def spoil(model):
    """The same model with a head that prefers other tokens."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = model.lm_head.weight
        weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture
def held(tiny_model, tiny_tokenizer):
    return read_held_out(Survey(SOURCE, SAMPLES), tiny_model, tiny_tokenizer)


@pytest.fixture
def rules(tiny_tokenizer):
    return Rules(tiny_tokenizer)


def test_samples_are_held_out_problems(held, tiny_tokenizer):
    problems = get_task("chain_sum", min_terms=4).test_set(SAMPLES)
    for document, problem in zip(held.documents, problems, strict=True):
        answer = tiny_tokenizer.decode(document.ids[document.response], skip_special_tokens=True)
        assert answer == problem.solution and len(document.ids) % held.block_size == 0


@pytest.mark.parametrize("batch_size", [1, 4])
def test_drafts_are_those_of_a_plain_pass(held, tiny_model, rules, batch_size, monkeypatch):
    """Every masked position, both halves in one sequence, all logits; the masks are spied on."""
    copies = []
    corrupt = drafting.corrupt

    def spy(clean, *rest, **options):
        noisy = corrupt(clean, *rest, **options)
        copies.append((clean, noisy.ids, options["copy"]))
        return noisy

    monkeypatch.setattr(drafting, "corrupt", spy)
    found = drafted(tiny_model, held, rules, batch_size=batch_size)
    expected, first = [], 0
    for clean, xt, group in copies:
        mask = doubled_block_mask(xt.shape[1], held.block_size)
        positions = torch.arange(xt.shape[1]).repeat(len(xt), 2)
        with torch.no_grad():
            ids = torch.cat([xt, clean], dim=1)
            logits = tiny_model(ids, attention_mask=mask, position_ids=positions).logits
        prob = logits[:, : xt.shape[1]].softmax(-1)
        best = prob.index_fill(2, torch.tensor([held.mask_token_id]), 0.0).max(-1)
        for row, place in (xt == held.mask_token_id).nonzero().tolist():
            wrong = bool(best.indices[row, place] != clean[row, place])
            expected.append((first + row, group, place, float(best.values[row, place]), wrong))
        if group == len(RATES) - 1:
            first += len(xt)
    rows = zip(found.sample, found.group, found.position, found.prob, found.wrong, strict=True)
    for row, plain in zip(rows, expected, strict=True):
        assert row[:3] == plain[:3] and row[4] == plain[4]
        assert row[3] == pytest.approx(plain[3], abs=1e-4)
    assert 0 < found.wrong.sum() < len(found.wrong)
    assert ((found.kind >= 0) == found.wrong).all()


def test_places_of_drafts(held, tiny_model, rules):
    """Rates come out, masks lie in the response, and the distance is that to what is seen."""
    found = drafted(tiny_model, held, rules)
    maskable = sum(int(document.response.sum()) for document in held.documents)
    for group, rate in enumerate(RATES):
        share = (found.group == group).sum() / maskable
        assert abs(share - rate) < 4 * (rate * (1 - rate) / maskable) ** 0.5
    for row in range(len(found.sample)):
        document, place = held.documents[found.sample[row]], found.position[row]
        response = np.flatnonzero(document.response)
        rank = int(np.searchsorted(response, place))
        assert document.response[place] and found.relative[row] == rank / len(response)
        mates = (found.sample == found.sample[row]) & (found.group == found.group[row])
        hidden = set(found.position[mates].tolist())
        start = place - place % held.block_size
        seen = [i for i in range(start, start + held.block_size) if i not in hidden]
        seen += [start - 1] if start else []
        assert found.distance[row] == min((abs(place - i) for i in seen), default=0)


def test_masks_do_not_depend_on_the_model_and_draws_on_their_key(held, tiny_model, rules):
    def draw(key: int, model=tiny_model, mode: str = "sample"):
        return drafted(model, held, rules, key=key, draft_mode=mode, temperature=2.0)

    one, again, other, best = draw(0), draw(0), draw(1), draw(0, mode="argmax")
    assert all(map(np.array_equal, one, again))
    assert not np.array_equal(one.prob, other.prob)
    spoilt = draw(0, spoil(tiny_model))
    for table in (other, best, spoilt):
        for name in ("sample", "group", "position", "relative", "distance"):
            assert np.array_equal(getattr(one, name), getattr(table, name))
    assert spoilt.wrong.sum() > best.wrong.sum()


def test_bad_logits_are_an_error(held, tiny_model, rules):
    with torch.no_grad():
        tiny_model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="bad logits"):
        drafted(tiny_model, held, rules)


def test_decoding_holds_what_the_decoder_commits_and_edits(held, tiny_model, tiny_tokenizer, rules):
    model = spoil(tiny_model)  # which edits more
    found, counted = decoded(model, held, rules)
    prompts = [torch.from_numpy(d.ids[: int(d.response.argmax())]).long() for d in held.documents]
    lengths = [len(d.ids) - len(p) for d, p in zip(held.documents, prompts, strict=True)]
    edits = commits = 0
    for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        out = Decoder(model, tiny_tokenizer).generate([prompt], max_new_tokens=length)
        edits += out.stats[0].t2t_edits
        commits += out.stats[0].m2t_commits
        mine = found.where(found.sample == number)
        assert mine.position.min() == len(prompt)
        assert mine.relative.min() == 0.0 and mine.relative.max() < 1.0
        final = mine.where(~mine.wrong)  # one token stays in every place
        assert len(set(final.position.tolist())) == len(final.position) >= len(out.sequences[0])
    assert int(found.wrong.sum()) == edits == counted["replaced"] > 0
    assert counted["deleted"] == counted["inserted"] == 0
    assert len(found.wrong) == edits + commits


def test_deletes_and_inserts_of_a_policy_are_counted(held, tiny_model, tiny_tokenizer, rules):
    """A spoilt model that takes two tokens of its own text for control tokens."""
    model = spoil(tiny_model)
    ids = tiny_tokenizer.convert_tokens_to_ids(["4", "5"])
    policy = "joint_threshold_indel:delete_token_id={},insert_token_id={}".format(*ids)
    _, counted = decoded(model, held, rules, policy=policy)
    prompts = [torch.from_numpy(d.ids[: int(d.response.argmax())]).long() for d in held.documents]
    lengths = [len(d.ids) - len(p) for d, p in zip(held.documents, prompts, strict=True)]
    decoder = Decoder(model, tiny_tokenizer)
    stats = [
        decoder.generate([prompt], max_new_tokens=length, policy=policy).stats[0]
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    assert counted["deleted"] == sum(each.deletes for each in stats) > 0
    assert counted["inserted"] == sum(each.inserts for each in stats) > 0


def test_a_model_without_control_tokens_is_asked_too(tiny_model, tiny_tokenizer):
    """As before training: it has rows for them now, and makes nothing of these."""
    tokenizer, known = copy.deepcopy(tiny_tokenizer), len(tiny_tokenizer)
    survey = Survey(SOURCE, 2, policy="joint_threshold_indel")
    plain = survey.ask(tiny_model, tokenizer).decoding.edits
    assert tiny_model.config.delete_token_id == known == len(tokenizer) - 2
    assert plain["deleted"] == plain["inserted"] == 0


def test_tokens_are_followed_where_edits_move_them(rules, tiny_tokenizer):
    """a b b c is written, the second b is deleted, then a mask is put before c and becomes a."""
    mask, (a, b, c) = tiny_tokenizer.mask_token_id, tiny_tokenizer.convert_tokens_to_ids([*"123"])

    class Asked:
        committed, start, block_length, restarts, moves = False, 4, 4, 0, None
        prompt = torch.tensor([9, 9, 9, 8])

    watch, logits = Watch(0, mask), torch.zeros(4, len(tiny_tokenizer))

    def step(ids, source, deleted):
        Asked.moves = torch.tensor([source, [0] * 4, deleted])
        watch(Asked, torch.tensor(ids), logits)

    step([a, b, b, c], [0, 1, 2, 3], [0, 0, 0, 0])
    step([a, b, c, mask], [0, 1, 3, -1], [0, 0, 1, 0])
    step([a, b, mask, c], [0, 1, -1, 2], [0, 0, 0, 0])  # the mask at the end is lost
    step([a, c, a, c], [0, 1, 2, 3], [0, 0, 0, 0])
    rows = sorted(watch.rows(prompt=4, block_length=4, rules=rules))
    found = [(row[2], row[6], row[7]) for row in rows]
    repeat, digit, none = KINDS.index("repeat"), KINDS.index("digit"), -1
    assert sorted(found) == sorted(
        [
            (4, False, none),
            (5, True, digit),
            (5, False, none),
            (6, True, repeat),
            (6, False, none),
            (7, False, none),
        ]
    )


def test_watch_by_hand(rules, tiny_tokenizer):
    """Three steps of the second block: a commit of two, an edit, a remask and its replacement."""
    mask, (a, b, c) = tiny_tokenizer.mask_token_id, tiny_tokenizer.convert_tokens_to_ids([*"123"])

    class Asked:
        committed, start, block_length, restarts, moves = False, 4, 4, 0, None
        prompt = torch.tensor([9, 9, 9, 8, b])

    watch = Watch(3, mask)
    logits = torch.zeros(4, len(tiny_tokenizer))
    logits[1, a], logits[3, c] = 3.0, 5.0
    p = logits.softmax(-1)
    watch(Asked, torch.tensor([b, a, mask, c]), logits)
    watch(Asked, torch.tensor([b, c, mask, c]), logits)
    watch(Asked, torch.tensor([b, c, mask, mask]), logits)
    Asked.committed = True
    watch(Asked, torch.tensor([b, b, b, b]), logits)  # refreshes keys, decides nothing
    Asked.committed = False
    watch(Asked, torch.tensor([b, c, mask, a]), logits)
    digit = KINDS.index("digit")
    expected = [
        (3, 0, 5, 0.0, 1, float(p[1, a]), True, digit),  # b stands beside it
        (3, 0, 5, 0.0, 1, float(p[1, c]), False, -1),
        (3, 0, 7, 2 / 3, 3, float(p[3, c]), True, digit),  # a was written in the same step
        (3, 0, 7, 2 / 3, 2, float(p[3, a]), False, -1),
    ]
    rows = watch.rows(prompt=5, block_length=4, rules=rules)
    assert [row[:5] + row[6:] for row in rows] == [row[:5] + row[6:] for row in expected]
    assert [row[5] for row in rows] == pytest.approx([row[5] for row in expected], rel=1e-5)
    assert (watch.writes[5][0].left, watch.writes[5][0].behind) == (b, mask)
    Asked.restarts = 1  # the block begins again: what was written in it does not count
    watch(Asked, torch.tensor([b, a, mask, mask]), logits)
    watch(Asked, torch.tensor([b, mask, mask, mask]), logits)
    watch(Asked, torch.tensor([b, a, mask, mask]), logits)  # the same again is no error
    (row,) = watch.rows(prompt=5, block_length=4, rules=rules)
    assert row[2] == 5 and row[6:] == (False, -1) and watch.writes[5][0].left == b


def test_same_model_has_not_shifted(tiny_model, tiny_tokenizer):
    survey = Survey(SOURCE, SAMPLES)
    before, after = (survey.ask(tiny_model, tiny_tokenizer) for _ in range(2))
    report = survey.report(before, after)
    assert list(report["drafts"]) == ["all", "t=0.3", "t=0.5", "t=0.8"]
    for part in [*report["drafts"].values(), report["decoding"]]:
        assert part["before"] == part["after"] or part["before"]["errors"] == 0
        assert part["jaccard"]["value"] == 1.0 and part["errors"]["change"] == 0
        for shift in part["shifts"].values():
            assert shift["verdict"] != "shift larger than the null interval"
    rates = [report["drafts"][f"t={rate}"]["before"] for rate in RATES]
    assert sum(r["errors"] for r in rates) == report["drafts"]["all"]["before"]["errors"] > 0


def test_spoilt_model_has_shifted(tiny_model, tiny_tokenizer):
    counted = []
    survey = Survey(SOURCE, 16, draft_mode="sample", decode=False)
    before = survey.ask(tiny_model, tiny_tokenizer, twice=True, on_samples=counted.append)
    after = survey.ask(spoil(tiny_model), tiny_tokenizer)
    report = survey.report(before, after)
    assert sum(counted) == 16 * survey.passes(twice=True) == 32
    part = report["drafts"]["all"]
    assert report["decoding"] is None and part["null"] == "two draft keys"
    assert part["errors"]["interval"][0] > part["errors"]["null"][1]
    assert part["jaccard"]["interval"][1] < 1.0 and part["jaccard"]["null"][1] < 1.0
    larger = "shift larger than the null interval"
    assert part["shifts"]["confidence elsewhere"]["verdict"] == larger


def test_files_are_read_as_in_training(tmp_path, tiny_model, tiny_tokenizer):
    lines = [{"ask": f"{i} + 1 =", "say": f"#### {i + 1}"} for i in range(4)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\nbroken\n")
    fields = {"prompt_field": "ask", "completion_field": "say"}
    held = read_held_out(Survey(str(path), 3, **fields), tiny_model, tiny_tokenizer)
    assert len(held.documents) == 3
    with pytest.raises(ValueError, match=r"data.jsonl:5: is not JSON"):
        read_held_out(Survey(str(path), 9, **fields), tiny_model, tiny_tokenizer)
    with pytest.warns(match="skipped 1 bad lines"):
        survey = Survey(str(path), 9, on_bad_line="skip", **fields)
        assert len(read_held_out(survey, tiny_model, tiny_tokenizer).documents) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "at least 2"),
        ({"max_length": 2048}, "beyond the model's 1024 positions"),
        ({"max_length": 33}, "multiple of the model's block size"),
        ({"source": "task:none"}, "unknown task"),
    ],
)
def test_refusals(tiny_model, tiny_tokenizer, options, message):
    survey = Survey(**({"source": SOURCE, "samples": 2} | options))
    with pytest.raises(ValueError, match=message):
        read_held_out(survey, tiny_model, tiny_tokenizer)


def test_models_must_be_asked_the_same(tiny_model, tiny_tokenizer):
    survey = Survey(SOURCE, 2, decode=False)
    one = survey.ask(tiny_model, tiny_tokenizer)
    other = one._replace(held=one.held._replace(mask_token_id=7))
    with pytest.raises(ValueError, match="differ in tokenizer, mask token or block size"):
        survey.report(one, other)
    with pytest.raises(ValueError, match="policy=multi_block goes back to earlier blocks"):
        Survey(SOURCE, policy="multi_block")
    with pytest.raises(ValueError, match="draft_mode must be one of argmax, sample"):
        Survey(SOURCE, draft_mode="best")
