"""What runs on Apple's CoreML, and how: placement, options, and graphs in the form it wants.

onnxruntime's CoreML provider takes graphs best whose shapes are fixed and whose weights are inside;
and it refuses convolutions over an axis of more than 16384. So the codec runs in short windows
there, in static variants of its graphs, which a cache folder keeps. The text encoder and the
decoder, whose sizes change from call to call, run as they are; nobody has run them on a Mac yet.
"""

import hashlib
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dia_ort.artifacts import models_folder
from dia_ort.codec import Codes, RunDecoder, RunEncoder
from dia_ort.errors import ArtifactError, ProviderError
from dia_ort.graphs import (
    DAC_DECODER,
    DAC_ENCODER,
    DECODER,
    ENCODER,
    CodecSpec,
    GraphSpec,
    TensorSpec,
)
from dia_ort.manifest import Manifest
from dia_ort.providers import onnxruntime, session_options

LARGEST_AXIS = 16384
"""Of what a convolution may read: the widest texture of Apple's GPUs (onnxruntime's #24594)."""

_LARGEST_FILE = 1_900_000_000
"""Bytes, with the weights inside: protobuf ends at 2 GiB, and larger ones go into another file."""

_WEIGHTS = "session.optimized_model_external_initializers"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a graph runs when CoreML is asked for, and why."""

    on_coreml: bool
    reason: str


_STANDARD = Placement(
    on_coreml=True,
    reason="it has standard operators alone; as its sizes change, CoreML may leave some to the CPU",
)
_WHOLE_NUMBERS = Placement(
    on_coreml=False,
    reason="its products and attention are onnxruntime's own: the CPU provider has ARM kernels for "
    "them, and CoreML has none (dia-export --attention standard makes a model without them)",
)
_PLACEMENTS = {
    (ENCODER, "standard"): _STANDARD,
    (DECODER, "standard"): _STANDARD,
    (ENCODER, "fused"): _WHOLE_NUMBERS,
    (DECODER, "fused"): _WHOLE_NUMBERS,
}
_CODEC = Placement(
    on_coreml=True, reason="convolutions in float32, of standard operators: CoreML takes it whole"
)


def placement(graph: str, manifest: Manifest) -> Placement:
    """Where one of a model's graphs runs when CoreML is asked for."""
    if graph in {DAC_DECODER, DAC_ENCODER}:
        return _CODEC
    return _PLACEMENTS[graph, manifest.attention]


def cache_folder() -> Path:
    """Where static variants and what CoreML compiles of them are kept, beside the models."""
    return models_folder() / ".coreml"


def provider_options(cache: Path | None = None) -> dict[str, str]:
    """Options of onnxruntime's CoreML provider, by its names.

    Args:
        cache: For static graphs, a folder for compiled models, which exists. CoreML tells them
            apart by the paths of their graphs, and :func:`static_graph` gives another content
            another path.
    """
    options = {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}
    if cache is None:
        return options
    return options | {"RequireStaticInputShapes": "1", "ModelCacheDirectory": str(cache)}


def decoder_window(codec: CodecSpec) -> int:
    """Frames of audio that the DAC decoder's static graph makes; it is given their context besides.

    Its last convolutions read one frame more, or less.

    Raises:
        ProviderError: There are none.
    """
    frames = LARGEST_AXIS // codec.hop_length - 1
    if frames < 1:
        raise _too_few(codec)
    return frames


def encoder_window(codec: CodecSpec) -> int:
    """Frames that the DAC encoder's static graph takes, context included.

    Raises:
        ProviderError: They are all context.
    """
    frames = LARGEST_AXIS // codec.hop_length
    if frames <= 2 * codec.context_frames:
        raise _too_few(codec)
    return frames


def _too_few(codec: CodecSpec) -> ProviderError:
    return ProviderError(
        f"CoreML takes windows of {LARGEST_AXIS // codec.hop_length} frames of this codec, and "
        f"{codec.context_frames} on either side are context: take --provider cpu."
    )


def static_sizes(graph: str, manifest: Manifest) -> dict[str, int]:
    """The sizes of a graph's symbolic axes in its static variant.

    The codec's are of one window; the others' of one utterance: its two rows, or its text, at full
    length, of which ``text_lengths`` and ``seqlens_k`` say how much is real.
    """
    model, codec = manifest.model, manifest.codec
    return {
        ENCODER: {"rows": 1, "text": model.max_text},
        DECODER: {
            "rows": 2,
            "texts": 1,
            "steps": 1,
            "text": model.max_text,
            "cache": model.max_steps,
        },
        DAC_DECODER: {
            "batch": 1,
            "before": codec.context_frames,
            "frames": decoder_window(codec),
            "after": codec.context_frames,
        },
        DAC_ENCODER: {"batch": 1, "samples": encoder_window(codec) * codec.hop_length},
    }[graph]


