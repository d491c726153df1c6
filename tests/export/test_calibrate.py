"""The scales of the 8-bit cache, and rounding by what layers are given."""

import numpy as np
import onnx
import pytest
import torch

from dia_export.calibrate import (
    SCRIPTS,
    calibrate_cache,
    calibrate_rounding,
    encode_scripts,
    sample_speech,
    set_cache_scales,
)
from dia_export.errors import ExportError
from dia_export.quantize import dequantize_blockwise, quantize_blockwise
from dia_export.verify import Reference
from dia_models.checkpoint import Weight
from dia_models.dia import Decoder, Linear, TextEncoder, load_weights
from dia_models.random_weights import TINY_DAC, TINY_DIA, random_dac, random_dia
from dia_ort.config import GenerationConfig
from dia_ort.delay import revert_delay
from dia_ort.dia import Dia
from support.traces import export_quickly


@pytest.fixture(scope="module")
def scales():
    return calibrate_cache(TINY_DIA, random_dia(TINY_DIA).weights)


def test_a_scale_for_the_keys_and_values_of_each_layer(scales):
    assert len(scales) == TINY_DIA.decoder.num_layers
    for pair in scales:
        for scale in pair:
            assert (scale.dtype, scale.shape) == (torch.float32, (1,))
            assert scale > 0
    assert len({float(scale) for pair in scales for scale in pair}) == 2 * len(scales)


def test_it_is_reproducible(scales):
    assert calibrate_cache(TINY_DIA, random_dia(TINY_DIA).weights) == scales


@torch.inference_mode()
def test_other_speech_fits(scales):
    """The whole model at once, another script and other tokens: nothing is beyond 127 levels."""
    weights = random_dia(TINY_DIA).weights
    encoder, decoder = TextEncoder(TINY_DIA), Decoder(TINY_DIA)
    load_weights(encoder, weights, "encoder.")
    load_weights(decoder, weights, "decoder.")
    text = torch.tensor([list(b"\x01 something else"), [0] * 16])
    lengths = torch.full((2,), 16, dtype=torch.int32)
    cross, shape = encoder(text, lengths), TINY_DIA.decoder
    tokens = np.random.default_rng(5).integers(0, 1024, (1, 100, shape.num_channels))
    _, *caches = decoder(
        torch.from_numpy(tokens).repeat(2, 1, 1),
        torch.full((2,), 99, dtype=torch.int32),
        torch.tensor([100], dtype=torch.int32),
        lengths[:1],
        torch.stack([value[1, :, 0].flatten() for value in cross[1::2]]),
        [value[:1] for value in cross],
        [torch.zeros(2, shape.num_kv_heads, 100, shape.head_dim)] * (2 * shape.num_layers),
    )
    for values, scale in zip(caches, [s for pair in scales for s in pair], strict=True):
        levels = values.abs().amax() / scale
        assert 127 / 4 < levels < 127


def test_scales_go_into_the_graph(scales, exported):
    decoder = Decoder(TINY_DIA)
    set_cache_scales(decoder, scales)
    for layer, (key, value) in zip(decoder.layers, scales, strict=True):
        assert (layer.key_scale, layer.value_scale) == (key, value)
    graph = onnx.load(exported("int8").folder / "decoder.onnx").graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    for node, pair in zip(attentions, scales, strict=True):
        assert [constants[name] for name in node.input[-2:]] == [s.numpy() for s in pair]


# Rounding


@pytest.fixture(scope="module")
def rounded():
    return calibrate_rounding(TINY_DIA, random_dia(TINY_DIA).weights, bits=4, block_size=32)


def matrices():
    """The names and shapes of all that a decoder's layers multiply with."""
    return {
        f"{name}.weight": tuple(part.weight.shape)
        for name, part in Decoder(TINY_DIA).named_modules()
        if isinstance(part, Linear) and name.startswith("layers.")
    }


