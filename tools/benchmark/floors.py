"""What cannot be saved: bytes that a decoder step reads, and products of a second of audio."""

import math
from pathlib import Path

import numpy as np
import onnx

from benchmark.decoding import DecoderFile
from benchmark.settings import CACHED_POSITIONS, ROWS, TEXT_POSITIONS
from dia_ort.graphs import CodecSpec

_TABLES = {
    "Gather": (0,),
    "GatherBlockQuantized": (0, 2),
    "GroupQueryAttention": (7, 8),  # cosines and sines
    "RotaryEmbedding": (2, 3),
}
"""Inputs of which a step reads single rows."""
_STORED_NARROW = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
"""Read as they are; the CPU provider widens half precision to float32 when it loads a graph."""


def step_bytes(decoder: DecoderFile) -> dict[str, int]:
    """Bytes that a step of one utterance must read, by kind.

    Weights, tables aside; the keys and values of both rows at the positions before; those of the
    conditional row's text. The unconditional row's cross-attention is a constant.
    """
    graph = onnx.load(decoder.path, load_external_data=False).graph
    tables = {
        node.input[index]
        for node in graph.node
        for index in _TABLES.get(node.op_type, ())
        if index < len(node.input)
    }
    weights = sum(
        math.prod(weight.dims) * (1 if weight.data_type in _STORED_NARROW else 4)
        for weight in graph.initializer
        if weight.name not in tables
    )
    model = decoder.model
    cached = ROWS * CACHED_POSITIONS * model.num_kv_heads * model.head_dim
    cached *= np.dtype(decoder.cache or "float32").itemsize
    text = TEXT_POSITIONS * model.cross_num_heads * model.cross_head_dim * 4
    return {
        "weights": weights,
        "cache": 2 * model.num_layers * cached,
        "text": 2 * model.num_layers * text,
    }


def dac_flops(path: Path, codec: CodecSpec) -> float:
    """Floating point operations of the convolutions for a second of audio.

    Args:
        path: The DAC decoder's graph.
        codec: Its shapes.

    Raises:
        ValueError: The convolutions do not turn a frame into ``hop_length`` samples.
    """
    graph = onnx.load(path, load_external_data=False).graph
    dims = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    rates: dict[str, int] = {}  # samples per frame, by tensor
    per_frame = 0
    for node in graph.node:
        rate = max((rates[name] for name in node.input if name in rates), default=1)
        if node.op_type == "Cast" and node.input[0] in dims:  # a weight stored in half precision
            dims[node.output[0]] = dims[node.input[0]]
        if node.op_type in {"Conv", "ConvTranspose"}:
            per_frame += 2 * rate * math.prod(dims[node.input[1]])
        if node.op_type == "ConvTranspose":  # its input, not its output, meets each weight once
            rate *= next(a.ints[0] for a in node.attribute if a.name == "strides")
        rates.update(dict.fromkeys(node.output, rate))
    if rates[graph.output[0].name] != codec.hop_length:
        raise ValueError(
            f"{path.name} makes {rates[graph.output[0].name]} samples of a frame, not "
            f"{codec.hop_length}: its strides are not counted right."
        )
    return per_frame * codec.sample_rate / codec.hop_length
