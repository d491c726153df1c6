"""The decoder's tensors, on the host or on a device, at fixed addresses that graphs are bound to.

A buffer is as large as its tensor ever gets. Its first axis is rows, and some rows can be bound,
read and moved on their own. A smaller shape uses the beginning of the memory.
"""

import math
import mmap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dia_ort.errors import ProviderError
from dia_ort.providers import Provider, onnxruntime, open_own_graph

_BFLOAT16 = 16
"""onnx's number of a dtype that NumPy has not."""
_WORD = 4
"""Bytes that the device's copies are counted in."""

# Not shared with forked processes, and given back page by page.
_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)

Value = Any
"""A tensor that is put into a buffer: a NumPy array, or an OrtValue, which may be on the device."""

Shape = tuple[int, ...]


class Buffer(Protocol):
    """A tensor in memory; see the module.

    Attributes:
        host: The tensor itself on the CPU; elsewhere what :meth:`upload` and :meth:`download` copy.
    """

    host: NDArray[Any]

    def bind(
        self, bind: Callable[..., None], name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """Bind some rows to a graph's input or output."""

    def put(self, row: int, value: Value, shape: Shape | None = None) -> None:
        """Write a value, (1, heads, positions, width), at the beginning of each head of a row."""

    def move(self, source: int, target: int, positions: int, shape: Shape | None = None) -> None:
        """Copy at least so many positions of each head of a row to another row."""

    def reshape(self, rows: Sequence[int], before: Shape, after: Shape) -> None:
        """Keep the values of some rows while the positions of all, the third axis, change."""

    def forget(self, row: int | None = None, shape: Shape | None = None) -> None:
        """Give back the memory of a row, or all, where the system can; its values are lost."""

    def upload(self) -> None:
        """Let the device have what is in :attr:`host`."""

    def download(self, row: int, rows: int) -> None:
        """Let :attr:`host` have some rows."""


class HostBuffer:
    """A tensor on the CPU, which takes memory page by page, as it is written to.

    Args:
        shape: Its largest.
        dtype: NumPy's name, or ``"bfloat16"``.
    """

    def __init__(self, shape: Shape, dtype: str) -> None:
        self._shape, self._type = shape, _element_type(dtype)
        host_type = _host_type(dtype)
        self._itemsize = host_type.itemsize
        self._memory = mmap.mmap(-1, math.prod(shape) * self._itemsize, **_PRIVATE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # or the first step would take 2 MB for each head
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.host: NDArray[Any] = np.frombuffer(self._memory, host_type).reshape(shape)

    def bind(
        self, bind: Callable[..., None], name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`Buffer` has it."""
        axes = (shape or self._shape)[1:]
        pointer = self.host.ctypes.data + row * math.prod(axes) * self._itemsize
        bind(name, "cpu", 0, self._type, (rows, *axes), pointer)

    def put(self, row: int, value: Value, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        self._view(shape)[row, :, : value.shape[2]] = value[0]

    def move(self, source: int, target: int, positions: int, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        view = self._view(shape)
        view[target, :, :positions] = view[source, :, :positions]

    def reshape(self, rows: Sequence[int], before: Shape, after: Shape) -> None:
        """As :class:`Buffer` has it."""
        kept = min(before[2], after[2])
        values = self._view(before)[list(rows), :, :kept]  # a copy
        self.forget()  # the memory of the rows as they lay before
        self._view(after)[list(rows), :, :kept] = values

    def forget(self, row: int | None = None, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        if row is None:
            self._memory.madvise(mmap.MADV_DONTNEED)
            return
        size = math.prod((shape or self._shape)[1:]) * self._itemsize
        start = -(-row * size // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (row + 1) * size // mmap.PAGESIZE * mmap.PAGESIZE
        if start < stop:
            self._memory.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def upload(self) -> None:
        """Nothing: the host is where the tensor is."""

    def download(self, row: int, rows: int) -> None:
        """Nothing: the host is where the tensor is."""

    def _view(self, shape: Shape | None) -> NDArray[Any]:
        shape = shape or self._shape
        return self.host.reshape(-1)[: math.prod(shape)].reshape(shape)


class DeviceBuffer:
    """A tensor on a provider's device, taken whole when it is made, all zeros.

    Args:
        shape: Its largest.
        dtype: NumPy's name, or ``"bfloat16"``.
        mover: Of the device.
        staged: Whether it has a :attr:`host`.
    """

    host: NDArray[Any]

    def __init__(self, shape: Shape, dtype: str, mover: "Mover", *, staged: bool = False) -> None:
        self._shape, self._type, self._mover = shape, _element_type(dtype), mover
        self._itemsize = _host_type(dtype).itemsize
        self._value = mover.reserve(shape, self._type)
        self._pointer = self._value.data_ptr()
        if staged:
            self.host = np.zeros(shape, dtype)
        # What was never written is multiplied by a weight of zero, which NaN would survive.
        words = math.prod(shape) * self._itemsize // _WORD
        mover.copy(np.zeros(1, np.float32).ctypes.data, "cpu", 1, 1, self._pointer, words)

    def bind(
        self, bind: Callable[..., None], name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`Buffer` has it."""
        axes = (shape or self._shape)[1:]
        bind(name, self._mover.device, 0, self._type, (rows, *axes), self._at(row, axes))

    def put(self, row: int, value: Value, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        _, heads, positions, width = shape or self._shape
        device, pointer, kept = "cpu", 0, value.shape
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value)
            pointer = value.ctypes.data
        else:
            device, pointer, kept = self._mover.device, value.data_ptr(), tuple(value.shape())
        source, target = self._words(kept[2] * width), self._words(positions * width)
        at = self._at(row, (heads, positions, width))
        self._mover.copy(pointer, device, heads, source, at, target)

    def move(self, source: int, target: int, positions: int, shape: Shape | None = None) -> None:  # noqa: ARG002 - a whole row is one copy
        """As :class:`Buffer` has it."""
        axes = (shape or self._shape)[1:]
        words = self._words(math.prod(axes))
        device = self._mover.device
        self._mover.copy(self._at(source, axes), device, 1, words, self._at(target, axes), words)

    def reshape(self, rows: Sequence[int], before: Shape, after: Shape) -> None:  # noqa: ARG002 - all at once
        """As :class:`Buffer` has it."""
        heads = before[0] * before[1]
        source, target = (self._words(math.prod(shape[2:])) for shape in (before, after))
        device, scratch = self._mover.device, self._mover.scratch(heads * target)
        self._mover.copy(self._pointer, device, heads, source, scratch, target)
        self._mover.copy(scratch, device, heads, target, self._pointer, target)

    def forget(self, row: int | None = None, shape: Shape | None = None) -> None:
        """Nothing: a device's memory is not given back in pages."""

    def upload(self) -> None:
        """As :class:`Buffer` has it."""
        self._value.update_inplace(self.host)

    def download(self, row: int, rows: int) -> None:
        """As :class:`Buffer` has it."""
        words = self._words(math.prod(self._shape[1:]))
        at = self._at(row, self._shape[1:])
        self._mover.fetch(at, rows * words, self.host[row:].ctypes.data)

    def _at(self, row: int, axes: Shape) -> int:
        pointer: int = self._pointer + row * math.prod(axes) * self._itemsize
        return pointer

    def _words(self, items: int) -> int:
        return items * self._itemsize // _WORD


class Mover:
    """Copies between the host and a provider's device, and on it, by a graph of its own.

    onnxruntime copies whole tensors only. The graph has a slice of its input followed by zeros, in
    32-bit words whatever they mean; bound to addresses, that is every copy a buffer needs.

    Args:
        provider: Whose device it is.
    """

    def __init__(self, provider: Provider) -> None:
        self.device = provider.device
        self._session = open_own_graph("move.onnx", provider)
        self._binding = self._session.io_binding()
        self._scratch: tuple[int, Any] = (0, None)

    def reserve(self, shape: Shape, element_type: Any) -> Any:
        """An OrtValue on the device, of any content.

        Raises:
            ProviderError: There is not so much memory.
        """
        try:
            return onnxruntime().OrtValue.ortvalue_from_shape_and_type(
                shape, element_type, self.device, 0
            )
        except Exception as error:  # onnxruntime's own classes share no useful base
            raise ProviderError(
                f"{self.device} has no memory for a tensor of the shape {shape}: run fewer "
                f"utterances at once (max_batch), or take a smaller model. ({error})"
            ) from error

    def scratch(self, words: int) -> int:
        """The address of so many words on the device, whose content is anybody's."""
        if self._scratch[0] < words:
            self._scratch = 0, None  # given back before more is taken
            self._scratch = words, self.reserve((words,), np.float32)
        address: int = self._scratch[1].data_ptr()
        return address

    def copy(
        self, source: int, place: str, rows: int, words: int, target: int, target_words: int
    ) -> None:
        """Copy rows of so many words to the device, where they may be shorter, or end in zeros.

        Args:
            source: Address.
            place: Where that is: ``"cpu"``, or the device.
            rows: How many.
            words: Of a row, at the source.
            target: Address on the device. Not within the source.
            target_words: Of a row, there.
        """
        self._run(
            (place, source, (rows, words)),
            (self.device, target, (rows, target_words)),
        )

    def fetch(self, source: int, words: int, target: int) -> None:
        """Copy words from the device to an address on the host."""
        self._run((self.device, source, (1, words)), ("cpu", target, (1, words)))

    def _run(self, source: tuple[str, int, Shape], target: tuple[str, int, Shape]) -> None:
        (place, pointer, shape), (target_place, target_pointer, target_shape) = source, target
        kept = np.array([min(shape[1], target_shape[1])])
        pads = np.array([0, 0, 0, max(target_shape[1] - shape[1], 0)])
        binding = self._binding
        binding.bind_input("source", place, 0, np.float32, shape, pointer)
        binding.bind_cpu_input("kept", kept)
        binding.bind_cpu_input("pads", pads)
        binding.bind_output("target", target_place, 0, np.float32, target_shape, target_pointer)
        self._session.run_with_iobinding(binding)


def open_buffers(provider: Provider) -> Callable[..., Buffer]:
    """What makes buffers where a provider wants them: ``make(shape, dtype, staged=False)``."""
    if provider.device == "cpu":
        return _on_host
    return partial(DeviceBuffer, mover=Mover(provider))


def _on_host(shape: Shape, dtype: str, *, staged: bool = False) -> HostBuffer:  # noqa: ARG001
    return HostBuffer(shape, dtype)


def _element_type(dtype: str) -> Any:
    """As bindings name it."""
    return _BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)


def _host_type(dtype: str) -> np.dtype[Any]:
    return np.dtype("float16" if dtype == "bfloat16" else dtype)
