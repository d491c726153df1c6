"""The price list: decoders of several recipes, how large, how fast and how exact each is."""

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.artifacts import is_current, mark_current
from benchmark.decoding import DecoderFile, artifact_decoder
from benchmark.plan import note
from dia_export.exporter import Exporter, open_sources
from dia_export.recipes import RECIPES, Dtype, Recipe
from dia_export.trace import model_spec
from dia_export.verify import Reference, Tolerance, check_graph
from dia_models.checkpoint import DacCheckpoint, DiaCheckpoint
from dia_ort.graphs import DECODER, ENCODER, decoder_graph
from dia_ort.manifest import Blocks

_ANYTHING = Tolerance(error=math.inf, kl=math.inf, overlap=0.0)


def _recipe(dtype: Dtype, bits: int, block_size: int | None) -> Recipe:
    """A dtype's recipe, but for its decoder's blocks."""
    recipe = RECIPES[dtype]
    blocks = Blocks(bits=bits, block_size=block_size)
    return replace(recipe, quantization=recipe.quantization | {"decoder": blocks})


VARIANTS: dict[str, Recipe] = {
    **{dtype: RECIPES[dtype] for dtype in ("fp32", "fp16", "bf16")},
    "int8": _recipe("int8", 8, None),
    **{f"int8 {size}": _recipe("int8", 8, size) for size in (32, 64, 128)},
    "int8 float32 cache": replace(_recipe("int8", 8, None), cache=None),
    **{f"int4 {size}": _recipe("int4", 4, size) for size in (32, 64, 128, 256)},
    "int4 128 float32 cache": replace(_recipe("int4", 4, 128), cache=None),
}
"""By name: the dtype, and the decoder's block size where there are blocks.

On the CPU all compute in float32: half precision shows what rounding the weights costs.
"""


def prepare(
    root: Path, source: str, names: Sequence[str], artifacts: Mapping[str, Path], cases: Path
) -> dict[str, Any]:
    """Export the decoders of some variants, and write what they are held against.

    Args:
        root: Where exports are kept; what the same code has made is not made again.
        source: A random model, or a checkpoint and, after a comma, a codec's.
        names: Of :data:`VARIANTS`.
        artifacts: Whole artifacts of the same source, by dtype, to take decoders from.
        cases: Where the gate's inputs of the decoder and PyTorch's outputs go.

    Returns:
        By name, ``decoder``, its ``size_gb``, and whether it ``is_default``: what ``dia-export``
        makes.
    """
    model, _, codec = source.partition(",")
    dia, dac = open_sources(model, codec or None, None, 0)
    variants = {}
    for name in names:
        note(f"decoder of {source}, {name}")
        recipe = VARIANTS[name]
        is_default = recipe in RECIPES.values()
        if is_default and recipe.dtype in artifacts:
            decoder = artifact_decoder(artifacts[recipe.dtype])
        else:
            folder = root / f"{_file_name(source)}-{_file_name(name)}-decoder"
            decoder = _ensure_decoder(folder, dia, dac, recipe)
        size = sum(file.stat().st_size for file in decoder.path.parent.glob(f"{DECODER}.onnx*"))
        variants[name] = {"decoder": decoder, "size_gb": size / 1e9, "is_default": is_default}
    note(f"PyTorch's values of {source}")
    reference = Reference(dia, dac)
    reference.cases(ENCODER)
    with cases.open("wb") as file:
        pickle.dump(reference.cases(DECODER), file)
    return variants


def _ensure_decoder(
    folder: Path, dia: DiaCheckpoint, dac: DacCheckpoint, recipe: Recipe
) -> DecoderFile:
    if not is_current(folder):
        folder.mkdir(parents=True, exist_ok=True)
        Exporter(folder, dia, dac, recipe, lambda *_: None).write_graph(DECODER, "float32", None)
        mark_current(folder)
    return DecoderFile(folder / f"{DECODER}.onnx", model_spec(dia.config), recipe.cache)


def measure_quality(decoder: DecoderFile, cases: Path) -> dict[str, Any]:
    """The gate's figures, whatever they are: ``error``, ``kl`` and ``overlap``."""
    spec = decoder_graph(decoder.model, "float32", decoder.cache)
    with cases.open("rb") as file:
        return dict(check_graph(decoder.path, spec, pickle.load(file), _ANYTHING))


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text).strip("-")
