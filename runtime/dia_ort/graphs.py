"""The one declaration of every exported graph: names, dtypes and symbolic axes.

The exporter traces with it, the gate checks against it, the manifest records it, and the runtime
binds by it. An axis is either a fixed size or the name of a size that may change from call to call.
"""

from dataclasses import dataclass
from typing import Final, Literal

Release = Literal["first", "0626"]
GraphName = Literal["encoder", "decoder", "dac_decoder", "dac_encoder"]

ENCODER: Final = "encoder"
DECODER: Final = "decoder"
DAC_DECODER: Final = "dac_decoder"
DAC_ENCODER: Final = "dac_encoder"
GRAPH_NAMES: tuple[GraphName, ...] = (ENCODER, DECODER, DAC_DECODER, DAC_ENCODER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What the runtime must know of a Dia: shapes, tokens and the rules of its release.

    Attributes:
        release: Which weights these are: ``"first"`` (Dia-1.6B) or ``"0626"`` (Dia-1.6B-0626 and
            whatever transformers loads). Guidance and sampling differ between them.
        num_layers: Decoder layers.
        num_kv_heads: Key/value heads of the decoder's self-attention.
        head_dim: Width of one of those heads.
        cross_num_heads: Heads of the cross-attention.
        cross_head_dim: Width of one of those heads.
        num_channels: Audio channels, one per codebook.
        vocab_size: Tokens per channel, special ones included.
        max_steps: Decoder positions, delayed rows and audio prompt included.
        text_vocab_size: Size of the byte vocabulary.
        max_text: Text positions, in bytes (a speaker tag counts one).
        delay_pattern: By how many steps each channel lags behind the first.
        eos_token_id: End of speech.
        pad_token_id: What follows it.
        bos_token_id: Start of audio.
    """

    release: Release
    num_layers: int
    num_kv_heads: int
    head_dim: int
    cross_num_heads: int
    cross_head_dim: int
    num_channels: int
    vocab_size: int
    max_steps: int
    text_vocab_size: int
    max_text: int
    delay_pattern: tuple[int, ...]
    eos_token_id: int
    pad_token_id: int
    bos_token_id: int

    @property
    def max_delay(self) -> int:
        """Steps between a frame's first channel and its last."""
        return max(self.delay_pattern)

    @property
    def max_prompt(self) -> int:
        """Frames of the longest audio prompt that leaves room for a frame of speech."""
        return self.max_steps - self.max_delay - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """What the runtime must know of a DAC.

    Attributes:
        sample_rate: In hertz.
        hop_length: Samples per frame of codes.
        num_codebooks: Codes per frame.
        codebook_size: Entries per codebook.
        context_frames: Frames on either side that a frame's samples depend on: the receptive field
            of the DAC decoder, rounded up.
    """

    sample_rate: int
    hop_length: int
    num_codebooks: int
    codebook_size: int
    context_frames: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a graph: its name, NumPy-style dtype, and axes."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One graph's interface, inputs and outputs in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def cache_names(num_layers: int, key: str, value: str) -> list[str]:
    """Names of per-layer key/value tensors, in graph order."""
    return [f"{kind}.{layer}" for layer in range(num_layers) for kind in (key, value)]


def encoder_graph(model: ModelSpec, dtype: str) -> GraphSpec:
    """Text to the cross-attention keys and values of every decoder layer."""
    axes = ("rows", model.cross_num_heads, "text", model.cross_head_dim)
    return GraphSpec(
        ENCODER,
        inputs=(
            TensorSpec("tokens", "int64", ("rows", "text")),
            TensorSpec("text_lengths", "int32", ("rows",)),
        ),
        outputs=tuple(
            TensorSpec(name, dtype, axes)
            for name in cache_names(model.num_layers, "cross_key", "cross_value")
        ),
    )


def decoder_graph(model: ModelSpec, dtype: str, cache_dtype: str | None = None) -> GraphSpec:
    """Any number of decoder steps; ``past`` and ``present`` may be the same memory.

    ``seqlens_k`` is the position of each row's last step, and ``total_sequence_length`` the
    largest of them plus one, as onnxruntime's GroupQueryAttention counts. Conditional rows, one
    for each of ``texts``, come before the unconditional ones, whose cross-attention is the constant
    ``uncond_value``.
    """
    cross = ("texts", model.cross_num_heads, "text", model.cross_head_dim)
    cache = ("rows", model.num_kv_heads, "cache", model.head_dim)

    def layers(
        key: str, value: str, dtype: str, axes: tuple[str | int, ...]
    ) -> tuple[TensorSpec, ...]:
        names = cache_names(model.num_layers, key, value)
        return tuple(TensorSpec(name, dtype, axes) for name in names)

    return GraphSpec(
        DECODER,
        inputs=(
            TensorSpec("tokens", "int64", ("rows", "steps", model.num_channels)),
            TensorSpec("seqlens_k", "int32", ("rows",)),
            TensorSpec("total_sequence_length", "int32", (1,)),
            TensorSpec("text_lengths", "int32", ("texts",)),
            TensorSpec(
                "uncond_value",
                dtype,
                (model.num_layers, model.cross_num_heads * model.cross_head_dim),
            ),
            *layers("cross_key", "cross_value", dtype, cross),
            *layers("past_key", "past_value", cache_dtype or dtype, cache),
        ),
        outputs=(
            TensorSpec(
                "logits", "float32", ("rows", "steps", model.num_channels, model.vocab_size)
            ),
            *layers("present_key", "present_value", cache_dtype or dtype, cache),
        ),
    )


def dac_decoder_graph(codec: CodecSpec) -> GraphSpec:
    """Codes to audio, ``hop_length`` samples a frame.

    Where there are neighbours ``before`` and ``after``, ``context_frames`` of them on that side
    make the audio what it is in the whole; where there are none, the whole begins or ends.
    """

    def codes(name: str, frames: str) -> TensorSpec:
        return TensorSpec(name, "int64", ("batch", codec.num_codebooks, frames))

    return GraphSpec(
        DAC_DECODER,
        inputs=(codes("before", "before"), codes("codes", "frames"), codes("after", "after")),
        outputs=(TensorSpec("audio", "float32", ("batch", 1, "samples")),),
    )


def dac_encoder_graph(codec: CodecSpec) -> GraphSpec:
    """Audio, padded to whole frames, to codes."""
    return GraphSpec(
        DAC_ENCODER,
        inputs=(TensorSpec("audio", "float32", ("batch", 1, "samples")),),
        outputs=(TensorSpec("codes", "int64", ("batch", codec.num_codebooks, "frames")),),
    )


def graph_spec(
    name: str, model: ModelSpec, codec: CodecSpec, dtype: str, cache_dtype: str | None = None
) -> GraphSpec:
    """The declaration of a graph that computes in ``dtype``.

    Args:
        name: Which graph.
        model: Shapes of the Dia.
        codec: Shapes of the DAC.
        dtype: Of its key/value tensors.
        cache_dtype: Of the decoder's cache, where that is another.

    Raises:
        KeyError: If there is no such graph.
    """
    return {
        ENCODER: lambda: encoder_graph(model, dtype),
        DECODER: lambda: decoder_graph(model, dtype, cache_dtype),
        DAC_DECODER: lambda: dac_decoder_graph(codec),
        DAC_ENCODER: lambda: dac_encoder_graph(codec),
    }[name]()
