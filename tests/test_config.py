"""`DecodeConfig`: presets, spellings and values."""

import dataclasses
import math

import numpy as np
import pytest

from fastedit import DecodeConfig, policies

DEFAULTS = {
    "threshold": 0.7,
    "editing_threshold": 0.5,
    "max_post_steps": 16,
    "num_to_transfer": 1,
    "steps": None,
    "block_length": 32,
    "max_new_tokens": 256,
    "temperature": 0.0,
    "top_p": None,
    "top_k": None,
    "seed": None,
    "eos_token_id": None,
    "eos_early_stop": True,
    "stop": None,
    "mask_token_id": None,
    "policy": None,
    "strict_reference": False,
    "cache": "exact",
    "lookahead": False,
    "cuda_graphs": True,
}
ALIASES = {
    "gen_length": "max_new_tokens",
    "block_size": "block_length",
    "edit_threshold": "editing_threshold",
    "max_post_edit_steps": "max_post_steps",
    "mask_id": "mask_token_id",
    "eos_id": "eos_token_id",
}


def thresholds(config):
    return config.threshold, config.editing_threshold


def test_defaults_are_the_quality_preset():
    assert dataclasses.asdict(DecodeConfig()) == DEFAULTS
    assert DecodeConfig() == DecodeConfig.quality() == DecodeConfig(mode="quality")


def test_speed_edits_every_change():
    assert thresholds(DecodeConfig.speed()) == (0.5, 0.0)
    assert (
        DecodeConfig.speed() == DecodeConfig(mode="speed") == DecodeConfig().replace(mode="speed")
    )


def test_explicit_values_win_over_the_mode_in_any_order():
    assert thresholds(DecodeConfig(mode="speed", threshold=0.9)) == (0.9, 0.0)
    assert thresholds(DecodeConfig(edit_threshold=None, mode="speed")) == (0.5, None)
    assert thresholds(DecodeConfig.speed(threshold=0.9)) == (0.9, 0.0)
    assert thresholds(DecodeConfig(threshold=0.9).replace(mode="quality")) == (0.7, 0.5)


@pytest.mark.parametrize("mode", ["fast", "Quality", 1])
def test_an_unknown_mode_is_named_with_the_known_ones(mode):
    with pytest.raises(ValueError, match=rf"quality.*speed.*{mode}"):
        DecodeConfig(mode=mode)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases_set_their_option_everywhere(alias, name):
    assert DecodeConfig(**{alias: 1}) == DecodeConfig(**{name: 1})
    assert DecodeConfig().replace(**{alias: 1}) == DecodeConfig(**{name: 1})
    assert DecodeConfig(**{name: 0 if "threshold" in name else 2}).replace(
        **{alias: 1}
    ) == DecodeConfig(**{name: 1})


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_two_spellings_must_agree(alias, name):
    assert DecodeConfig(**{alias: 1, name: 1}) == DecodeConfig(**{name: 1})
    for options in ({alias: 1, name: 2}, {name: 2, alias: 1}):
        with pytest.raises(ValueError, match=alias) as caught:
            DecodeConfig(**options)
        assert name in str(caught.value) and "1" in str(caught.value) and "2" in str(caught.value)
        with pytest.raises(ValueError, match=alias):
            DecodeConfig().replace(**options)


def test_aliases_set_fields_in_the_text_of_a_policy():
    texts = "edit_threshold=.3,max_post_edit_steps=2", "editing_threshold=.3,max_post_steps=2"
    alias, name = (policies.parse(f"joint_threshold:{text}") for text in texts)
    assert alias == name
    with pytest.raises(ValueError, match="remask has no 'gen_length'"):
        policies.parse("remask:gen_length=3")
    with pytest.raises(ValueError, match="disagree"):
        DecodeConfig(policy="joint_threshold:edit_threshold=.3", editing_threshold=0.4)


def test_two_spellings_of_none_and_a_value_disagree():
    with pytest.raises(ValueError, match="edit_threshold"):
        DecodeConfig(editing_threshold=None, edit_threshold=0.5)


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_an_unknown_name_is_a_type_error_and_a_value_error(kind):
    with pytest.raises(kind, match="tempreature"):
        DecodeConfig(tempreature=1.0)
    with pytest.raises(kind, match="top_q"):
        DecodeConfig().replace(top_q=1.0)


