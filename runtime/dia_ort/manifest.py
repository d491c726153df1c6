"""The manifest: the JSON beside the graphs that says what an artifact is.

The runtime reads nothing else to know names, shapes, rules and files. Reading is strict: a key too
many or too few, a wrong type, a file outside the folder, or a newer format is an error.
"""

import contextlib
import dataclasses
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from dia_ort.errors import ArtifactError, ArtifactNotFoundError, UnsupportedVersionError
from dia_ort.graphs import (
    DAC_DECODER,
    GRAPH_NAMES,
    CodecSpec,
    GraphName,
    GraphSpec,
    ModelSpec,
    graph_spec,
)

MANIFEST_NAME = "manifest.json"
FORMAT: Final = "dia-ort"
VERSION = 2
"""Of the manifest and of the graphs that it names: another interface is another version."""

Compute = Literal["float32", "float16", "bfloat16"]
Attention = Literal["fused", "standard"]
OneProvider = Literal["webgpu", "cpu"]
"""Providers that have graphs of their own; the CPU's are for x86 without VNNI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What a file of the artifact must be: its size in bytes and its SHA-256, in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Where the weights of a product in whole numbers are: int8, from -127 to 127.

    Attributes:
        name: Of the graph's initializer.
        shape: Inputs and outputs of the product.
        offset: Of the first one in the graph's weight file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInfo:
    """One ONNX file.

    Attributes:
        graph: Which of the four graphs it is.
        file: The ONNX file.
        data: The external weight file it refers to, which two graphs may share; None if it has
            its weights inside.
        compute: The dtype it computes in, and that its key/value tensors have.
        nodes: How many nodes it has.
        provider: The one provider that it is for; None: all that have kernels for it.
        unsigned: Weights that the graph wants as uint8 with a zero point of 128, though the file
            has them as int8: they are converted as it is loaded. Of ``"cpu"`` graphs alone.
    """

    graph: GraphName
    file: str
    data: str | None
    compute: Compute
    nodes: int
    provider: OneProvider | None = None
    unsigned: tuple[Levels, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model or codec came from: a hub id, a path's name, or a seed, and its layout."""

    name: str
    revision: str | None
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Quantisation of a matrix.

    Attributes:
        bits: Of each weight.
        block_size: How many inputs of an output share a scale; None: all of them, and products
            run in whole numbers, with one scale for each row of activations.
    """

    bits: int
    block_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything an artifact says of itself.

    Attributes:
        format: Always ``"dia-ort"``.
        version: Of this format.
        dtype: As ``dia-export --dtype`` was given.
        quantization: By part of the model (encoder, decoder, logits, embedding); None where nothing
            is quantised.
        cache: Dtype of the decoder's key/value cache; None: what the graph computes in, as graphs
            for WebGPU do in any case.
        model: Shapes, tokens and rules of the Dia.
        codec: Shapes of the DAC.
        graphs: The ONNX files.
        files: Size and hash of every file but the manifest.
        sources: Where the model and the codec came from.
        tools: Versions of what made the artifact.
        verification: The gate's figures, by graph; empty when it was skipped.
        attention: As ``dia-export --attention`` was given: ``"fused"``: onnxruntime's own operators
            in the text encoder and the decoder; ``"standard"``: none but ONNX's standard ones.
    """

    format: Literal["dia-ort"]
    version: int
    dtype: Literal["fp32", "fp16", "bf16", "int8", "int4"]
    quantization: dict[str, Blocks] | None
    cache: Literal["int8"] | None
    model: ModelSpec
    codec: CodecSpec
    graphs: tuple[GraphInfo, ...]
    files: dict[str, FileInfo]
    sources: dict[str, Source]
    tools: dict[str, str]
    verification: dict[str, dict[str, float]]
    attention: Attention

    @property
    def codec_id(self) -> str:
        """What tells the codec from others: the head of its decoder's SHA-256.

        The codec is stored alike for every dtype, so artifacts of one codec share it. An exporter
        that stores it in another way, or the same weights in another layout, changes it.
        """
        info = next(info for info in self.graphs if info.graph == DAC_DECODER)
        return self.files[info.data or info.file].sha256[:16]

    def spec(self, info: GraphInfo) -> GraphSpec:
        """The declared interface of one of :attr:`graphs`."""
        return graph_spec(info.graph, self.model, self.codec, info.compute, self.cache_of(info))

    def cache_of(self, info: GraphInfo) -> str | None:
        """:attr:`cache`, for one of :attr:`graphs`."""
        return None if info.provider == "webgpu" else self.cache

    def find(self, graph: str, compute: str) -> GraphInfo | None:
        """The file of a graph that computes in ``compute``, for any provider, if there is one."""
        for info in self.graphs:
            if (info.graph, info.compute, info.provider) == (graph, compute, None):
                return info
        return None

    def to_json(self) -> str:
        """The manifest as it is written to disk."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an artifact folder.

    Raises:
        ArtifactNotFoundError: There is no manifest.
        UnsupportedVersionError: A newer dia-ort wrote it, or an older one.
        ArtifactError: It is not what a manifest must be; the message lists the keys.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactNotFoundError(
            f"{folder} is no exported model: it has no {MANIFEST_NAME}. "
            "Make one with `dia-export --output`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: str, where: str = MANIFEST_NAME) -> Manifest:
    """Parse and check a manifest's JSON; ``where`` names it in errors.

    Raises:
        UnsupportedVersionError: A newer dia-ort wrote it, or an older one.
        ArtifactError: It is not what a manifest must be.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{where} is not valid JSON ({error}); export the model again."
        ) from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ArtifactError(f'{where} is no dia-ort manifest: "format" is not "{FORMAT}".')
    version = raw.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(
            f'{where}: "version" must be a positive whole number, not {reprlib.repr(version)}.'
        )
    if version > VERSION:
        raise UnsupportedVersionError(
            f"{where} has format version {version}, and this dia-ort reads up to {VERSION}. "
            "Upgrade dia-ort (pip install -U dia-ort), or export the model again."
        )
    if version < VERSION:
        raise UnsupportedVersionError(
            f"{where} has format version {version}, of an older dia-ort, and this one reads "
            f"{VERSION}: export the model again."
        )
    manifest: Manifest = _parse(Manifest, raw, where, "")
    _check(manifest, where)
    return manifest


