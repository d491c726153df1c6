"""Checkpoints of Dia and of its codec, in every published layout, opened lazily.

A layout is told by its keys. Every key is accounted for before a single value is read, and each
weight is read on its own, in the canonical form of `dia_models.layouts`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dia_models.config import ConfigError, DacConfig, DiaConfig
from dia_models.hub import locate
from dia_models.layouts import (
    Layout,
    Recipe,
    dac_shapes,
    descript_dac,
    dia_shapes,
    nari_dia,
    transformers_dac,
    transformers_dia,
)
from dia_models.weight_files import (
    CheckpointError,
    CheckpointNotFoundError,
    Weight,
    WeightFile,
    open_weights,
    read_json,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "DacCheckpoint",
    "DiaCheckpoint",
    "Weight",
    "dac_shapes",
    "dia_shapes",
    "open_dac",
    "open_dia",
]

ConfigT = TypeVar("ConfigT", DiaConfig, DacConfig)

_LISTED = 10


@dataclass(frozen=True, slots=True)
class Checkpoint(Generic[ConfigT]):
    """A config and its weights.

    Attributes:
        config: What the model looks like.
        weights: The canonical weights by name; complete, of the right shapes, not yet read.
        layout: "transformers", "nari", "descript" or "random".
        source: The folder, file or hub id that was asked for.
        revision: The commit on the hub; None for what is local.
        files: The files of weights; empty for random ones.
    """

    config: ConfigT
    weights: Mapping[str, Weight]
    layout: str
    source: str
    revision: str | None
    files: tuple[Path, ...]


DiaCheckpoint = Checkpoint[DiaConfig]
DacCheckpoint = Checkpoint[DacConfig]


def open_dia(source: str | Path, revision: str | None = None) -> DiaCheckpoint:
    """Open a Dia checkpoint: transformers' or nari-labs' layout, either release.

    Args:
        source: A folder with `config.json`, a file of weights beside one, or a hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointNotFoundError: Nothing is there, or a file of it is missing.
        CheckpointError: It can't be read, or its keys and shapes aren't those of its config.
        ConfigError: The config has missing, unknown or unsupported fields.
    """
    path, commit = locate(source, revision)
    config = _read_config(DiaConfig, read_json(path.parent / "config.json"), path.parent)
    layouts = {"transformers": transformers_dia(config), "nari": nari_dia(config)}
    return _checkpoint(config, open_weights(path), layouts, str(source), commit)


def open_dac(source: str | Path, revision: str | None = None) -> DacCheckpoint:
    """Open a codec checkpoint: transformers' layout or descript's.

    Args:
        source: A folder, a file of weights (transformers' beside a `config.json`; descript's
            carries its own), or a hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointNotFoundError: Nothing is there, or a file of it is missing.
        CheckpointError: It can't be read, or its keys and shapes aren't those of its config.
        ConfigError: The config has missing, unknown or unsupported fields.
    """
    path, commit = locate(source, revision)
    file = open_weights(path)
    if file.metadata is not None:
        config = _read_config(DacConfig, file.metadata.get("kwargs"), path)
    else:
        config = _read_config(DacConfig, read_json(path.parent / "config.json"), path.parent)
    layouts = {"transformers": transformers_dac(config), "descript": descript_dac(config)}
    return _checkpoint(config, file, layouts, str(source), commit)


def _read_config(kind: type[ConfigT], values: Any, where: Path) -> ConfigT:
    try:
        return kind.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"the config of {where}: {error}") from error


def _checkpoint(
    config: ConfigT,
    file: WeightFile,
    layouts: Mapping[str, Layout],
    source: str,
    revision: str | None,
) -> Checkpoint[ConfigT]:
    expected = {name: _expected(layout) for name, layout in layouts.items()}
    best = max(layouts, key=lambda name: len(expected[name].keys() & file.weights.keys()))
    complaints = _compare(expected[best], file.weights)
    if complaints:
        raise CheckpointError(
            f"{source} does not hold the weights of its config (read in the layout of {best}):\n"
            + "\n".join(complaints)
        )
    weights = {
        name: _canonical(recipe, [file.weights[key] for key in recipe.parts])
        for name, recipe in layouts[best].items()
    }
    return Checkpoint(config, weights, best, source, revision, file.files)


def _expected(layout: Layout) -> dict[str, tuple[int, ...]]:
    return {key: shape for recipe in layout.values() for key, shape in recipe.parts.items()}


def _compare(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, Weight]) -> list[str]:
    wrong = [
        f"{key} {list(got[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in got and got[key].shape != shape
    ]
    kinds = {
        "missing": sorted(expected.keys() - got.keys()),
        "unexpected": sorted(got.keys() - expected.keys()),
        "of the wrong shape": wrong,
    }
    return [_list(kind, items) for kind, items in kinds.items() if items]


def _list(kind: str, items: list[str]) -> str:
    more = [f"and {len(items) - _LISTED} more"] if len(items) > _LISTED else []
    return f"{len(items)} {kind}: {', '.join(items[:_LISTED] + more)}"


def _canonical(recipe: Recipe, parts: list[Weight]) -> Weight:
    dtype = functools.reduce(torch.promote_types, [part.dtype for part in parts])
    return Weight(recipe.shape, dtype, partial(_load, recipe, parts))


def _load(recipe: Recipe, parts: list[Weight]) -> Tensor:
    return recipe.join([part.load() for part in parts]).contiguous()
