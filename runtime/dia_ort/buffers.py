"""The decoder's tensors, on the host or on a device, which graphs are bound to.

A buffer is as large as its tensor ever gets. Its first axis is rows, and some rows can be bound,
read and moved on their own. A smaller shape uses the beginning of the memory.

On the host and on CUDA a buffer has an address for good, and its rows are bound by theirs. WebGPU's
memory has none: what the host writes is copied when it is bound, and a cache's rows are put
together on the device when others are wanted than before.
"""

import math
import mmap
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dia_ort.copies import HOST, WORD, Gatherer, Mover, Place, Shape, reserve
from dia_ort.errors import ProviderError
from dia_ort.memory import private_pages
from dia_ort.providers import Provider, onnxruntime

_BFLOAT16 = 16
"""onnx's number of a dtype that NumPy has not."""

Value = Any
"""A tensor that is put into a buffer: a NumPy array, or an OrtValue, which may be on the device."""


class State(Protocol):
    """A tensor that graphs read and write; see the module."""

    def bind_input(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """Bind some rows to a graph's input."""

    def bind_output(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """Bind some rows to a graph's output."""

    def move(self, source: int, target: int, positions: int, shape: Shape | None = None) -> None:
        """Copy at least so many positions of each head of a row to another row."""

    def forget(self, row: int, shape: Shape | None = None) -> None:
        """Give back the memory of a row, where the system can; its values are lost."""


class Buffer(State, Protocol):
    """A tensor that the host has to do with, too.

    Attributes:
        host: The tensor itself on the CPU; elsewhere what :meth:`upload` and :meth:`download` copy.
    """

    host: NDArray[Any]

    def put(self, row: int, value: Value, shape: Shape | None = None) -> None:
        """Write a value, (1, heads, positions, width), at the beginning of each head of a row."""

    def reshape(self, lengths: Sequence[int], before: Shape, after: Shape) -> None:
        """Keep at least so many positions of each row while the third axis, positions, changes."""

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
        try:
            self._memory = private_pages(math.prod(shape) * self._itemsize)
        except (OSError, OverflowError) as error:
            raise ProviderError(
                f"the system has no memory for a tensor of the shape {shape}: run fewer utterances "
                f"at once (max_batch). ({error})"
            ) from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # or the first step would take 2 MB for each head
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.host: NDArray[Any] = np.frombuffer(self._memory, host_type).reshape(shape)

    def bind_input(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`Buffer` has it."""
        binding.bind_input(name, *self._part(row, rows, shape))

    def bind_output(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`Buffer` has it."""
        binding.bind_output(name, *self._part(row, rows, shape))

    def put(self, row: int, value: Value, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        self._view(shape)[row, :, : value.shape[2]] = value[0]

    def move(self, source: int, target: int, positions: int, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        self.forget(target, shape)  # of what was longer
        view = self._view(shape)
        view[target, :, :positions] = view[source, :, :positions]

    def reshape(self, lengths: Sequence[int], before: Shape, after: Shape) -> None:
        """As :class:`Buffer` has it: in place, head by head; what lies between is given back."""
        source, target = self._view(before), self._view(after)
        heads = list(np.ndindex(*before[:2]))
        kept = [min(lengths[row], before[2], after[2]) for row, _ in heads]
        moves = list(zip(heads, kept, strict=True))
        for head, count in moves if after[2] < before[2] else reversed(moves):
            target[head][:count] = source[head][:count]  # over none that is yet to be moved
        position, end = math.prod(after[3:]) * self._itemsize, 0
        written = math.prod(before) * self._itemsize  # beyond it are zeros
        for index, count in enumerate(kept):
            if count:
                start = index * after[2] * position
                self._give_back(end, min(start, written))
                end = start + count * position
        self._give_back(end, written)

    def forget(self, row: int, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        size = math.prod((shape or self._shape)[1:]) * self._itemsize
        self._give_back(row * size, (row + 1) * size)

    def _give_back(self, start: int, stop: int) -> None:
        """Make zeros of some bytes (no NaN may stay), and give their pages back where that does."""
        if sys.platform != "linux":
            first = last = stop
        first = min(-(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop)
        last = max(stop // mmap.PAGESIZE * mmap.PAGESIZE, first)
        content = self.host.reshape(-1).view(np.uint8)
        content[start:first] = content[last:stop] = 0
        if first < last and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, first, last - first)

    def upload(self) -> None:
        """Nothing: the host is where the tensor is."""

    def download(self, row: int, rows: int) -> None:
        """Nothing: the host is where the tensor is."""

    def _view(self, shape: Shape | None) -> NDArray[Any]:
        shape = shape or self._shape
        return self.host.reshape(-1)[: math.prod(shape)].reshape(shape)

    def _part(self, row: int, rows: int, shape: Shape | None) -> tuple[Any, ...]:
        axes = (shape or self._shape)[1:]
        pointer = self.host.ctypes.data + row * math.prod(axes) * self._itemsize
        return *HOST, self._type, (rows, *axes), pointer


class DeviceBuffer:
    """A tensor on a provider's device, taken whole when it is made, all zeros.

    Args:
        shape: Its largest.
        dtype: NumPy's name, or ``"bfloat16"``.
        mover: Of the device.
        staged: Whether it has a :attr:`host`.
    """

    host: NDArray[Any]

    def __init__(self, shape: Shape, dtype: str, mover: Mover, *, staged: bool = False) -> None:
        self._shape, self._type, self._mover = shape, _element_type(dtype), mover
        self._itemsize = _host_type(dtype).itemsize
        self._value = (
            reserve(shape, self._type, mover.place)
            if staged
            else mover.zeros(self._words(math.prod(shape)))
        )
        self._pointer = self._value.data_ptr()
        if staged:
            self.host = np.zeros(shape, dtype)
            self._clear(0, shape)

    def bind_input(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`Buffer` has it."""
        binding.bind_input(name, *self._part(row, rows, shape))

    def bind_output(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`Buffer` has it."""
        binding.bind_output(name, *self._part(row, rows, shape))

    def put(self, row: int, value: Value, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        _, heads, positions, width = shape or self._shape
        place, pointer, kept = HOST, 0, value.shape
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value)
            pointer = value.ctypes.data
        else:
            place, pointer, kept = self._mover.place, value.data_ptr(), tuple(value.shape())
        source, target = self._words(kept[2] * width), self._words(positions * width)
        at = self._at(row, (heads, positions, width))
        self._mover.copy(pointer, place, heads, source, at, target)

    def move(self, source: int, target: int, positions: int, shape: Shape | None = None) -> None:
        """As :class:`Buffer` has it."""
        axes = (shape or self._shape)[1:]
        words = self._words(math.prod(axes))
        place = self._mover.place
        self._mover.copy(self._at(source, axes), place, 1, words, self._at(target, axes), words)

    def reshape(self, lengths: Sequence[int], before: Shape, after: Shape) -> None:
        """As :class:`Buffer` has it."""
        heads = before[0] * before[1]
        source, target = (self._words(math.prod(shape[2:])) for shape in (before, after))
        place, scratch = self._mover.place, self._mover.scratch(heads * target)
        self._mover.copy(self._pointer, place, heads, source, scratch, target)
        self._mover.copy(scratch, place, heads, target, self._pointer, target)

    def forget(self, row: int, shape: Shape | None = None) -> None:
        """Make a row zeros: a device's memory is not given back in pages."""
        self._clear(row, (1, *(shape or self._shape)[1:]))

    def upload(self) -> None:
        """As :class:`Buffer` has it."""
        self._value.update_inplace(self.host)

    def download(self, row: int, rows: int) -> None:
        """As :class:`Buffer` has it."""
        words = self._words(math.prod(self._shape[1:]))
        at = self._at(row, self._shape[1:])
        self._mover.fetch(at, rows * words, self.host[row:].ctypes.data)

    def _part(self, row: int, rows: int, shape: Shape | None) -> tuple[Any, ...]:
        axes = (shape or self._shape)[1:]
        return *self._mover.place, self._type, (rows, *axes), self._at(row, axes)

    def _clear(self, row: int, shape: Shape) -> None:
        """Make rows zeros: what nobody wrote has a weight of zero, which NaN would survive."""
        words, zero = self._words(math.prod(shape)), np.zeros(1, np.float32)
        self._mover.copy(zero.ctypes.data, HOST, 1, 1, self._at(row, shape[1:]), words)

    def _at(self, row: int, axes: Shape) -> int:
        pointer: int = self._pointer + row * math.prod(axes) * self._itemsize
        return pointer

    def _words(self, items: int) -> int:
        return items * self._itemsize // WORD


class UploadedBuffer(HostBuffer):
    """A tensor that the host has, and a device without addresses is given what is bound of it.

    Args:
        shape: Its largest.
        dtype: NumPy's name.
        place: The device.
    """

    def __init__(self, shape: Shape, dtype: str, place: Place) -> None:
        super().__init__(shape, dtype)
        self._place = place

    def bind_input(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`Buffer` has it, as the rows are now: what is written later is not in it."""
        axes = (shape or self._shape)[1:]
        first, size = row * math.prod(axes), rows * math.prod(axes)
        values = self.host.reshape(-1)[first : first + size].reshape(rows, *axes)
        value = onnxruntime().OrtValue.ortvalue_from_numpy(values, *self._place)
        binding.bind_ortvalue_input(name, value)


class OpaqueState:
    """State on a device without addresses: rows that are bound together are one tensor.

    Where they were not so before, they are gathered from the tensors that have them. A row that was
    never written may have any values, which graphs must not read.

    Args:
        shape: Its largest; all but the rows are always that.
        dtype: float16.
        gatherer: Of the device.
    """

    def __init__(self, shape: Shape, dtype: str, gatherer: Gatherer) -> None:
        self._axes, self._type, self._gatherer = shape[1:], np.dtype(dtype), gatherer
        self._places: dict[int, tuple[Any, int]] = {}  # of each row: a tensor, and its row there

    def bind_input(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`State` has it."""
        binding.bind_ortvalue_input(name, self._together(row, rows))

    def bind_output(
        self, binding: Any, name: str, row: int, rows: int, shape: Shape | None = None
    ) -> None:
        """As :class:`State` has it."""
        binding.bind_ortvalue_output(name, self._together(row, rows))

    def move(self, source: int, target: int, positions: int, shape: Shape | None = None) -> None:
        """As :class:`State` has it; the source's own values, if it has any, are lost."""
        self.forget(target)
        if source in self._places:
            self._places[target] = self._places.pop(source)

    def forget(self, row: int, shape: Shape | None = None) -> None:
        """As :class:`State` has it: a tensor is freed with the last of its rows."""
        self._places.pop(row, None)

    def _together(self, first: int, count: int) -> Any:
        """A tensor of these rows alone, in order."""
        places = [self._places.get(row) for row in range(first, first + count)]
        known = [place for place in places if place]
        tensors = list({id(tensor): tensor for tensor, _ in known}.values())
        in_order = [row for _, row in known] == list(range(count))
        if len(tensors) == 1 and in_order and tensors[0].shape()[0] == count:
            return tensors[0]
        gather, axes = self._gatherer.gather, self._axes
        together = reserve((count, *axes), self._type, self._gatherer.place)
        held: list[tuple[Any, int]] = []  # the places of its rows
        for tensor in tensors:
            own, size = [place for place in known if place[0] is tensor], together.shape()[0]
            index = [*range(len(held)), *(size + row for _, row in own)]
            together = gather(together, tensor, index, axes)
            held += own
        index = [held.index(place) if place else 0 for place in places]
        if held and index != list(range(count)):
            together = gather(together, together, index, axes)
        self._places |= {first + row: (together, row) for row in range(count)}
        return together


@dataclass(frozen=True, slots=True)
class Buffers:
    """Makes buffers where a provider wants them, of a shape and dtype.

    Attributes:
        given: What the host writes now and then.
        state: What graphs write, and the host never sees.
        exchanged: What the host writes or reads in every step.
    """

    given: Callable[[Shape, str], Buffer]
    state: Callable[[Shape, str], State]
    exchanged: Callable[[Shape, str], Buffer]


def open_buffers(provider: Provider) -> Buffers:
    """The buffers of a provider."""
    if provider.device == "cpu":
        return Buffers(HostBuffer, HostBuffer, HostBuffer)
    if provider.has_addresses:
        plain = partial(DeviceBuffer, mover=Mover(provider))
        return Buffers(plain, plain, partial(plain, staged=True))
    return Buffers(
        partial(UploadedBuffer, place=provider.place),
        partial(OpaqueState, gatherer=Gatherer(provider)),
        HostBuffer,
    )


def _element_type(dtype: str) -> Any:
    """As bindings name it."""
    return _BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)


def _host_type(dtype: str) -> np.dtype[Any]:
    return np.dtype("float16" if dtype == "bfloat16" else dtype)