def _check(manifest: Manifest, where: str) -> None:
    """What types alone do not say."""
    problem = next(_problems(manifest), None)
    if problem is not None:
        raise ArtifactError(f"{where}: {problem}.")


def _problems(manifest: Manifest) -> Iterator[str]:
    """What is wrong; each check relies on those before it."""
    yield from _size_problems(manifest.model)
    yield from _size_problems(manifest.codec)
    yield from _model_problems(manifest.model, manifest.codec)
    yield from _file_problems(manifest)
    yield from _unsigned_problems(manifest)
    present = [(info.graph, info.compute, info.provider) for info in manifest.graphs]
    general = {graph for graph, _, provider in present if provider is None}
    if len(set(present)) != len(present) or general != set(GRAPH_NAMES):
        yield f"graphs must hold each of {', '.join(GRAPH_NAMES)} once per compute dtype"


def _size_problems(section: ModelSpec | CodecSpec) -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        least = 0 if field.name.endswith("token_id") else 1
        if isinstance(value, int) and value < least:
            yield f"{field.name} must be at least {least}, not {value}"


def _model_problems(model: ModelSpec, codec: CodecSpec) -> Iterator[str]:
    if len(model.delay_pattern) != model.num_channels:
        yield "model.delay_pattern must have model.num_channels entries"
    if min(model.delay_pattern) != 0 or model.delay_pattern[0] != 0:
        yield "model.delay_pattern must begin with 0 and be 0 or more"
    if codec.num_codebooks != model.num_channels:
        yield "codec.num_codebooks must equal model.num_channels"
    tokens = (model.eos_token_id, model.pad_token_id, model.bos_token_id)
    if max(tokens) >= model.vocab_size or min(tokens) < codec.codebook_size:
        yield "special tokens must lie between the codes and vocab_size"