@pytest.mark.parametrize("name", ["minimal_topk"])
def test_ignored_names_warn_once_and_change_nothing(name):
    with pytest.warns(UserWarning, match=name) as caught:
        assert DecodeConfig(**{name: 7}) == DecodeConfig()
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=name):
        assert DecodeConfig().replace(**{name: 7}) == DecodeConfig()


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "threshold": [-0.1, 1.5, math.inf, math.nan, "0.5", None, True, [0.5]],
        "editing_threshold": [-0.1, 2, math.nan, "off", False],
        "max_post_steps": [-1, 1.5, None, "3", True, math.nan, math.inf],
        "num_to_transfer": [0, -1, 0.5, None],
        "block_length": [0, -4, 2.5, None],
        "max_new_tokens": [-1, 0.5, None, "8"],
        "temperature": [-1.0, math.nan, math.inf, None, "hot"],
        "top_p": [-0.1, 1.1, math.nan, "0.9"],
        "top_k": [-2, 1.5, "4"],
        "seed": [1.5, "1", [1, None], [1, "2"], True],
        "eos_token_id": [-1, "</s>", [2, -1], 2.5],
        "mask_token_id": [-1, 1.5, "<mask>"],
        "stop": ["", ["a", ""], 5, [5]],
        "eos_early_stop": [None, 1, "yes"],
        "strict_reference": [None, 0],
        "use_cache": [None, "no"],
        "lookahead": [None, 1],
        "cuda_graphs": [None, 1],
        "policy": ["nope", 3, "remask:tau"],
    }.items(),
)
def test_values_out_of_range_are_named(name, values):
    for value in values:
        for make in (DecodeConfig, DecodeConfig().replace):
            with pytest.raises(ValueError, match=name) as caught:
                make(**{name: value})
            assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("threshold", 1, 1.0),
        ("editing_threshold", 0, 0.0),
        ("editing_threshold", None, None),
        ("temperature", 1, 1.0),
        ("top_p", 1, 1.0),
        ("max_new_tokens", 8.0, 8),
        ("max_new_tokens", 0, 0),
        ("top_k", -1, -1),
        ("seed", -5, -5),
        ("seed", 2**64 - 1, 2**64 - 1),
        ("seed", (1, 2), [1, 2]),
        ("eos_token_id", (1, 2), [1, 2]),
        ("stop", ["a", "b"], ["a", "b"]),
    ],
)
def test_numbers_get_their_type(name, given, kept):
    value = getattr(DecodeConfig(**{name: given}), name)
    assert value == kept and type(value) is type(kept)


def test_a_config_cannot_be_changed_in_place():
    config = DecodeConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.threshold = 0.1
    assert config.replace(threshold=0.1).threshold == 0.1 and config.threshold == 0.7


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": ["a", "b"], "seed": [1, 2], "eos_token_id": [3]},
        {"stop": ("a", "b"), "seed": (1, 2), "eos_token_id": 3},
        {"threshold": 0, "temperature": 0.0, "top_k": None},
    ],
)
def test_configs_are_hashable_and_equal_ones_have_equal_hashes(options):
    one, same = DecodeConfig(**options), DecodeConfig().replace(**options)
    assert one == same and hash(one) == hash(same) and {one: 1}[same] == 1
    assert len({DecodeConfig(**options), DecodeConfig(**options, max_new_tokens=7)}) == 2


def test_a_list_and_a_tuple_are_the_same_config():
    one, other = DecodeConfig(stop=["a"], seed=[1]), DecodeConfig(stop=("a",), seed=(1,))
    assert one == other and hash(one) == hash(other)


def test_numbers_of_numpy_are_numbers():
    options = {"threshold": np.float32(0.5), "top_k": np.int64(3), "seed": [np.uint8(1)]}
    assert DecodeConfig(**options) == DecodeConfig(threshold=0.5, top_k=3, seed=[1])


def test_a_block_length_that_is_given_is_another_option_than_the_models():
    left_open, given = DecodeConfig(), DecodeConfig(block_length=32)
    assert left_open.block_length == given.block_length == 32
    assert left_open != given and given == DecodeConfig(block_size=32) != 5
    assert len({left_open, given, DecodeConfig(), DecodeConfig(block_length=32)}) == 2
    assert left_open.replace(seed=1).replace(seed=None) == left_open
