"""Weights of products in whole numbers, as x86 without VNNI wants them: uint8 instead of int8."""

import math
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.checks import usable_cpus
from dia_ort.errors import ArtifactError, ProviderError
from dia_ort.manifest import GraphInfo, Levels
from dia_ort.memory import private_pages
from dia_ort.waiting import for_each

_ZERO = 128
_CPUINFO = Path("/proc/cpuinfo")


def levels_of(folder: Path, info: GraphInfo) -> "UnsignedLevels | None":
    """What a graph in an artifact's folder wants converted; None: nothing.

    Raises:
        ArtifactError, ProviderError: As :class:`UnsignedLevels` has it.
    """
    return (
        UnsignedLevels(folder / info.data, info.unsigned) if info.data and info.unsigned else None
    )


class UnsignedLevels:
    """Converted weights for one session, which uses this memory, and so is to keep this object.

    onnxruntime converts them too ("session.x64quantprecision"), but 1.3 GB take it 7 s instead of
    0.9, and keep 0.6 GB more.

    Args:
        path: The file that has them as int8.
        levels: Which ones; :attr:`dia_ort.manifest.GraphInfo.unsigned`.

    Raises:
        ArtifactError: The file cannot be read.
        ProviderError: There is no memory for them.

    Attributes:
        arrays: By the initializer's name.
    """

    def __init__(self, path: Path, levels: Sequence[Levels]) -> None:
        sizes = [math.prod(part.shape) for part in levels]
        try:
            stored = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        if any(part.offset + size > stored.size for part, size in zip(levels, sizes, strict=True)):
            raise ArtifactError(
                f"{path} is shorter than its manifest says: export the model again."
            )
        try:
            self._memory = private_pages(max(sum(sizes), 1))
        except (OSError, OverflowError) as error:
            raise ProviderError(f"there is no memory for the weights of {path}: {error}") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):  # a third of the time
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        memory, start = np.frombuffer(self._memory, np.uint8), 0
        self.arrays: dict[str, NDArray[np.uint8]] = {}
        for part, size in zip(levels, sizes, strict=True):
            self.arrays[part.name] = memory[start : start + size].reshape(part.shape)
            start += size

        def convert(part: Levels) -> None:
            array = self.arrays[part.name].reshape(-1)
            np.bitwise_xor(stored[part.offset : part.offset + array.size], _ZERO, out=array)

        for_each(convert, levels, usable_cpus())
        self._values: list[Any] = []

    def add_to(self, options: Any, ort: Any) -> None:
        """Let sessions that are made with the options have them for the graph's initializers."""
        for name, array in self.arrays.items():
            value = ort.OrtValue.ortvalue_from_numpy(array)
            options.add_initializer(name, value)
            self._values.append(value)

    def give_back(self) -> None:
        """Give the memory back to the system: the session has all of them in packed form.

        That is so with AVX2. Without, and outside Linux, it stays. The addresses do in any case.
        """
        if sys.platform == "linux":
            with suppress(OSError):
                if "avx2" in _CPUINFO.read_text(errors="replace"):
                    self._memory.madvise(mmap.MADV_DONTNEED)
