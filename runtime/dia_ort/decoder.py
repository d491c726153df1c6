"""The decoder graph with its memory: key/value caches, cross-attention, and bound buffers.

A *slot* holds one utterance and has two rows of the graph: the conditional one, and the
unconditional one that guidance compares it with. The graph wants all conditional rows before all
unconditional ones; so in every buffer slot 0's rows lie in the middle, and those of the next slots
around them::

    conditional:  2 1 0 | 0 1 2  :unconditional

The slots in use are always the first ones. Each call then runs on the middle of every buffer, at a
fixed distance between rows, and nothing is copied per step: the graph writes its cache in place.
"""

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.graphs import ModelSpec, cache_names
from dia_ort.providers import Provider, onnxruntime

ROWS = 2
"""Of a slot. onnxruntime's kernels run rows in pairs, and round a single one differently."""
TEXT_BLOCK = 32
"""The text axis has a multiple of this: kernels round a rest of other lengths differently."""

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


# Not shared with forked processes, and given back page by page.
_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)


def slot_bytes(model: ModelSpec, dtype: str, cache_dtype: str, steps: int, text: int) -> int:
    """The memory that an utterance takes in a decoder.

    Args:
        model: Shapes.
        dtype: Of the cross-attention's keys and values.
        cache_dtype: Of the self-attention's.
        steps: Decoder steps, an audio prompt's included.
        text: Text positions.
    """
    step = ROWS * model.num_kv_heads * model.head_dim * _ITEM_BYTES[cache_dtype]
    position = model.cross_num_heads * model.cross_head_dim * _ITEM_BYTES[dtype]
    return 2 * model.num_layers * (step * steps + position * _padded(text))


