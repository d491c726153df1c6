"""Model configs: the published formats, strictly read, and the ranges of the fields."""

import contextlib
import copy
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import DacConfig as TransformersDacConfig
from transformers import DiaConfig as TransformersDiaConfig

from dia_models.config import ConfigError, DacConfig, DiaConfig
from dia_models.random_weights import FULL_DAC, FULL_DIA, TINY_DAC, TINY_DIA
from support.nari_checkpoint import tiny_config


def transformers_dia():
    """As transformers 5 writes it: every field, RoPE in a dict, token ids with the decoder."""
    return json.loads(TransformersDiaConfig().to_json_string(use_diff=False))


def transformers_dac():
    config = TransformersDacConfig(sampling_rate=44100)
    return json.loads(config.to_json_string(use_diff=False))


def published_dia():
    """As transformers 4 wrote it: token ids at the top, RoPE in two fields."""
    config = transformers_dia()
    for section in (config["encoder_config"], config["decoder_config"]):
        section.pop("rope_parameters")
        section |= {"rope_theta": 10000.0, "rope_scaling": None}
    for name, token in (("eos", 1024), ("pad", 1025), ("bos", 1026)):
        config["decoder_config"].pop(f"{name}_token_id")
        config[f"{name}_token_id"] = token
    return config


def first_dia():
    return {
        "version": "0.1",
        "training": {},
        "model": {
            "encoder": {
                "n_layer": 12,
                "n_embd": 1024,
                "n_hidden": 4096,
                "n_head": 16,
                "head_dim": 128,
            },
            "decoder": {
                "n_layer": 18,
                "n_embd": 2048,
                "n_hidden": 8192,
                "gqa_query_heads": 16,
                "kv_heads": 4,
                "gqa_head_dim": 128,
                "cross_query_heads": 16,
                "cross_head_dim": 128,
            },
            "src_vocab_size": 256,
            "tgt_vocab_size": 1028,
            "dropout": 0.0,
            "normalization_layer_epsilon": 1e-5,
            "weight_dtype": "float32",
            "rope_min_timescale": 1,
            "rope_max_timescale": 10000,
        },
        "data": {
            "text_length": 1024,
            "audio_length": 3072,
            "channels": 9,
            "text_pad_value": 0,
            "audio_eos_value": 1024,
            "audio_pad_value": 1025,
            "audio_bos_value": 1026,
            "delay_pattern": [0, 8, 9, 10, 11, 12, 13, 14, 15],
        },
    }


def descript_kwargs():
    return {
        "encoder_dim": 64,
        "encoder_rates": [2, 4, 8, 8],
        "latent_dim": None,
        "decoder_dim": 1536,
        "decoder_rates": [8, 8, 4, 2],
        "n_codebooks": 9,
        "codebook_size": 1024,
        "codebook_dim": 8,
        "quantizer_dropout": 0.5,
        "sample_rate": 44100,
    }


FORMATS = {
    "transformers 5": (DiaConfig, transformers_dia, FULL_DIA),
    "transformers 4": (DiaConfig, published_dia, FULL_DIA),
    "first release": (DiaConfig, first_dia, dataclasses.replace(FULL_DIA, release="first")),
    "transformers DAC": (DacConfig, transformers_dac, FULL_DAC),
    "descript": (DacConfig, descript_kwargs, FULL_DAC),
}


def put(values, path, value):
    *sections, key = path.split(".")
    for section in sections:
        values = values[section]
    values[key] = value


def drop(values, path):
    *sections, key = path.split(".")
    for section in sections:
        values = values[section]
    del values[key]


@pytest.mark.parametrize("name", FORMATS)
def test_published_formats(name):
    kind, values, expected = FORMATS[name]
    assert kind.from_dict(values()) == expected


@pytest.mark.parametrize("release", ["first", "0626"])
def test_nari_writes_what_is_read(release):
    config = DiaConfig.from_dict(tiny_config(release))
    assert config.release == release
    assert config.decoder.cross_head_dim == 32


def test_what_has_a_default_upstream_may_be_left_out():
    values = published_dia()
    for path in (
        "delay_pattern",
        "eos_token_id",
        "model_type",
        "decoder_config.norm_eps",
        "decoder_config.rope_theta",
        "encoder_config.hidden_act",
        "encoder_config.rope_scaling",
    ):
        drop(values, path)
    assert DiaConfig.from_dict(values) == FULL_DIA
    values = first_dia()
    del values["version"], values["training"], values["data"]["delay_pattern"]
    del values["model"]["normalization_layer_epsilon"], values["model"]["rope_max_timescale"]
    assert DiaConfig.from_dict(values).decoder == FULL_DIA.decoder


def test_token_ids_at_the_top_go_first():
    values = transformers_dia() | {"eos_token_id": 1000}
    assert DiaConfig.from_dict(values).eos_token_id == 1000


def test_first_release_rounds_its_lengths_up():
    values = first_dia()
    values["data"]["text_length"] = 1000
    assert DiaConfig.from_dict(values).encoder.max_positions == 1024


def test_what_the_first_code_saved_besides_is_read():
    kind, values, expected = FORMATS["first release"]
    saved = values()
    for section in ("encoder", "decoder"):
        put(saved, f"model.{section}.mlp_activations", ["silu", "linear"])
        put(saved, f"model.{section}.use_pre_norm", False)
    assert kind.from_dict(saved) == expected


