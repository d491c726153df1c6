"""The export: from checkpoints to a verified artifact folder, or to nothing at all."""

import contextlib
import dataclasses
import gc
import importlib.metadata
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import get_args

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dia_export.calibrate import Progress, calibrate_cache, calibrate_rounding, set_cache_scales
from dia_export.errors import ExportError, OutputExistsError
from dia_export.recipes import RECIPES, Dtype, Recipe
from dia_export.trace import build_module, codec_spec, model_spec, trace
from dia_export.unsigned import to_unsigned
from dia_export.verify import TOLERANCES, Figures, Reference, check_graph
from dia_export.weights import attach_weights
from dia_models.checkpoint import DacCheckpoint, DiaCheckpoint, Weight, open_dac, open_dia
from dia_models.random_weights import (
    FULL_DAC,
    FULL_DIA,
    TINY_DAC,
    TINY_DIA,
    random_dac,
    random_dia,
)
from dia_ort import __version__
from dia_ort.artifacts import hash_file, models_folder
from dia_ort.graphs import (
    DAC_DECODER,
    DAC_ENCODER,
    DECODER,
    ENCODER,
    GraphName,
    GraphSpec,
    graph_spec,
)
from dia_ort.levels import levels_of
from dia_ort.manifest import (
    FORMAT,
    MANIFEST_NAME,
    VERSION,
    Attention,
    Compute,
    FileInfo,
    GraphInfo,
    Manifest,
    OneProvider,
    Source,
)
from dia_ort.providers import onnxruntime

DEFAULT_MODEL = "nari-labs/Dia-1.6B-0626"
DEFAULT_CODEC = "descript/dac_44khz"
RANDOM_MODELS = {"tiny-random": (TINY_DIA, TINY_DAC), "full-random": (FULL_DIA, FULL_DAC)}
"""Stand-ins with random weights: nothing to download, nothing to hear."""