def _padded(text: int) -> int:
    return -(-text // TEXT_BLOCK) * TEXT_BLOCK


class DecoderBatch:
    """The state of the decoder for a number of slots.

    Its buffers are reserved at their largest size, and take memory as they are written to.

    Args:
        session: Of the decoder graph.
        model: Its shapes.
        provider: Where it runs.
        dtype: Of its cross-attention's keys and values.
        cache_dtype: Of its cache.
        slots: The most utterances at once.
        unconditional: The text encoder's outputs for a text of one zero, in graph order,
            (1, heads, 1, head_dim) each.
    """

    def __init__(
        self,
        session: Any,
        model: ModelSpec,
        provider: Provider,
        dtype: str,
        cache_dtype: str,
        *,
        slots: int,
        unconditional: Sequence[NDArray[Any]],
    ) -> None:
        self.slots = slots
        self._session = session
        self._model = model

        def buffer(dtype: str, *shape: int) -> _Buffer:
            return _Buffer(shape, dtype, provider.device)

        layers, heads, width = model.num_layers, model.cross_num_heads, model.cross_head_dim
        rows = ROWS * slots
        self._cross_names = cache_names(layers, "cross_key", "cross_value")
        self._cache_names = cache_names(layers, "key", "value")
        # The conditional half alone has a text; its rows end where the unconditional ones begin.
        text = (slots, heads, _padded(model.max_text), width)
        self._cross = [buffer(dtype, *text) for _ in self._cross_names]
        self._text_axis = TEXT_BLOCK
        self._text_lengths = _Buffer((slots,), "int32", "cpu")
        self._uncond = [buffer(dtype, 1, heads, 1, width) for _ in self._cross_names]
        for constant, value in zip(self._uncond, unconditional, strict=True):
            constant.write(value)
        self._uncond_value = buffer(dtype, layers, heads * width)
        self._uncond_value.write(np.stack([v.flatten() for v in unconditional[1::2]]))
        cache = (rows, model.num_kv_heads, model.max_steps, model.head_dim)
        self._cache = [buffer(cache_dtype, *cache) for _ in self._cache_names]

        channels, vocab = model.num_channels, model.vocab_size
        self._tokens = _Buffer((rows, 1, channels), "int64", "cpu")
        self._last = _Buffer((rows,), "int32", "cpu")
        self._total = _Buffer((1,), "int32", "cpu")
        self._logits = _Buffer((rows, 1, channels, vocab), "float32", "cpu")
        self._paired = np.empty((slots, ROWS, channels, vocab), np.float32)
        self._steps = [0] * slots  # in each slot's cache
        self._binding = session.io_binding()
        self._bound: tuple[int, int] | None = None

    def set_text(self, slot: int, cross: Sequence[NDArray[Any]], length: int) -> None:
        """Give a slot its script.

        Args:
            slot: Which.
            cross: The text encoder's outputs, in graph order, (1, heads, text, head_dim) each.
            length: Text positions.
        """
        row = self.slots - 1 - slot
        self._lengths[row] = length
        self._fit_text()
        for buffer, value in zip(self._cross, cross, strict=True):
            with buffer.edit(self._text_shape(self.slots)) as host:
                host[row, :, : value.shape[2]] = value[0]

    def prefill(self, slot: int, tokens: NDArray[np.int64], start: int) -> None:
        """Fill a slot's cache with steps that are known.

        A row at a time: GroupQueryAttention takes several steps after a past of one row only.

        Args:
            slot: Which.
            tokens: (steps, channels).
            start: The position of the first of them.
        """
        row = self.slots - 1 - slot
        length = self._lengths[row : row + 1].copy()
        self._steps[slot] = start + len(tokens)
        own = [(buffer, row) for buffer in self._cross]
        shape = self._text_shape(1)
        self._prefill_row(row, tokens, start, own, shape, length)
        constant = [(buffer, 0) for buffer in self._uncond]
        shape = (*shape[:2], 1, shape[3])
        self._prefill_row(self.slots + slot, tokens, start, constant, shape, np.ones_like(length))

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run one step of the first slots.

        Args:
            tokens: (slots, channels), the latest of each.
            positions: (slots,), where each stands.

        Returns:
            Logits, (slots, 2, channels, vocabulary), of the conditional row and the unconditional
            one; valid until the next call.
        """
        count = len(tokens)
        first, middle, stop = self.slots - count, self.slots, self.slots + count
        for host, values in ((self._tokens.host, tokens[:, None]), (self._last.host, positions)):
            host[first:middle] = values[::-1]
            host[middle:stop] = values
        self._steps[:count] = (positions + 1).tolist()
        self._total.host[0] = max(self._steps[:count])
        if self._bound != (count, self._text_axis):
            self._bind(count)
        self._session.run_with_iobinding(self._binding)
        logits, paired = self._logits.host, self._paired[:count]
        paired[:, 0] = logits[first:middle][::-1, 0]
        paired[:, 1] = logits[middle:stop, 0]
        return paired

    def move(self, source: int, target: int) -> None:
        """Put the utterance of one slot into another, and release its own."""
        row, to = self.slots - 1 - source, self.slots - 1 - target
        steps = self._steps[target] = self._steps[source]
        length = self._lengths[to] = self._lengths[row]
        for buffer in self._cross:
            with buffer.edit(self._text_shape(self.slots)) as host:
                host[to, :, :length] = host[row, :, :length]
        for buffer in self._cache:
            with buffer.edit() as host:
                host[to, :, :steps] = host[row, :, :steps]
                host[self.slots + target, :, :steps] = host[self.slots + source, :, :steps]
        self.release(source)

    def release(self, slot: int) -> None:
        """Forget a slot's utterance, and give its memory back."""
        row = self.slots - 1 - slot
        self._lengths[row] = 0
        for buffer in self._cross:
            buffer.forget(row, self._text_shape(self.slots))
        for buffer in self._cache:
            buffer.forget(row)
            buffer.forget(self.slots + slot)

    @property
    def _lengths(self) -> NDArray[np.int32]:
        return self._text_lengths.host

    def _text_shape(self, rows: int) -> tuple[int, ...]:
        model = self._model
        return (rows, model.cross_num_heads, self._text_axis, model.cross_head_dim)

    def _fit_text(self) -> None:
        """Make the text axis as long as the longest script, and not longer."""
        axis = _padded(int(self._lengths.max()))
        if axis == self._text_axis:
            return
        before, kept = self._text_shape(self.slots), min(axis, self._text_axis)
        self._text_axis = axis
        rows = np.flatnonzero(self._lengths)
        for buffer in self._cross:
            with buffer.edit(before) as host:
                texts = host[rows, :, :kept]  # a copy
            buffer.forget()  # the memory of the rows as they lay before
            with buffer.edit(self._text_shape(self.slots)) as host:
                host[rows, :, :kept] = texts

    def _bind(self, count: int) -> None:
        """Bind the rows of the first slots, which stay where they are until the text axis moves."""
        binding, first, rows = self._binding, self.slots - count, ROWS * count
        self._tokens.bind(binding.bind_input, "tokens", first, rows)
        self._last.bind(binding.bind_input, "seqlens_k", first, rows)
        self._total.bind(binding.bind_input, "total_sequence_length", 0, 1)
        self._text_lengths.bind(binding.bind_input, "text_lengths", first, count)
        shape = self._text_shape(self.slots)
        self._bind_layers(binding, [(b, first) for b in self._cross], (count, *shape[1:]))
        self._bind_cache(binding, first, rows)
        self._logits.bind(binding.bind_output, "logits", first, rows)
        self._bound = count, self._text_axis

    def _prefill_row(
        self,
        row: int,
        tokens: NDArray[np.int64],
        start: int,
        cross: Sequence[tuple["_Buffer", int]],
        text_shape: tuple[int, ...],
        text_length: NDArray[np.int32],
    ) -> None:
        binding = self._session.io_binding()
        last = np.array([start + len(tokens) - 1], np.int32)
        logits = np.empty((1, len(tokens), *self._paired.shape[2:]), np.float32)
        binding.bind_cpu_input("tokens", np.ascontiguousarray(tokens[None]))
        binding.bind_cpu_input("seqlens_k", last)
        binding.bind_cpu_input("total_sequence_length", last + np.int32(1))
        binding.bind_cpu_input("text_lengths", text_length)
        self._bind_layers(binding, cross, text_shape)
        self._bind_cache(binding, row, 1)
        pointer = logits.ctypes.data
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, pointer)
        self._session.run_with_iobinding(binding)

    def _bind_layers(
        self, binding: Any, cross: Sequence[tuple["_Buffer", int]], shape: tuple[int, ...]
    ) -> None:
        self._uncond_value.bind(binding.bind_input, "uncond_value", 0, self._model.num_layers)
        for name, (buffer, row) in zip(self._cross_names, cross, strict=True):
            buffer.bind(binding.bind_input, name, row, shape[0], shape)

    def _bind_cache(self, binding: Any, row: int, rows: int) -> None:
        for name, buffer in zip(self._cache_names, self._cache, strict=True):
            buffer.bind(binding.bind_input, f"past_{name}", row, rows)
            buffer.bind(binding.bind_output, f"present_{name}", row, rows)


