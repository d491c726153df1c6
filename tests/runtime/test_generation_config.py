import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from dia_ort.config import GenerationConfig
from dia_ort.errors import InvalidConfigError


def test_defaults_are_upstreams():
    assert dataclasses.asdict(GenerationConfig()) == {
        "max_tokens": None,
        "cfg_scale": 3.0,
        "temperature": 1.2,
        "top_p": 0.95,
        "cfg_filter_top_k": 45,
        "seed": None,
    }


def test_it_is_frozen_comparable_and_keyword_only():
    config = GenerationConfig(seed=7)
    assert config == GenerationConfig(seed=7)
    assert hash(config) == hash(GenerationConfig(seed=7))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 8
    with pytest.raises(TypeError):
        GenerationConfig(100)


def test_numbers_are_normalised():
    config = GenerationConfig(
        max_tokens=np.int32(100),
        cfg_scale=np.float32(2.5),
        temperature=1,
        top_p=Fraction(1, 2),
        cfg_filter_top_k=np.int64(10),
        seed=np.uint64(2**64 - 1),
    )
    values = dataclasses.astuple(config)
    assert values == (100, 2.5, 1.0, 0.5, 10, 2**64 - 1)
    assert [type(value) for value in values] == [int, float, float, float, int, int]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 1),
        ("cfg_scale", 0),
        ("cfg_scale", 100),
        ("temperature", 0),
        ("temperature", 5e-324),
        ("temperature", 100),
        ("top_p", 0),
        ("top_p", 1),
        ("cfg_filter_top_k", 1),
        ("cfg_filter_top_k", 10**6),
        ("seed", 0),
    ],
)
def test_the_ends_of_the_ranges_are_in(field, value):
    assert getattr(GenerationConfig(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("max_tokens", 10.0),
        ("max_tokens", True),
        ("max_tokens", "10"),
        ("cfg_scale", -0.1),
        ("cfg_scale", 100.1),
        ("cfg_scale", math.nan),
        ("cfg_scale", None),
        ("temperature", -1),
        ("temperature", 101),
        ("temperature", math.inf),
        ("temperature", False),
        ("temperature", 10**400),
        ("temperature", 1j),
        ("top_p", -0.01),
        ("top_p", 1.01),
        ("top_p", "0.9"),
        ("top_p", np.array(0.9)),
        ("cfg_filter_top_k", 0),
        ("cfg_filter_top_k", None),
        ("cfg_filter_top_k", 2**31),
        ("cfg_filter_top_k", 45.0),
        ("cfg_filter_top_k", np.bool_(1)),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.5),
        ("seed", True),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InvalidConfigError, match=f"^{field} is .*: give a .*number from "):
        GenerationConfig(**{field: value})