def static_graph(path: Path, sizes: Mapping[str, int], folder: Path) -> Path:
    """A variant of a graph with fixed sizes and its weights inside; made once, then reused.

    onnxruntime makes it, so what depends on sizes alone is folded. Weights of more than protobuf
    can hold go into a file beside it.

    Args:
        path: The exported graph.
        sizes: By symbolic axis of its inputs; the others stay symbolic.
        folder: Where to keep it; made if need be.

    Raises:
        ArtifactError: onnxruntime does not load the graph, or the folder is not writable.
    """
    key = _identity(path, sizes)
    target = folder / f"{path.stem}-{key}.onnx"
    if target.is_file():
        return target
    # tempfile, up to Python 3.12, tries names for hours where Windows refuses all of them.
    scratch = folder / f".{path.stem}.{secrets.token_hex(8)}"
    try:
        scratch.mkdir(parents=True)
        _write_static(path, sizes, scratch / target.name)
        for file in sorted(scratch.iterdir(), reverse=True):  # the graph after its weights
            file.replace(folder / file.name)
    except OSError as error:
        raise ArtifactError(f"{folder} is not writable: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _write_static(path: Path, sizes: Mapping[str, int], target: Path) -> None:
    ort, options = onnxruntime(), session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    # Without these, the variant would refer to the weight file of the exported graph.
    inside = sum(file.stat().st_size for file in _files(path)) <= _LARGEST_FILE
    options.add_session_config_entry(f"{_WEIGHTS}_file_name", f"{target.name}.data")
    options.add_session_config_entry(
        f"{_WEIGHTS}_min_size_in_bytes", str(_LARGEST_FILE) if inside else "1024"
    )
    for axis, size in sizes.items():
        options.add_free_dimension_override_by_name(axis, size)
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no useful base
        raise ArtifactError(f"{path} cannot be made static: {error}") from error


def _files(path: Path) -> list[Path]:
    """A graph, and the weights that an export puts beside it, shared with its twins."""
    weights = path.with_name(f"{path.name.partition('.')[0]}.onnx.data")
    return [path, weights] if weights.is_file() else [path]


def _identity(path: Path, sizes: Mapping[str, int]) -> str:
    """What tells a static variant from others, short enough for a file's name."""
    stats = [(str(file.resolve()), file.stat()) for file in _files(path)]
    parts = [
        onnxruntime().__version__,
        *sorted(sizes.items()),
        *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def static_spec(spec: GraphSpec, manifest: Manifest) -> GraphSpec:
    """The declaration of one of the codec's graphs in its static variant."""
    hop, sizes = manifest.codec.hop_length, static_sizes(spec.name, manifest)
    sizes |= {"samples": sizes["frames"] * hop} if "frames" in sizes else {}
    sizes |= {"frames": sizes["samples"] // hop}

    def fixed(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(t, axes=tuple(sizes.get(str(axis), axis) for axis in t.axes)) for t in tensors
        )

    return replace(spec, inputs=fixed(spec.inputs), outputs=fixed(spec.outputs))


def decode_in_windows(plain: RunDecoder, static: RunDecoder, codec: CodecSpec) -> RunDecoder:
    """The DAC decoder for any number of frames.

    Args:
        plain: Runs what has less than the whole context, and what is less than a window.
        static: The static graph.
        codec: Whose graphs they are.

    Returns:
        It; the audio is that of ``plain`` alone, but for rounding.
    """
    frames, reach, hop = decoder_window(codec), codec.context_frames, codec.hop_length

    def run(before: Codes, codes: Codes, after: Codes) -> NDArray[np.float32]:
        whole = np.concatenate([before, codes, after], axis=-1)
        begin, end = before.shape[-1], whole.shape[-1] - after.shape[-1]
        first, last = max(begin, reach), min(end, whole.shape[-1] - reach)
        if last - first < frames:
            return plain(before, codes, after)
        starts = [*range(first, last - frames, frames), last - frames]
        windows = [(start, start + frames, static) for start in starts]
        pieces, done = [], begin
        for start, stop, decode in [(begin, first, plain), *windows, (last, end, plain)]:
            if start == stop:
                continue
            bounds = (max(start - reach, 0), start, stop, stop + reach)
            parts = (np.ascontiguousarray(whole[..., a:b]) for a, b in pairwise(bounds))
            pieces.append(decode(*parts)[..., (done - start) * hop :])
            done = stop
        return np.concatenate(pieces, axis=-1)

    return run


def encode_in_windows(plain: RunEncoder, static: RunEncoder, codec: CodecSpec) -> RunEncoder:
    """The DAC encoder for any number of frames; arguments as :func:`decode_in_windows` has them."""
    frames, reach, hop = encoder_window(codec), codec.context_frames, codec.hop_length

    def run(samples: NDArray[np.float32]) -> Codes:
        total = samples.shape[-1] // hop
        if total < frames:
            return plain(samples)
        pieces, done = [], 0
        while done < total:
            first = min(max(done - reach, 0), total - frames)
            last = first + frames
            stop = total if last == total else last - reach
            codes = static(np.ascontiguousarray(samples[..., first * hop : last * hop]))
            pieces.append(codes[..., done - first : stop - first])
            done = stop
        return np.concatenate(pieces, axis=-1)

    return run