class _Buffer:
    """A tensor on the provider's device, or as much of it as a smaller shape needs.

    Attributes:
        host: On the CPU, the tensor itself, which takes memory page by page, as it is written to.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, device: str) -> None:
        self._shape = shape
        self._device = device
        # NumPy has no bfloat16; 16 is onnx's number of it.
        self._type: Any = 16 if dtype == "bfloat16" else np.dtype(dtype)
        host_type = np.dtype("float16" if dtype == "bfloat16" else dtype)
        self._itemsize = host_type.itemsize
        if device == "cpu":
            self._memory = mmap.mmap(-1, math.prod(shape) * self._itemsize, **_PRIVATE)
            if hasattr(mmap, "MADV_NOHUGEPAGE"):  # or the first step would take 2 MB for each head
                self._memory.madvise(mmap.MADV_NOHUGEPAGE)
            self.host = np.frombuffer(self._memory, host_type).reshape(shape)
            self._pointer = self.host.ctypes.data
        else:
            zeros = np.zeros(shape, host_type)
            self._value = onnxruntime().OrtValue.ortvalue_from_numpy(zeros, device)
            self._pointer = self._value.data_ptr()

    def bind(
        self, bind: Any, name: str, row: int, rows: int, shape: tuple[int, ...] | None = None
    ) -> None:
        """Bind some rows to a graph's input or output."""
        axes = (shape or self._shape)[1:]
        pointer = self._pointer + row * math.prod(axes) * self._itemsize
        bind(name, self._device, 0, self._type, (rows, *axes), pointer)

    def forget(self, row: int | None = None, shape: tuple[int, ...] | None = None) -> None:
        """Give back the memory of a row, or all, where the system can; its values are lost."""
        if self._device != "cpu" or not hasattr(mmap, "MADV_DONTNEED"):
            return
        if row is None:
            self._memory.madvise(mmap.MADV_DONTNEED)
            return
        size = math.prod((shape or self._shape)[1:]) * self._itemsize
        start = -(-row * size // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (row + 1) * size // mmap.PAGESIZE * mmap.PAGESIZE
        if start < stop:
            self._memory.madvise(mmap.MADV_DONTNEED, start, stop - start)

    @contextlib.contextmanager
    def edit(self, shape: tuple[int, ...] | None = None) -> Iterator[NDArray[Any]]:
        """The tensor, to be read and changed."""
        shape = shape or self._shape
        whole = self.host if self._device == "cpu" else self._value.numpy()
        yield whole.reshape(-1)[: math.prod(shape)].reshape(shape)
        if self._device != "cpu":
            self._value.update_inplace(whole)

    def write(self, values: NDArray[Any]) -> None:
        """Give the whole tensor its values."""
        with self.edit(values.shape) as host:
            host[:] = values