@dataclass(frozen=True, slots=True)
class GraphReport:
    """A row of the closing table.

    Attributes:
        file: The ONNX file.
        nodes: In it.
        size: Of it and its weights, in bytes.
        seconds: To trace, write and verify.
        figures: The gate's; empty if it was skipped or cannot run here.
    """

    file: str
    nodes: int
    size: int
    seconds: float
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Where the artifact is, and a report for every graph."""

    folder: Path
    reports: list[GraphReport]


def export(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    codec: str | os.PathLike[str] | None = None,
    *,
    dtype: Dtype = "fp16",
    attention: Attention = "fused",
    output: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    seed: int = 0,
    calibrate: bool = True,
    verify: bool = True,
    force: bool = False,
    progress: Progress = lambda _stage, _done, _total: None,
) -> ExportResult:
    """Export a Dia and its codec to ONNX graphs that dia-ort runs.

    Everything is written into a hidden folder beside the target, verified there, and renamed at
    the end; whatever goes wrong before leaves no artifact.

    Args:
        model: A hub id, a local folder or file, or one of :data:`RANDOM_MODELS`.
        codec: The same for the DAC; None takes :data:`DEFAULT_CODEC`, or random weights for a
            random model.
        dtype: What the weights become; see :mod:`dia_export.recipes`.
        attention: ``"fused"`` takes onnxruntime's own operators, which are fast on CPUs and NVIDIA
            GPUs; ``"standard"`` has none but ONNX's, for CoreML and other providers. int8 and int4
            are fused only.
        output: The folder to make; None: a name after model, dtype and, if it is standard, the
            attention, where dia-ort looks first.
        revision: Of the model's hub id.
        seed: Of random weights.
        calibrate: Whether int4's weights are rounded by what the decoder's layers are given, which
            takes minutes and all of the decoder in memory, or each to its nearest level. Other
            dtypes have no such choice.
        verify: Whether to hold every graph against PyTorch before publishing.
        force: Replace the output folder if it is an exported model.
        progress: Told of every stage.

    Raises:
        OutputExistsError: The output folder is not empty, and ``force`` is off, or it is no
            exported model.
        CheckpointError, ConfigError: The checkpoint cannot be read, or is not a Dia or DAC.
        GateError: A graph is not equal enough to PyTorch.
        ExportError: There is no such dtype or attention, they do not go together, the disk is full,
            or the folder is not writable.
    """
    _check_options(dtype, attention)
    text = os.fspath(model)
    name = Path(text).resolve().name if Path(text).exists() else text.rsplit("/", 1)[-1]
    name += f"-{dtype}" if attention == "fused" else f"-{dtype}-{attention}"
    target = Path(output) if output is not None else models_folder() / name
    _refuse_taken(target, force=force)  # before anything is downloaded
    dia, dac = open_sources(text, codec, revision, seed)
    with _published(target) as folder:
        exporter = Exporter(
            folder, dia, dac, RECIPES[dtype], progress, attention, calibrate=calibrate
        )
        reports = exporter.run(Reference(dia, dac) if verify else None)
    return ExportResult(target, reports)


def open_sources(
    model: str, codec: str | os.PathLike[str] | None, revision: str | None, seed: int
) -> tuple[DiaCheckpoint, DacCheckpoint]:
    """Open the model's and the codec's checkpoints, or make random ones."""
    is_random = model in RANDOM_MODELS
    dia = random_dia(RANDOM_MODELS[model][0], seed) if is_random else open_dia(model, revision)
    if codec is None:
        codec = model if is_random else DEFAULT_CODEC
    chosen = os.fspath(codec)
    if chosen in RANDOM_MODELS:
        return dia, random_dac(RANDOM_MODELS[chosen][1], seed)
    return dia, open_dac(chosen)


def _check_options(dtype: Dtype, attention: Attention) -> None:
    if dtype not in RECIPES:
        raise ExportError(f"dtype is {dtype!r}: take one of {', '.join(RECIPES)}.")
    if attention not in get_args(Attention):
        choices = ", ".join(get_args(Attention))
        raise ExportError(f"attention is {attention!r}: take one of {choices}.")
    if attention == "standard" and RECIPES[dtype].quantization:
        plain = ", ".join(name for name, recipe in RECIPES.items() if not recipe.quantization)
        raise ExportError(
            f"{dtype} has no standard attention: its products are onnxruntime's own operators. "
            f"Take --attention fused, or one of {plain}."
        )


def _refuse_taken(target: Path, *, force: bool) -> None:
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise ExportError(f"{target} cannot be read: {error}. Choose another --output.") from error
    if taken and not force:
        raise OutputExistsError(
            f"{target} exists: choose another --output, or replace it (--force)."
        )
    if taken and not (target / MANIFEST_NAME).is_file():
        raise OutputExistsError(
            f"{target} exists and is no exported model, and --force replaces nothing else: choose "
            "another --output."
        )


@contextlib.contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes the target's place if the block ends well."""
    target = target.resolve()  # a link stays, and its folder is replaced
    # tempfile, up to Python 3.12, tries names for hours where Windows refuses all of them.
    folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ExportError(
            f"{target.parent} is not writable: {error}. Choose another --output."
        ) from error
    try:
        yield folder
        _put(folder, target)
    except OSError as error:
        raise ExportError(f"writing to {target} failed: {error}. Nothing was published.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(folder: Path, target: Path) -> None:
    """Rename a folder; what stood in its place goes, but comes back if that fails."""
    if not target.exists():
        folder.rename(target)
        return
    old = folder.with_suffix(".old")
    target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


class Exporter:
    """One export: traces, writes and verifies each graph in turn, then writes the manifest.

    Args:
        folder: Where the files go; it exists.
        dia: The model.
        dac: The codec.
        recipe: What the weights become.
        progress: Told of every stage.
        attention: Which operators the text encoder and the decoder may have.
        calibrate: As for :func:`export`.
    """

    def __init__(
        self,
        folder: Path,
        dia: DiaCheckpoint,
        dac: DacCheckpoint,
        recipe: Recipe,
        progress: Progress,
        attention: Attention = "fused",
        *,
        calibrate: bool = True,
    ) -> None:
        self._folder = folder
        self._dia, self._dac = dia, dac
        self._recipe = recipe
        self._progress = progress
        self._attention = attention
        self._calibrate = calibrate
        self._model, self._codec = model_spec(dia.config), codec_spec(dac.config)
        self._infos: list[GraphInfo] = []
        self._reports: list[GraphReport] = []

    def run(self, reference: Reference | None) -> list[GraphReport]:
        """Write the whole folder."""
        for graph in (ENCODER, DECODER, DAC_DECODER, DAC_ENCODER):
            self._export_graph(graph, reference)
        self._write_manifest()
        return self._reports

    def _export_graph(self, graph: GraphName, reference: Reference | None) -> None:
        """Write a graph for every compute dtype, over one weight file, and verify each."""
        is_codec = graph in (DAC_DECODER, DAC_ENCODER)
        computes: tuple[Compute, ...] = ("float32",) if is_codec else self._recipe.compute
        started = time.monotonic()
        infos, shared = [], None
        for compute in computes:
            info, written = self.write_graph(graph, compute, shared)
            shared = shared or written
            infos.append(info)
        if graph == DECODER and "float16" in computes and self._attention == "fused":
            infos.append(self.write_graph(graph, "float16", shared, "webgpu")[0])
        infos += self._write_unsigned(infos[computes.index("float32")])
        seconds = (time.monotonic() - started) / len(infos)
        cases = None
        if reference is not None:
            self._progress(f"{graph}: PyTorch's values", 0, 1)
            cases = reference.cases(graph)
            self._progress(f"{graph}: PyTorch's values", 1, 1)
        for index, info in enumerate(infos):
            started = time.monotonic()
            figures: Figures = {}
            # onnxruntime's CPU provider widens float16 nodes but has no way to run bfloat16 ones.
            if cases is not None and info.compute != "bfloat16":
                self._progress(f"{info.file}: verify", 0, 1)
                figures = check_graph(
                    *(self._folder / info.file, self._spec(graph, info.compute, info.provider)),
                    *(cases, TOLERANCES[self._recipe.dtype]),
                    levels=levels_of(self._folder, info),
                )
                self._progress(f"{info.file}: verify", 1, 1)
            size = (self._folder / info.file).stat().st_size
            if info.data and index == 0:
                size += (self._folder / info.data).stat().st_size
            self._infos.append(info)
            self._reports.append(
                GraphReport(
                    info.file, info.nodes, size, seconds + time.monotonic() - started, figures
                )
            )

    @cached_property
    def _cache_scales(self) -> list[tuple[Tensor, Tensor]]:
        """Of the 8-bit cache, in all graphs that have one."""
        return calibrate_cache(self._dia.config, self._dia.weights)

    def write_graph(
        self,
        graph: GraphName,
        compute: Compute,
        shared: ir.Model | None,
        provider: OneProvider | None = None,
    ) -> tuple[GraphInfo, ir.Model]:
        """Write one graph.

        Args:
            graph: Which.
            compute: The dtype it computes in.
            shared: None, or what this returned for the graph in another dtype, whose weight file
                the new one uses.
            provider: The one that it is for, if it is.

        Returns:
            What the manifest says of it, and the model as written.
        """
        variant = f".{provider or compute}" if shared else ""
        path = self._folder / f"{graph}{variant}.onnx"
        data = f"{graph}.onnx.data"
        self._progress(f"{path.name}: trace", 0, 1)
        module = build_module(graph, self._dia.config, self._dac.config, self._attention, provider)
        module = _in_dtype(module, compute)
        spec = self._spec(graph, compute, provider)
        if any(tensor.dtype == "int8" for tensor in spec.inputs):
            set_cache_scales(module, self._cache_scales)
        model = trace(spec, module, hop_length=self._codec.hop_length)
        self._progress(f"{path.name}: trace", 1, 1)
        is_codec = graph in (DAC_DECODER, DAC_ENCODER)
        weights = self._dac.weights if is_codec else _below(f"{graph}.", self._dia.weights)
        names = attach_weights(
            model,
            weights,
            storage=None if is_codec else self._recipe.storage,
            compute=compute,
            quantization={} if is_codec else self._recipe.quantization,
            rounded=self._round(graph) if shared is None else {},
        )
        if shared is None:
            stage = f"{path.name}: write"
            ir.save(
                model,
                path,
                external_data=data,
                callback=lambda _tensor, at: self._progress(stage, at.index + 1, at.total),
            )
        else:
            # Weights alone: constants of the two graphs may have the same name by chance.
            for name in names:
                initializer = model.graph.initializers[name]
                initializer.const_value = shared.graph.initializers[name].const_value
            ir.save(model, path)
        nodes = sum(1 for _ in model.graph)
        info = GraphInfo(
            graph=graph, file=path.name, data=data, compute=compute, nodes=nodes, provider=provider
        )
        del module, model
        gc.collect()
        return info, shared or ir.load(path)

    def _write_unsigned(self, info: GraphInfo) -> list[GraphInfo]:
        """Write the variant for x86 without VNNI of a graph in float32, if it has one."""
        model = ir.load(self._folder / info.file)
        levels = to_unsigned(model)
        if not levels:
            return []
        file = f"{info.graph}.unsigned.onnx"
        ir.save(model, self._folder / file)
        return [dataclasses.replace(info, file=file, provider="cpu", unsigned=levels)]

    def _spec(self, graph: GraphName, compute: Compute, provider: str | None) -> GraphSpec:
        cache = None if provider == "webgpu" else self._recipe.cache
        return graph_spec(graph, self._model, self._codec, compute, cache)

    def _round(self, graph: GraphName) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The decoder's matrices by name, where 4 bits make calibrated rounding worth its time."""
        blocks = self._recipe.quantization.get(graph)
        if (
            graph == DECODER
            and self._calibrate
            and blocks
            and blocks.bits == 4
            and blocks.block_size
        ):
            return calibrate_rounding(
                self._dia.config, self._dia.weights, blocks.bits, blocks.block_size, self._progress
            )
        return {}

    def _write_manifest(self) -> None:
        files = {}
        paths = sorted(self._folder.iterdir())
        for index, path in enumerate(paths):
            self._progress("hash", index, len(paths))
            files[path.name] = FileInfo(size=path.stat().st_size, sha256=hash_file(path))
        self._progress("hash", len(paths), len(paths))
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            dtype=self._recipe.dtype,
            quantization=self._recipe.quantization or None,
            cache=self._recipe.cache,
            model=self._model,
            codec=self._codec,
            graphs=tuple(self._infos),
            files=files,
            sources={"model": _source(self._dia), "codec": _source(self._dac)},
            tools={
                "dia-ort": __version__,
                "onnxruntime": onnxruntime().__version__,  # its package has several names
                **_versions("torch", "onnx", "onnxscript"),
            },
            verification={
                report.file: report.figures for report in self._reports if report.figures
            },
            attention=self._attention,
        )
        (self._folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def _in_dtype(module: nn.Module, dtype: str) -> nn.Module:
    """The module with its (unfilled) matrices in ``dtype``; vectors stay float32."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.empty_like(parameter, dtype=getattr(torch, dtype))
    return module


def _below(prefix: str, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def _source(checkpoint: DiaCheckpoint | DacCheckpoint) -> Source:
    """Where a checkpoint came from; of a local path only its name, which tells nothing private."""
    name = str(checkpoint.source)
    return Source(
        name=Path(name).name if Path(name).exists() else name,
        revision=checkpoint.revision,
        layout=checkpoint.layout,
    )


def _versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}
