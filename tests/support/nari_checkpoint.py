"""Tiny random Dia checkpoints in nari-labs' own layout, the same on every machine.

The weights come from a seed, so that none need to be stored: ``tools/nari_goldens.py`` records
what nari-labs' code generates with them, and the tests hold dia-ort against that record. They are
uniform draws from ``numpy.random.RandomState``, whose stream NumPy has frozen, times exactly
rounded factors, so they are equal bit for bit everywhere.

Widths, head counts and head sizes all differ, so that no two axes can be mistaken for each other.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

Release = Literal["first", "0626"]
Array = npt.NDArray[np.float32]

TEXT_LENGTH = 128
AUDIO_LENGTH = 640
CHANNELS = 9
DELAY_PATTERN = [0, 8, 9, 10, 11, 12, 13, 14, 15]
EOS, PAD, BOS = 1024, 1025, 1026
TEXT_VOCABULARY, AUDIO_VOCABULARY = 256, 1028

ENCODER_LAYERS, ENCODER_WIDTH, ENCODER_FFN = 2, 48, 96
ENCODER_HEADS, ENCODER_HEAD_DIM = 3, 16
DECODER_LAYERS, DECODER_WIDTH, DECODER_FFN = 3, 80, 160
QUERY_HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
CROSS_HEADS, CROSS_HEAD_DIM = 2, 32

# Gains of the random maps: inputs of unit variance give outputs of this standard deviation.
QUERY_KEY_GAIN = 0.7  # attention scores (scale 1.0) of about 2 to 3: neither flat nor one-hot
CODE_EMBEDDING_STD = 1.0  # large, so that what was said last matters, and speech does not loop
LOGITS_GAIN = 4.0
# Random logits rarely favour EOS. This makes some utterances end by it, under either rule.
EOS_GAIN: dict[Release, float] = {"first": 1.4, "0626": 1.15}


def tiny_config(release: Release) -> dict[str, Any]:
    """The content of config.json: nested for the first release, flat for 0626."""
    return _first_config() if release == "first" else _0626_config()


def tiny_state_dict(release: Release, seed: int) -> dict[str, Array]:
    """Every weight by nari-labs' name, float32, in nari-labs' shapes (kernels input-first)."""
    random = np.random.RandomState(seed)
    weights = _encoder_weights(random) | _decoder_weights(random)
    weights["decoder.logits_dense.weight"][:, 0, EOS] *= np.float32(EOS_GAIN[release])
    return weights


def weights_digest(weights: dict[str, Array]) -> str:
    """A sha256 over names and values: whether two machines drew the same checkpoint."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].astype("<f4").tobytes())
    return digest.hexdigest()


