"""What ``dia-ort models``, ``info`` and ``verify`` print."""

import dataclasses
import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dia_ort.artifacts import Artifact, find_artifact, hash_file, list_artifacts, models_folder
from dia_ort.config import GenerationConfig
from dia_ort.decoder import TEXT_BLOCK, slot_bytes
from dia_ort.dia import Dia
from dia_ort.errors import ArtifactError
from dia_ort.graphs import GRAPH_NAMES
from dia_ort.manifest import GraphInfo, Manifest, Source
from dia_ort.providers import open_session, resolve_provider


def list_models(*, as_json: bool) -> str:
    """A table (or JSON) of the models that load by name; the first is the default one."""
    rows = [summary(artifact) for artifact in list_artifacts()]
    if as_json:
        return json.dumps(rows, indent=2)
    table = [(r["name"], r["dtype"], show_size(r["size"]), r["source"], r["folder"]) for r in rows]
    return "\n".join(
        [
            *align([("NAME", "DTYPE", "SIZE", "SOURCE", "FOLDER"), *table]),
            "",
            "Without --model, the first of them speaks.",
            f"dia-export puts models into {models_folder()}.",
        ]
    )


def summary(artifact: Artifact) -> dict[str, Any]:
    """A model in five words, for tables and JSON; the size is in bytes."""
    source = artifact.manifest.sources.get("model")
    return {
        "name": artifact.name,
        "dtype": artifact.manifest.dtype,
        "size": sum(file.size for file in artifact.manifest.files.values()),
        "source": "" if source is None else source.name,
        "folder": str(artifact.folder),
    }


def describe(model: str | None, *, as_json: bool) -> str:
    """A model's manifest, to read (or as JSON).

    Raises:
        ArtifactNotFoundError: There is no such model.
        ArtifactError: It is not what it must be.
    """
    artifact = find_artifact(model)
    manifest = artifact.manifest
    if as_json:
        body = {"name": artifact.name, "folder": str(artifact.folder)}
        return json.dumps({**body, "manifest": dataclasses.asdict(manifest)}, indent=2)
    head = summary(artifact)
    rows = [
        *[(name, head[name]) for name in ("name", "folder", "dtype")],
        ("size", show_size(head["size"])),
        ("quantized", _quantized(manifest)),
        ("attention", manifest.attention),
        ("an utterance takes", _slot(manifest)),
        *[(f"{part} from", _origin(source)) for part, source in manifest.sources.items()],
        ("made with", ", ".join(f"{tool} {number}" for tool, number in manifest.tools.items())),
    ]
    graphs = [
        ("GRAPH", "FILE", "COMPUTES IN", "NODES", "SIZE"),
        *[
            (graph.graph, graph.file, _compute(graph), str(graph.nodes), _size(artifact, graph))
            for graph in manifest.graphs
        ],
    ]
    figures = [
        (name, ", ".join(f"{key} {value:.3g}" for key, value in values.items()))
        for name, values in manifest.verification.items()
    ]
    return "\n".join(
        [
            *align(rows),
            *_section("model", _fields(manifest.model)),
            *_section("codec", _fields(manifest.codec)),
            *_section("graphs", graphs),
            *_section("verified" if figures else "not verified (--no-verify)", figures),
        ]
    )


def verify(model: str | None) -> Iterator[str]:
    """Check a model's files and graphs; yields a line for each.

    Raises:
        ArtifactNotFoundError: There is no such model.
        ArtifactError: A file is not what the manifest says, or a graph does not load.
        ProviderError: onnxruntime is not installed.
    """
    artifact = find_artifact(model)
    yield f"{artifact.name}: {artifact.folder}"
    changed = []
    for name, file in artifact.manifest.files.items():
        if hash_file(artifact.folder / name) == file.sha256:
            yield f"ok       {name} ({show_size(file.size)})"
        else:
            changed.append(name)
            yield f"CHANGED  {name}: its SHA-256 is not the manifest's"
    if changed:
        raise ArtifactError(
            f"{', '.join(changed)} in {artifact.folder} changed after the export: export (or "
            "download) the model again."
        )
    provider = resolve_provider("cpu")
    for info in artifact.manifest.graphs:
        if info.compute == "bfloat16":
            yield f"skipped  {info.file}: the CPU provider has no bfloat16 kernels to load it with"
            continue
        open_session(artifact.folder / info.file, artifact.manifest.spec(info), provider, None)
        yield f"ok       {info.file} loads, and its inputs and outputs are as declared"
    if not all(artifact.manifest.find(graph, "float32") for graph in GRAPH_NAMES):
        return
    if _same_in_company(artifact):
        yield "ok       speech is the same in company as alone, bit for bit"
    else:
        yield "DIFFERS  speech in company from speech alone: this CPU's kernels round by their rows"


def _same_in_company(artifact: Artifact) -> bool:
    """Whether a few frames of some scripts have the same codes in a batch as on their own."""
    scripts = ["[S1] yes.", "[S1] one two three. [S2] no, (laughs) not now!", "[S2] hello world."]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half precision on the CPU
        dia = Dia.load(artifact.folder, provider="cpu")
    config = GenerationConfig(seed=0, max_tokens=dia.manifest.model.max_delay + 10)
    together = dia.generate_batch(scripts, config)
    return all(
        np.array_equal(audio.codes, dia.generate_codes(script, config))
        for script, audio in zip(scripts, together, strict=True)
    )


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns, for terminals and pipes of any width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def show_size(size: int) -> str:
    """Bytes in the unit that fits, decimal as disks are."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def _compute(graph: GraphInfo) -> str:
    places = {None: "", "webgpu": ", on webgpu", "cpu": ", on x86 without VNNI"}
    return graph.compute + places[graph.provider]


def _size(artifact: Artifact, info: GraphInfo) -> str:
    names = [info.file, info.data] if info.data else [info.file]
    return show_size(sum(artifact.manifest.files[name].size for name in names))


def _section(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    return ["", title, *(f"  {line}" for line in align(rows))]


def _fields(record: Any) -> list[tuple[str, str]]:
    pairs = [(field.name, getattr(record, field.name)) for field in dataclasses.fields(record)]
    return [
        (name, " ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        for name, value in pairs
    ]


def _quantized(manifest: Manifest) -> str:
    if manifest.quantization is None:
        return "no"
    return ", ".join(
        f"{part} to {blocks.bits} bits"
        + (f" in blocks of {blocks.block_size}" if blocks.block_size else ", a scale per output")
        for part, blocks in manifest.quantization.items()
    )


def _slot(manifest: Manifest) -> str:
    """What an utterance takes on the CPU provider, where everything else is float32."""
    cache = manifest.cache or "float32"
    step, text = (
        slot_bytes(manifest.model, "float32", cache, steps, positions) // TEXT_BLOCK
        for steps, positions in ((TEXT_BLOCK, 0), (0, TEXT_BLOCK))
    )
    return f"{show_size(step)} a step ({cache}), {show_size(text)} a byte of text"


def _origin(source: Source) -> str:
    revision = f" at {source.revision}" if source.revision else ""
    return f"{source.name}{revision} ({source.layout})"
