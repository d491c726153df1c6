"""The published config formats, field by field.

The rule: whatever sizes the model must be written in the file. Of the rest, what the upstream
config class documents a default for may be left out, and then has that default. A field that
changes nothing here is ignored by name; a field that would change the computation is refused
unless it has the one value that is computed.
"""

import math
from collections.abc import Mapping
from typing import Any

from dia_models.config import DacConfig, DecoderConfig, DiaConfig, EncoderConfig
from dia_models.strict_json import StrictReader

# Written by the base class of transformers' configs, in several versions; none of it reaches Dia's
# or DAC's forward pass.
_BASE_FIELDS = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
_TOKENS = {"eos_token_id": 1024, "pad_token_id": 1025, "bos_token_id": 1026}
_DELAYS = (0, 8, 9, 10, 11, 12, 13, 14, 15)
_NORM_EPS = 1e-5
_ROPE_THETA = 10000.0


def read_dia(values: Mapping[str, Any]) -> DiaConfig:
    """Read a Dia `config.json`, nested (the first release) or flat (all since).

    Raises:
        ConfigError: Naming every missing, unknown and unsupported field.
    """
    reader = StrictReader(values)
    return _read_nested(reader) if "model" in reader and "data" in reader else _read_flat(reader)


def _read_flat(top: StrictReader) -> DiaConfig:
    top.expect("model_type", "dia")
    top.ignore(_BASE_FIELDS | {"norm_eps"})  # the norms read the eps of their own section
    encoder = _flat_encoder(top.section("encoder_config"))
    section = top.section("decoder_config")
    decoder = _flat_decoder(section)
    delays = top.sizes("delay_pattern", _DELAYS)
    # transformers lets ids at the top override the decoder's, where they stand since 5.0.
    tokens = {
        name: top.size(name, section.size(name, default)) for name, default in _TOKENS.items()
    }
    top.finish()
    return DiaConfig(
        encoder=EncoderConfig(**encoder),
        decoder=DecoderConfig(**decoder),
        delay_pattern=delays,
        release="0626",
        **tokens,
    )


def _flat_encoder(section: StrictReader) -> dict[str, Any]:
    fields = _flat_layers(section, "dia_encoder")
    if section.size("num_key_value_heads") != fields["num_heads"]:
        section.refuse("num_key_value_heads", "the encoder has as many as num_attention_heads")
    return fields


def _flat_decoder(section: StrictReader) -> dict[str, Any]:
    fields = _flat_layers(section, "dia_decoder") | {
        "num_kv_heads": section.size("num_key_value_heads"),
        "cross_num_heads": section.size("cross_num_attention_heads"),
        "cross_head_dim": section.size("cross_head_dim"),
        "cross_hidden_size": section.size("cross_hidden_size"),
        "num_channels": section.size("num_channels"),
    }
    if section.size("cross_num_key_value_heads") != fields["cross_num_heads"]:
        section.refuse("cross_num_key_value_heads", "it must equal cross_num_attention_heads")
    return fields


def _flat_layers(section: StrictReader, model_type: str) -> dict[str, Any]:
    section.expect("model_type", model_type)
    section.expect("hidden_act", "silu")
    section.ignore(_BASE_FIELDS)
    return {
        "hidden_size": section.size("hidden_size"),
        "num_layers": section.size("num_hidden_layers"),
        "num_heads": section.size("num_attention_heads"),
        "head_dim": section.size("head_dim"),
        "intermediate_size": section.size("intermediate_size"),
        "vocab_size": section.size("vocab_size"),
        "max_positions": section.size("max_position_embeddings"),
        "norm_eps": section.number("norm_eps", _NORM_EPS),
        "rope_theta": _flat_rope_theta(section),
    }


def _flat_rope_theta(section: StrictReader) -> float:
    """Before transformers 5 `rope_theta` stood in the section, since then in `rope_parameters`."""
    theta = section.number("rope_theta", _ROPE_THETA)
    section.expect("rope_scaling", None)
    section.ignore({"rope_parameters"})
    if "rope_parameters" not in section:
        return theta
    rope = section.section("rope_parameters")
    rope.expect("rope_type", "default")
    rope.expect("partial_rotary_factor", 1.0)
    return rope.number("rope_theta", theta)


