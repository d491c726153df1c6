"""Files of weights, opened lazily: safetensors (sharded or not) and PyTorch pickles."""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class CheckpointError(ValueError):
    """A checkpoint that can't be read, or whose tensors aren't those of its config."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint where one was looked for."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that is read when asked for.

    Attributes:
        shape: Its shape.
        dtype: Its dtype, as stored.
        load: Reads it: a contiguous tensor on the CPU, of this shape and dtype. Nothing else of
            the checkpoint stays in memory with it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What one file, or one set of shards, holds.

    Attributes:
        weights: The tensors by the keys of the file.
        metadata: What a descript checkpoint says of its model, else None.
        files: The files themselves.
    """

    weights: Mapping[str, Weight]
    metadata: Mapping[str, Any] | None
    files: tuple[Path, ...]


def open_weights(path: Path) -> WeightFile:
    """Open a safetensors file, an index of shards, or a PyTorch pickle, by its content.

    Raises:
        CheckpointNotFoundError: The file, or a shard of the index, isn't there.
        CheckpointError: It can't be read, or is a pickle with more than plain tensors.
    """
    if path.suffix == ".json":
        return _open_shards(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"{path} is not there") from error
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror}") from error
    if head[8:] == b"{":  # a safetensors file: the length of the header, then the header
        return WeightFile(_open_safetensors(path), None, (path,))
    return _open_pickle(path)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointNotFoundError: It isn't there.
        CheckpointError: It can't be read, or isn't JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"{path} is not there") from error
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def _open_shards(index: Path) -> WeightFile:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    ):
        raise CheckpointError(
            f"{index} is not an index of shards: it needs a weight_map of file names in its folder"
        )
    weights: dict[str, Weight] = {}
    paths = tuple(index.parent / name for name in sorted(set(weight_map.values())))
    for path in paths:
        if not path.exists():
            raise CheckpointNotFoundError(f"{index} names the shard {path.name}, which is missing")
        weights |= _open_safetensors(path)
    return WeightFile(weights, None, (index, *paths))


def _open_safetensors(path: Path) -> dict[str, Weight]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - pickles do without it

    try:
        with safe_open(path, framework="pt") as file:
            return {key: _safetensor(path, key, file.get_slice(key)) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): download or save it again"
        ) from error


def _safetensor(path: Path, key: str, info: Any) -> Weight:
    dtype = _SAFETENSORS_DTYPES.get(info.get_dtype())
    if dtype is None:
        raise CheckpointError(
            f"{path}: {key} is stored as {info.get_dtype()}; only plain float16, bfloat16, float32 "
            "and float64 weights can be read"
        )
    return Weight(tuple(info.get_shape()), dtype, partial(_load_safetensor, path, key))


def _load_safetensor(path: Path, key: str) -> Tensor:
    from safetensors import safe_open  # noqa: PLC0415 - pickles do without it

    # Opened anew each time: what was read through an open mapping counts as memory of the process.
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(key)
    return tensor


def _open_pickle(path: Path) -> WeightFile:
    content = _unpickle(path)
    metadata = None
    prefix: tuple[str, ...] = ()
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        prefix = ("state_dict",)
        metadata = content.get("metadata")
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(tensor, Tensor) for tensor in content.values()
    ):
        raise CheckpointError(f"{path} is not a state dict: it must map names to tensors only")
    weights = {str(key): _pickled(path, (*prefix, key), tensor) for key, tensor in content.items()}
    return WeightFile(weights, metadata if isinstance(metadata, dict) else None, (path,))


def _pickled(path: Path, keys: tuple[str, ...], tensor: Tensor) -> Weight:
    if tensor.dtype not in _SAFETENSORS_DTYPES.values():
        raise CheckpointError(
            f"{path}: {keys[-1]} is stored as {tensor.dtype}; only plain float16, bfloat16, "
            "float32 and float64 weights can be read"
        )
    # A file from before PyTorch 1.6 can't be mapped, so its tensors stay; others are read anew.
    load = partial(_load_pickled, path, keys) if zipfile.is_zipfile(path) else tensor.contiguous
    return Weight(tuple(tensor.shape), tensor.dtype, load)


def _load_pickled(path: Path, keys: tuple[str, ...]) -> Tensor:
    content = _unpickle(path)
    for key in keys:
        content = content[key]
    tensor: Tensor = content
    return tensor.detach().contiguous()


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:
        # A broken pickle can raise anything.
        raise CheckpointError(
            f"{path} is neither a safetensors file nor a PyTorch file of plain tensors: it is "
            f"damaged, or holds Python objects, which are refused because loading them could run "
            f"any code ({type(error).__name__})"
        ) from error