def test_every_matrix_of_every_layer_is_rounded(rounded):
    assert rounded.keys() == matrices().keys()
    for name, (inputs, outputs) in matrices().items():
        levels, scales = rounded[name]
        assert levels.shape == (outputs, -(-inputs // 32), 16)
        assert scales.shape == levels.shape[:2]


@torch.inference_mode()
def test_the_logits_are_closer_than_if_each_weight_was_rounded_alone(rounded):
    """On the gate's contexts, which are none of those it was rounded for."""
    checkpoint = random_dia(TINY_DIA)
    reference = Reference(checkpoint, random_dac(TINY_DAC))
    reference.cases("encoder")
    case = reference.cases("decoder")[1]

    def error(quantized):
        decoder = Decoder(TINY_DIA)
        load_weights(decoder, checkpoint.weights, "decoder.")
        for name, pair in quantized.items():
            weight = decoder.get_parameter(name)
            weight.data = dequantize_blockwise(*pair, 4, len(weight))
        inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
        cross = [value for name, value in inputs.items() if name.startswith("cross_")]
        past = [value for name, value in inputs.items() if name.startswith("past_")]
        plain = [value for name, value in inputs.items() if "." not in name]
        return np.abs(decoder(*plain, cross, past)[0].numpy() - case.outputs["logits"]).mean()

    alone = {
        name: quantize_blockwise(checkpoint.weights[f"decoder.{name}"].load(), 4, 32)
        for name in matrices()
    }
    assert error(rounded) < 0.9 * error(alone)


def test_it_goes_into_the_graph(exported):
    graph = onnx.load(exported("int4").folder / "decoder.onnx").graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    weights = random_dia(TINY_DIA).weights
    rounded = calibrate_rounding(TINY_DIA, weights, bits=4, block_size=128)
    for name, (levels, scales) in rounded.items():
        np.testing.assert_array_equal(constants[f"{name}.packed"], levels.numpy())
        np.testing.assert_array_equal(constants[f"{name}.scales"].reshape(scales.shape), scales)


def test_without_calibration_each_weight_goes_to_its_nearest_level(tmp_path):
    result = export_quickly(
        "tiny-random", dtype="int4", calibrate=False, verify=False, output=tmp_path / "x"
    )
    graph = onnx.load(result.folder / "decoder.onnx").graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    weights = random_dia(TINY_DIA).weights
    for name in matrices():
        levels, _ = quantize_blockwise(weights[f"decoder.{name}"].load(), 4, 128)
        np.testing.assert_array_equal(constants[f"{name}.packed"], levels.numpy())


def test_progress_is_told():
    told = []
    weights = random_dia(TINY_DIA).weights
    calibrate_rounding(TINY_DIA, weights, 4, 32, lambda *stage: told.append(stage))
    speech = [("decoder: sample speech", step, 128) for step in range(1, 129)]
    assert told == [*speech, *(("decoder: round", layer, 2) for layer in range(3))]


@torch.inference_mode()
def test_the_speech_is_the_runtimes(exported):
    """Two scripts at once, of which each is what the exported model says to it alone."""
    weights, count = random_dia(TINY_DIA).weights, 2
    decoder = Decoder(TINY_DIA)
    load_weights(decoder, weights, "decoder.")
    texts = encode_scripts(TINY_DIA, weights, SCRIPTS[:count])
    tokens = sample_speech(decoder, TINY_DIA, texts).numpy()
    dia = Dia.load(exported("fp32").folder, provider="cpu")
    for number in range(count):
        config = GenerationConfig(max_tokens=tokens.shape[1], seed=number)
        want = dia.generate_codes(SCRIPTS[number], config)
        have = revert_delay(tokens[number, 1:], TINY_DIA.delay_pattern)[: len(want)]
        assert len(want) > 50
        np.testing.assert_array_equal(np.where(have < 1024, have, 0), want)


def test_weights_that_are_no_numbers_are_refused():
    weights = dict(random_dia(TINY_DIA).weights)
    name = "decoder.layers.0.mlp.down_proj.weight"
    broken = torch.full(weights[name].shape, float("nan"))
    weights[name] = Weight(broken.shape, torch.float32, lambda: broken)
    with pytest.raises(ExportError, match="logits are not finite: its weights are damaged"):
        calibrate_rounding(TINY_DIA, weights, 4, 32)
