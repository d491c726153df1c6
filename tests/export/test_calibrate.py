"""The scales of the 8-bit cache."""

import numpy as np
import onnx
import pytest
import torch

from dia_export.calibrate import calibrate_cache, set_cache_scales
from dia_models.dia import Decoder, TextEncoder, load_weights
from dia_models.random_weights import TINY_DIA, random_dia


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


def test_they_go_into_the_graph(scales, exported):
    decoder = Decoder(TINY_DIA)
    set_cache_scales(decoder, scales)
    for layer, (key, value) in zip(decoder.layers, scales, strict=True):
        assert (layer.key_scale, layer.value_scale) == (key, value)
    graph = onnx.load(exported("int8").folder / "decoder.onnx").graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    for node, pair in zip(attentions, scales, strict=True):
        assert [constants[name] for name in node.input[-2:]] == [s.numpy() for s in pair]
