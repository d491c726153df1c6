"""From a PyTorch module to an ONNX graph without weights.

The graph is traced from a module whose parameters were never filled, so tracing costs neither the
checkpoint's memory nor its time; :mod:`dia_export.weights` attaches the weights afterwards, one at
a time. Buffers (RoPE tables, channel offsets) are derived from the configuration and stay.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from dia_export.kernels import OnnxKernels
from dia_export.standard import StandardKernels
from dia_export.webgpu import WebGpuKernels
from dia_models.config import DacConfig, DiaConfig
from dia_models.dac import DacDecoder, DacEncoder, context_frames
from dia_models.dia import Decoder, TextEncoder
from dia_models.kernels import Kernels
from dia_ort.graphs import (
    DAC_DECODER,
    DAC_ENCODER,
    DECODER,
    ENCODER,
    CodecSpec,
    GraphSpec,
    ModelSpec,
    TensorSpec,
)
from dia_ort.manifest import Attention, OneProvider

OPSET = 23
_CODEC_OPSET = 21
"""onnxruntime's WebGPU provider has Sin and ConvTranspose up to this one."""

# Sizes to trace with: all different, none 1, so that no two axes are taken for the same.
_EXAMPLE_SIZES = {"rows": 8, "texts": 4, "steps": 3, "text": 5, "cache": 7}
_EXAMPLE_SIZES |= {"batch": 2, "before": 11, "frames": 6, "after": 12}


def model_spec(config: DiaConfig) -> ModelSpec:
    """What the runtime must know of a Dia configuration."""
    encoder, decoder = config.encoder, config.decoder
    return ModelSpec(
        release=config.release,
        num_layers=decoder.num_layers,
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        cross_num_heads=decoder.cross_num_heads,
        cross_head_dim=decoder.cross_head_dim,
        num_channels=decoder.num_channels,
        vocab_size=decoder.vocab_size,
        max_steps=decoder.max_positions,
        text_vocab_size=encoder.vocab_size,
        max_text=encoder.max_positions,
        delay_pattern=config.delay_pattern,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
    )


def codec_spec(config: DacConfig) -> CodecSpec:
    """What the runtime must know of a DAC configuration."""
    return CodecSpec(
        sample_rate=config.sample_rate,
        hop_length=config.hop_length,
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
        context_frames=context_frames(config),
    )


def build_module(
    name: str,
    model: DiaConfig,
    codec: DacConfig,
    attention: Attention = "fused",
    provider: OneProvider | None = None,
) -> nn.Module:
    """The unfilled module behind a graph, with the kernels to trace it with.

    ``torch.empty`` reserves address space but touches no page of it, so this costs no memory.

    Args:
        name: Of the graph.
        model: The Dia.
        codec: The DAC, whose graphs have standard operators in any case.
        attention: ``"fused"``: one node for each operation of Dia; ``"standard"``: operators of
            ONNX's standard domain alone.
        provider: The one that a fused graph is for, as :class:`GraphInfo` has it.
    """
    kernels: Kernels = WebGpuKernels() if provider == "webgpu" else OnnxKernels()
    if attention == "standard":
        kernels = StandardKernels()
    modules: dict[str, Callable[[], nn.Module]] = {
        ENCODER: lambda: TextEncoder(model, kernels),
        DECODER: lambda: Decoder(model, kernels),
        DAC_DECODER: lambda: DacDecoder(codec, StandardKernels()),
        DAC_ENCODER: lambda: DacEncoder(codec, StandardKernels()),
    }
    return modules[name]().eval()


def pack_arguments(spec: GraphSpec, tensors: Sequence[Any]) -> tuple[Any, ...]:
    """A flat list of a graph's inputs as its module's ``forward`` takes them."""
    if spec.name != DECODER:
        return tuple(tensors)
    plain = [i for i, t in enumerate(spec.inputs) if "." not in t.name]
    cross = [i for i, t in enumerate(spec.inputs) if t.name.startswith("cross_")]
    past = [i for i, t in enumerate(spec.inputs) if t.name.startswith("past_")]
    return (
        *(tensors[i] for i in plain),
        [tensors[i] for i in cross],
        [tensors[i] for i in past],
    )


def trace(spec: GraphSpec, module: nn.Module, *, hop_length: int) -> ir.Model:
    """Trace a module into an ONNX graph with the declared names and axes.

    Args:
        spec: The declaration to follow.
        module: As :func:`build_module` gives it, in the dtype to compute in.
        hop_length: Samples per frame, to size the example audio.

    Returns:
        The graph; parameters are initializers named as in the module, without data of their own.
    """
    sizes = _EXAMPLE_SIZES | {"samples": hop_length * _EXAMPLE_SIZES["frames"]}

    def example(tensor: TensorSpec) -> Tensor:
        shape = [sizes[a] if isinstance(a, str) else a for a in tensor.axes]
        return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))

    def axes(tensor: TensorSpec) -> dict[int, object]:
        return {
            i: torch.export.Dim.DYNAMIC for i, a in enumerate(tensor.axes) if isinstance(a, str)
        }

    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            pack_arguments(spec, [example(t) for t in spec.inputs]),
            dynamo=True,
            optimize=False,
            opset_version=_CODEC_OPSET if spec.name in (DAC_DECODER, DAC_ENCODER) else OPSET,
            dynamic_shapes=pack_arguments(spec, [axes(t) for t in spec.inputs]),
        )
        model = cast("ONNXProgram", program).model
        for name, _ in module.named_parameters():
            if name in model.graph.initializers:
                model.graph.initializers[name].const_value = None  # unfilled: must not be folded
        # Ranges stay nodes, which onnxruntime folds: a codec's weight file has its weights alone.
        optimizer.optimize_ir(
            model,
            onnx_shape_inference=False,
            should_fold=lambda node: False if node.op_type == "Range" else None,
        )
    for value, tensor in zip(
        (*model.graph.inputs, *model.graph.outputs), (*spec.inputs, *spec.outputs), strict=True
    ):
        value.name = tensor.name
        value.shape = ir.Shape(tensor.axes)
    for node in model.graph:
        node.metadata_props.clear()  # stack traces of the tracing, more than the graph itself
        for output in node.outputs[1:]:
            if not output.uses() and not output.is_graph_output():
                output.name = ""  # optional, and not wanted
    model.graph.name = spec.name
    model.producer_name = "dia-export"
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's chatter (torchvision is missing, steps are done) off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