def _read_nested(top: StrictReader) -> DiaConfig:
    top.ignore({"version", "training"})
    model, data = top.section("model"), top.section("data")
    model.ignore({"dropout", "weight_dtype"})
    model.expect("rope_min_timescale", 1)
    data.expect("text_pad_value", 0)
    encoder, decoder = model.section("encoder"), model.section("decoder")
    for section in (encoder, decoder):  # what the first code saved, with the only values it had
        section.expect("mlp_activations", ["silu", "linear"])
        section.expect("use_pre_norm", expected=False)
    shared: dict[str, Any] = {
        "norm_eps": model.number("normalization_layer_epsilon", _NORM_EPS),
        "rope_theta": model.number("rope_max_timescale", _ROPE_THETA),
    }
    encoder_fields = shared | {
        "hidden_size": encoder.size("n_embd"),
        "num_layers": encoder.size("n_layer"),
        "num_heads": encoder.size("n_head"),
        "head_dim": encoder.size("head_dim"),
        "intermediate_size": encoder.size("n_hidden"),
        "vocab_size": model.size("src_vocab_size"),
        "max_positions": _round_up(data.size("text_length")),
    }
    decoder_fields = shared | {
        "hidden_size": decoder.size("n_embd"),
        "num_layers": decoder.size("n_layer"),
        "num_heads": decoder.size("gqa_query_heads"),
        "num_kv_heads": decoder.size("kv_heads"),
        "head_dim": decoder.size("gqa_head_dim"),
        "cross_num_heads": decoder.size("cross_query_heads"),
        "cross_head_dim": decoder.size("cross_head_dim"),
        "cross_hidden_size": encoder_fields["hidden_size"],
        "intermediate_size": decoder.size("n_hidden"),
        "num_channels": data.size("channels"),
        "vocab_size": model.size("tgt_vocab_size"),
        "max_positions": _round_up(data.size("audio_length")),
    }
    fields: dict[str, Any] = {
        "delay_pattern": data.sizes("delay_pattern", _DELAYS),
        "eos_token_id": data.size("audio_eos_value", _TOKENS["eos_token_id"]),
        "pad_token_id": data.size("audio_pad_value", _TOKENS["pad_token_id"]),
        "bos_token_id": data.size("audio_bos_value", _TOKENS["bos_token_id"]),
    }
    top.finish()
    return DiaConfig(
        encoder=EncoderConfig(**encoder_fields),
        decoder=DecoderConfig(**decoder_fields),
        release="first",
        **fields,
    )


def _round_up(length: int) -> int:
    """The first release rounds its lengths up to multiples of 128."""
    return -(-length // 128) * 128


def read_dac(values: Mapping[str, Any]) -> DacConfig:
    """Read a codec's `config.json` (transformers) or `metadata["kwargs"]` (descript).

    Raises:
        ConfigError: Naming every missing, unknown and unsupported field.
    """
    reader = StrictReader(values)
    read = _read_descript if "encoder_dim" in reader else _read_transformers_dac
    fields = read(reader)
    reader.finish()
    return DacConfig(**fields)


def _read_transformers_dac(reader: StrictReader) -> dict[str, Any]:
    reader.expect("model_type", "dac")
    reader.ignore(
        _BASE_FIELDS | {"codebook_loss_weight", "commitment_loss_weight", "quantizer_dropout"}
    )
    rates = reader.sizes("downsampling_ratios")
    encoder_dim = reader.size("encoder_hidden_size")
    fields = {
        "sample_rate": reader.size("sampling_rate"),
        "encoder_dim": encoder_dim,
        "encoder_rates": rates,
        "decoder_dim": reader.size("decoder_hidden_size"),
        "decoder_rates": reader.sizes("upsampling_ratios", rates[::-1]),
        "latent_dim": reader.size("hidden_size", encoder_dim * 2 ** len(rates)),
        "num_codebooks": reader.size("n_codebooks"),
        "codebook_size": reader.size("codebook_size"),
        "codebook_dim": reader.size("codebook_dim"),
    }
    reader.expect("hop_length", math.prod(rates))
    return fields


def _read_descript(reader: StrictReader) -> dict[str, Any]:
    reader.ignore({"quantizer_dropout"})
    rates = reader.sizes("encoder_rates")
    encoder_dim = reader.size("encoder_dim")
    return {
        "sample_rate": reader.size("sample_rate"),
        "encoder_dim": encoder_dim,
        "encoder_rates": rates,
        "decoder_dim": reader.size("decoder_dim"),
        "decoder_rates": reader.sizes("decoder_rates"),
        "latent_dim": reader.size("latent_dim", encoder_dim * 2 ** len(rates)),
        "num_codebooks": reader.size("n_codebooks"),
        "codebook_size": reader.size("codebook_size"),
        "codebook_dim": reader.size("codebook_dim"),
    }