def save_tiny_checkpoint(folder: Path, release: Release, seed: int) -> None:
    """Write config.json and the weights, as that release was published.

    The first release gets ``dia-v0_1.pth``, 0626 gets ``model.safetensors``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(tiny_config(release), indent=2)
    (folder / "config.json").write_text(config, encoding="utf-8")
    weights = tiny_state_dict(release, seed)
    if release == "first":
        tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        torch.save(tensors, folder / "dia-v0_1.pth")
    else:
        save_file(weights, folder / "model.safetensors")


def _first_config() -> dict[str, Any]:
    return {
        "version": "0.1",
        "model": {
            "encoder": {
                "n_layer": ENCODER_LAYERS,
                "n_embd": ENCODER_WIDTH,
                "n_hidden": ENCODER_FFN,
                "n_head": ENCODER_HEADS,
                "head_dim": ENCODER_HEAD_DIM,
            },
            "decoder": {
                "n_layer": DECODER_LAYERS,
                "n_embd": DECODER_WIDTH,
                "n_hidden": DECODER_FFN,
                "gqa_query_heads": QUERY_HEADS,
                "kv_heads": KV_HEADS,
                "gqa_head_dim": HEAD_DIM,
                "cross_query_heads": CROSS_HEADS,
                "cross_head_dim": CROSS_HEAD_DIM,
            },
            "src_vocab_size": TEXT_VOCABULARY,
            "tgt_vocab_size": AUDIO_VOCABULARY,
            "dropout": 0.0,
            "normalization_layer_epsilon": 1e-5,
            "weight_dtype": "float32",
            "rope_min_timescale": 1,
            "rope_max_timescale": 10_000,
        },
        "training": {},
        "data": {
            "text_length": TEXT_LENGTH,
            "audio_length": AUDIO_LENGTH,
            "channels": CHANNELS,
            "text_pad_value": 0,
            "audio_eos_value": EOS,
            "audio_pad_value": PAD,
            "audio_bos_value": BOS,
            "delay_pattern": DELAY_PATTERN,
        },
    }


def _0626_config() -> dict[str, Any]:
    common = {
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10_000.0,
    }
    return {
        "architectures": ["DiaForConditionalGeneration"],
        "bos_token_id": BOS,
        "decoder_config": common
        | {
            "cross_head_dim": CROSS_HEAD_DIM,
            "cross_hidden_size": ENCODER_WIDTH,
            "cross_num_attention_heads": CROSS_HEADS,
            "cross_num_key_value_heads": CROSS_HEADS,
            "head_dim": HEAD_DIM,
            "hidden_size": DECODER_WIDTH,
            "intermediate_size": DECODER_FFN,
            "max_position_embeddings": AUDIO_LENGTH,
            "model_type": "dia_decoder",
            "num_attention_heads": QUERY_HEADS,
            "num_channels": CHANNELS,
            "num_hidden_layers": DECODER_LAYERS,
            "num_key_value_heads": KV_HEADS,
            "vocab_size": AUDIO_VOCABULARY,
        },
        "delay_pattern": DELAY_PATTERN,
        "encoder_config": common
        | {
            "head_dim": ENCODER_HEAD_DIM,
            "hidden_size": ENCODER_WIDTH,
            "intermediate_size": ENCODER_FFN,
            "max_position_embeddings": TEXT_LENGTH,
            "model_type": "dia_encoder",
            "num_attention_heads": ENCODER_HEADS,
            "num_hidden_layers": ENCODER_LAYERS,
            "num_key_value_heads": ENCODER_HEADS,
            "vocab_size": TEXT_VOCABULARY,
        },
        "eos_token_id": EOS,
        "initializer_range": 0.02,
        "is_encoder_decoder": True,
        "model_type": "dia",
        "norm_eps": 1e-5,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
        "transformers_version": "4.53.0.dev0",
    }


def _encoder_weights(random: np.random.RandomState) -> dict[str, Array]:
    width, heads = ENCODER_WIDTH, (ENCODER_HEADS, ENCODER_HEAD_DIM)
    weights = {"encoder.embedding.weight": _uniform(random, (TEXT_VOCABULARY, width), 1.0)}
    for i in range(ENCODER_LAYERS):
        layer = f"encoder.layers.{i}"
        weights |= _norm(random, f"{layer}.pre_sa_norm", width)
        weights |= _attention(random, f"{layer}.self_attention", width, width, heads, heads)
        weights |= _norm(random, f"{layer}.post_sa_norm", width)
        weights |= _mlp(random, f"{layer}.mlp", width, ENCODER_FFN)
    return weights | _norm(random, "encoder.norm", width)


def _decoder_weights(random: np.random.RandomState) -> dict[str, Array]:
    width, cross = DECODER_WIDTH, (CROSS_HEADS, CROSS_HEAD_DIM)
    queries, keys = (QUERY_HEADS, HEAD_DIM), (KV_HEADS, HEAD_DIM)
    weights = {
        f"decoder.embeddings.{channel}.weight": _uniform(
            random, (AUDIO_VOCABULARY, width), CODE_EMBEDDING_STD
        )
        for channel in range(CHANNELS)
    }
    for i in range(DECODER_LAYERS):
        layer = f"decoder.layers.{i}"
        weights |= _norm(random, f"{layer}.pre_sa_norm", width)
        weights |= _attention(random, f"{layer}.self_attention", width, width, queries, keys)
        weights |= _norm(random, f"{layer}.pre_ca_norm", width)
        weights |= _attention(
            random, f"{layer}.cross_attention", width, ENCODER_WIDTH, cross, cross
        )
        weights |= _norm(random, f"{layer}.pre_mlp_norm", width)
        weights |= _mlp(random, f"{layer}.mlp", width, DECODER_FFN)
    weights |= _norm(random, "decoder.norm", width)
    head = _kernel(random, (width,), (CHANNELS, AUDIO_VOCABULARY), LOGITS_GAIN)
    return weights | {"decoder.logits_dense.weight": head}


def _attention(
    random: np.random.RandomState,
    name: str,
    width: int,
    source_width: int,
    query_heads: tuple[int, int],
    key_heads: tuple[int, int],
) -> dict[str, Array]:
    return {
        f"{name}.q_proj.weight": _kernel(random, (width,), query_heads, QUERY_KEY_GAIN),
        f"{name}.k_proj.weight": _kernel(random, (source_width,), key_heads, QUERY_KEY_GAIN),
        f"{name}.v_proj.weight": _kernel(random, (source_width,), key_heads),
        f"{name}.o_proj.weight": _kernel(random, query_heads, (width,)),
    }


def _mlp(random: np.random.RandomState, name: str, width: int, hidden: int) -> dict[str, Array]:
    return {
        f"{name}.wi_fused.weight": _kernel(random, (width,), (2, hidden)),
        f"{name}.wo.weight": _kernel(random, (hidden,), (width,)),
    }


def _norm(random: np.random.RandomState, name: str, width: int) -> dict[str, Array]:
    return {f"{name}.weight": np.float32(1) + _uniform(random, (width,), 0.2)}


def _kernel(
    random: np.random.RandomState,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    gain: float = 1.0,
) -> Array:
    return _uniform(random, inputs + outputs, gain / math.sqrt(math.prod(inputs)))


def _uniform(random: np.random.RandomState, shape: tuple[int, ...], std: float) -> Array:
    unit = 2 * random.random_sample(shape) - 1
    return (unit * (std * math.sqrt(3))).astype(np.float32)
