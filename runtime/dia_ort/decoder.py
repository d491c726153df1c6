"""The decoder graph with its memory: key/value caches, cross-attention, and bound buffers.

A *slot* holds one utterance and has one row of the graph, or two with guidance: the conditional
row, then the unconditional one. The slots in use are always the first ones, so that each call runs
on a prefix of every buffer and nothing is copied per step; the graph writes its cache in place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.graphs import ModelSpec, cache_names
from dia_ort.providers import Provider, onnxruntime

CACHE_BLOCK = 256
"""Steps by which the cache grows: a short utterance does not pay for the longest."""

_ELEMENT_TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": 16}  # 16: onnx's enum


class DecoderBatch:
    """The state of the decoder for a number of slots.

    Args:
        session: Of the decoder graph.
        model: Its shapes.
        provider: Where it runs.
        dtype: Of its key/value tensors.
        slots: The most utterances at once.
        rows_per_slot: 2 with guidance, 1 without.
        max_text: Text positions of the longest script, in tokens.
    """

    def __init__(
        self,
        session: Any,
        model: ModelSpec,
        provider: Provider,
        dtype: str,
        *,
        slots: int,
        rows_per_slot: int,
        max_text: int,
    ) -> None:
        self.rows_per_slot = rows_per_slot
        self._session = session
        self._model = model
        self._device = provider.device
        self._dtype = dtype
        self._rows = slots * rows_per_slot
        self._text_lengths = np.zeros(self._rows, np.int32)
        names = cache_names(model.num_layers, "cross_key", "cross_value")
        shape = (self._rows, model.cross_num_heads, max_text, model.cross_head_dim)
        self._cross = {name: _Buffer(shape, dtype, self._device) for name in names}
        self._past: dict[str, _Buffer] = {}
        self._capacity = 0
        self._binding = session.io_binding()
        self._bound: tuple[object, ...] | None = None
        self._logits = np.empty((0,), np.float32)

    def set_text(self, slot: int, cross: Sequence[NDArray[Any]], length: int) -> None:
        """Give a slot its script.

        Args:
            slot: Which.
            cross: The text encoder's outputs for the slot's rows, in graph order,
                (rows_per_slot, heads, text, head_dim) each.
            length: Text positions.
        """
        rows = self._rows_of(slot)
        for buffer, value in zip(self._cross.values(), cross, strict=True):
            buffer.write(rows, value)
        self._text_lengths[rows] = length

    def prefill(self, slot: int, tokens: NDArray[np.int64]) -> None:
        """Fill a slot's cache with steps that are known.

        Args:
            slot: Which.
            tokens: (steps, channels), from the first step on.
        """
        steps = len(tokens)
        rows = self._rows_of(slot)
        self._reserve(steps)
        repeated = np.repeat(tokens[None], self.rows_per_slot, axis=0)
        last = np.full(self.rows_per_slot, steps - 1, np.int32)
        self._run(repeated, last, rows, self._session.io_binding())

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run one step of the first slots.

        Args:
            tokens: (slots, channels), the latest of each.
            positions: (slots,), where each stands.

        Returns:
            Logits, (slots, rows_per_slot, channels, vocabulary), valid until the next call.
        """
        slots = len(tokens)
        self._reserve(int(positions.max()) + 1)
        repeated = np.repeat(tokens[:, None], self.rows_per_slot, axis=0)
        last = np.repeat(positions.astype(np.int32), self.rows_per_slot)
        logits = self._run(repeated, last, slice(0, len(last)), self._binding)
        return logits.reshape(slots, self.rows_per_slot, *logits.shape[2:])

    def move(self, source: int, target: int) -> None:
        """Put the utterance of one slot into another."""
        rows, to = self._rows_of(source), self._rows_of(target)
        for buffer in (*self._cross.values(), *self._past.values()):
            buffer.write(to, buffer.read(rows))
        self._text_lengths[to] = self._text_lengths[rows]

    def _rows_of(self, slot: int) -> slice:
        return slice(slot * self.rows_per_slot, (slot + 1) * self.rows_per_slot)

    def _reserve(self, steps: int) -> None:
        """Grow the caches to hold so many steps, by whole blocks."""
        if steps <= self._capacity:
            return
        capacity = min(-(-steps // CACHE_BLOCK) * CACHE_BLOCK, self._model.max_steps)
        shape = (self._rows, self._model.num_kv_heads, capacity, self._model.head_dim)
        for name in cache_names(self._model.num_layers, "key", "value"):
            grown = _Buffer(shape, self._dtype, self._device)
            if name in self._past:
                grown.write(slice(None), self._past[name].read(slice(None)))
            self._past[name] = grown
        self._capacity = capacity

    def _run(
        self, tokens: NDArray[np.int64], last: NDArray[np.int32], rows: slice, binding: Any
    ) -> NDArray[np.float32]:
        """Run the graph on some rows; buffers are bound again only when their place changed."""
        binding.bind_cpu_input("tokens", tokens)
        binding.bind_cpu_input("seqlens_k", last)
        binding.bind_cpu_input("total_sequence_length", last.max(keepdims=True) + np.int32(1))
        binding.bind_cpu_input("text_lengths", self._text_lengths[rows])
        place = (tokens.shape[:2], rows.start, self._capacity)
        if binding is not self._binding or self._bound != place:
            self._bind_buffers(binding, tokens.shape, rows)
            self._bound = place if binding is self._binding else None
        self._session.run_with_iobinding(binding)
        return self._logits

    def _bind_buffers(self, binding: Any, shape: tuple[int, ...], rows: slice) -> None:
        for name, buffer in self._cross.items():
            buffer.bind(binding.bind_input, name, rows)
        for name, buffer in self._past.items():
            buffer.bind(binding.bind_input, f"past_{name}", rows)
            buffer.bind(binding.bind_output, f"present_{name}", rows)
        self._logits = np.empty((*shape, self._model.vocab_size), np.float32)
        binding.bind_output(
            "logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data
        )


class _Buffer:
    """A zeroed tensor on the provider's device whose rows can be bound, read and written."""

    def __init__(self, shape: tuple[int, ...], dtype: str, device: str) -> None:
        self._shape = shape
        self._device = device
        self._type = _ELEMENT_TYPES[dtype]
        host = np.zeros(shape, np.float32 if dtype == "float32" else np.float16)
        self._value = onnxruntime().OrtValue.ortvalue_from_numpy(host, device)
        self._host = host if device == "cpu" else None  # the same memory
        self._row_bytes = host.nbytes // shape[0]

    def bind(self, bind: Any, name: str, rows: slice) -> None:
        shape = (rows.stop - rows.start, *self._shape[1:])
        pointer = self._value.data_ptr() + rows.start * self._row_bytes
        bind(name, self._device, 0, self._type, shape, pointer)

    def read(self, rows: slice) -> NDArray[Any]:
        return self._all()[rows].copy()

    def write(self, rows: slice, values: NDArray[Any]) -> None:
        """Write rows, filling their third axis from its start and zeroing the rest of it."""
        host = self._all()
        host[rows, :, : values.shape[2]] = values
        host[rows, :, values.shape[2] :] = 0
        if self._host is None:
            self._value.update_inplace(host)

    def _all(self) -> NDArray[Any]:
        host: NDArray[Any] = self._value.numpy() if self._host is None else self._host
        return host