def _file_problems(manifest: Manifest) -> Iterator[str]:
    files = [file for info in manifest.graphs for file in (info.file, info.data)]
    named = {file for file in files if file is not None}
    listed = manifest.files.keys()
    for name in sorted(named | listed):
        if name in {"", ".", ".."} or any(character in name for character in "/\\:\0"):
            yield f"the file name {name!r} points outside the folder"
    if named != listed:
        wrong = ", ".join(sorted(named ^ listed))
        yield f"graphs and files do not name the same files ({wrong})"


def _unsigned_problems(manifest: Manifest) -> Iterator[str]:
    for info in manifest.graphs:
        size = manifest.files[info.data].size if info.data and info.provider == "cpu" else 0
        for part in info.unsigned:
            if min(part.offset, *part.shape) < 0 or part.offset + math.prod(part.shape) > size:
                yield f"{part.name} of {info.file} is not within its weight file"


def _parse(kind: Any, value: Any, where: str, key: str) -> Any:
    """``value`` as ``kind``, a dataclass or annotation; errors name the dotted key."""
    if dataclasses.is_dataclass(kind):
        return _parse_object(kind, value, where, key)
    parse = _PARSERS.get(typing.get_origin(kind), _parse_scalar)
    return parse(kind, value, where, key)


def _parse_object(kind: Any, value: Any, where: str, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, key, "an object", value)
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    needed = {name for name, default in fields.items() if default is dataclasses.MISSING}
    missing, unknown = sorted(needed - value.keys()), sorted(value.keys() - fields.keys())
    if missing or unknown:
        problems = [f"lacks {_join(key, name)}" for name in missing]
        problems += [f"has an unknown {_join(key, name)}" for name in unknown]
        raise ArtifactError(f"{where} {', '.join(problems)}; export the model again.")
    hints = typing.get_type_hints(kind)
    return kind(
        **{name: _parse(hints[name], value[name], where, _join(key, name)) for name in value}
    )


def _parse_literal(kind: Any, value: Any, where: str, key: str) -> Any:
    choices = typing.get_args(kind)
    if value not in choices:
        raise _wrong(where, key, " or ".join(map(repr, choices)), value)
    return value


def _parse_optional(kind: Any, value: Any, where: str, key: str) -> Any:
    inner = next(a for a in typing.get_args(kind) if a is not types.NoneType)
    return None if value is None else _parse(inner, value, where, key)


def _parse_list(kind: Any, value: Any, where: str, key: str) -> Any:
    if not isinstance(value, list):
        raise _wrong(where, key, "a list", value)
    item = typing.get_args(kind)[0]
    return tuple(_parse(item, v, where, f"{key}[{i}]") for i, v in enumerate(value))


def _parse_mapping(kind: Any, value: Any, where: str, key: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, key, "an object", value)
    item = typing.get_args(kind)[1]
    return {name: _parse(item, v, where, _join(key, name)) for name, v in value.items()}


def _parse_scalar(kind: Any, value: Any, where: str, key: str) -> Any:
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):  # then it is refused as the int that it is
            value = float(value)
    if type(value) is not kind:  # bool is an int to isinstance
        raise _wrong(where, key, _SCALARS[kind], value)
    return value


_SCALARS = {str: "text", int: "a whole number", float: "a number"}

_PARSERS: dict[Any, Callable[[Any, Any, str, str], Any]] = {
    Literal: _parse_literal,
    typing.Union: _parse_optional,
    types.UnionType: _parse_optional,
    tuple: _parse_list,
    dict: _parse_mapping,
}


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def _wrong(where: str, key: str, wanted: str, value: object) -> ArtifactError:
    return ArtifactError(
        f"{where}: {key or 'the whole'} must be {wanted}, not {reprlib.repr(value)}."
    )