def test_all_missing_and_unknown_keys_are_named():
    values = published_dia()
    del values["encoder_config"]["hidden_size"], values["decoder_config"]["vocab_size"]
    values["flavour"] = 1
    values["decoder_config"]["sliding_window"] = 128
    values["decoder_config"]["hidden_act"] = "gelu"
    with pytest.raises(ConfigError) as error:
        DiaConfig.from_dict(values)
    assert str(error.value) == (
        "missing: decoder_config.vocab_size, encoder_config.hidden_size; "
        "unknown: decoder_config.sliding_window, flavour; "
        "decoder_config.hidden_act is 'gelu', but only 'silu' is supported"
    )


def test_a_missing_section_is_named_once():
    values = first_dia()
    del values["model"]["decoder"]
    with pytest.raises(ConfigError, match=r"^missing: model\.decoder$"):
        DiaConfig.from_dict(values)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("transformers 5", "model_type", "dia2"),
        ("transformers 5", "decoder_config.rope_parameters.rope_type", "yarn"),
        ("transformers 5", "encoder_config.rope_parameters.factor", 2.0),
        ("transformers 4", "decoder_config.rope_scaling", {"type": "linear"}),
        ("transformers 4", "encoder_config.num_key_value_heads", 4),
        ("transformers 4", "decoder_config.cross_num_key_value_heads", 4),
        ("transformers 4", "decoder_config.hidden_size", 2048.0),
        ("transformers 4", "decoder_config.hidden_size", True),
        ("transformers 4", "decoder_config.norm_eps", "small"),
        ("transformers 4", "decoder_config.norm_eps", float("nan")),
        ("transformers 4", "decoder_config.rope_theta", 10**400),
        ("transformers 4", "eos_token_id", [1024, 1025]),
        ("transformers 4", "delay_pattern", [0, 8.5]),
        ("first release", "model.rope_min_timescale", 2),
        ("first release", "data.text_pad_value", 1),
        ("first release", "model.encoder", 7),
        ("first release", "model.encoder.mlp_activations", ["gelu", "linear"]),
        ("first release", "model.decoder.use_pre_norm", True),
        ("transformers DAC", "hop_length", 320),
        ("transformers DAC", "model_type", "encodec"),
        ("descript", "codebook_dim", [8, 8, 4]),
        ("descript", "encoder_rates", "2488"),
    ],
)
def test_what_is_not_computed_is_refused(name, path, value):
    kind, values, _ = FORMATS[name]
    broken = values()
    put(broken, path, value)
    with pytest.raises(ConfigError, match=path.rpartition(".")[2]):
        kind.from_dict(broken)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        *[("encoder", f.name, 0) for f in dataclasses.fields(TINY_DIA.encoder)],
        *[("decoder", f.name, -1) for f in dataclasses.fields(TINY_DIA.decoder)],
        ("encoder", "head_dim", 15),
        ("encoder", "vocab_size", 255),
        ("encoder", "norm_eps", float("inf")),
        ("encoder", "rope_theta", float("nan")),
        ("decoder", "head_dim", 17),
        ("decoder", "cross_head_dim", 17),
        ("decoder", "num_kv_heads", 3),
    ],
)
def test_ranges_of_the_stacks(section, field, value):
    with pytest.raises(ConfigError, match=rf"{section}\.{field}"):
        dataclasses.replace(getattr(TINY_DIA, section), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eos_token_id", 1028),
        ("pad_token_id", -1),
        ("bos_token_id", 5000),
        ("delay_pattern", (0,) * 8),
        ("delay_pattern", (1, *range(8))),
        ("delay_pattern", (0, *range(-1, 7))),
        ("delay_pattern", (0, *range(4000, 4008))),
        ("release", "second"),
        ("encoder", dataclasses.replace(TINY_DIA.encoder, hidden_size=64)),
    ],
)
def test_ranges_of_dia(field, value):
    name = "encoder.hidden_size" if field == "encoder" else field
    with pytest.raises(ConfigError, match=name):
        dataclasses.replace(TINY_DIA, **{field: value})


def test_token_ids_differ():
    with pytest.raises(ConfigError, match="differ"):
        dataclasses.replace(TINY_DIA, pad_token_id=1024)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(f.name, 0) for f in dataclasses.fields(TINY_DAC) if "rates" not in f.name],
        ("encoder_rates", ()),
        ("encoder_rates", (0, 2)),
        ("decoder_rates", (8, 5, 4, 2)),
        ("decoder_rates", (8, 8, 4, 4)),
        ("decoder_dim", 40),
    ],
)
def test_ranges_of_the_codec(field, value):
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(TINY_DAC, **{field: value})


def test_configs_are_frozen_and_plain():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY_DIA.eos_token_id = 3
    assert json.loads(json.dumps(TINY_DIA.to_dict()))["decoder"]["num_kv_heads"] == 2
    assert json.loads(json.dumps(TINY_DAC.to_dict())) == TINY_DAC.to_dict()
    assert TINY_DAC.hop_length == 512


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_read_or_refused(values):
    for kind in (DiaConfig, DacConfig):
        with pytest.raises(ConfigError):
            kind.from_dict(values)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_any_value_of_any_key_is_read_or_refused(name, data):
    kind, make, _ = FORMATS[name]
    values = copy.deepcopy(make())
    section = values
    while True:
        key = data.draw(st.sampled_from(sorted(section)))
        if not (isinstance(section[key], dict) and section[key] and data.draw(st.booleans())):
            break
        section = section[key]
    section[key] = data.draw(json_values)
    with contextlib.suppress(ConfigError):
        kind.from_dict(values)
