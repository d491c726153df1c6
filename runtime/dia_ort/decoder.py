"""The decoder graph with its memory: key/value caches, cross-attention, and bound buffers.

A *slot* holds one utterance and has two rows of the graph: the conditional one, and the
unconditional one that guidance compares it with. The graph wants all conditional rows before all
unconditional ones; so in every buffer slot 0's rows lie in the middle, and those of the next slots
around them::

    conditional:  2 1 0 | 0 1 2  :unconditional

The slots in use are always the first ones. Each call then runs on the middle of every buffer, at a
fixed distance between rows, and nothing is copied per step: the graph writes its cache in place.

Where steps are captured as CUDA graphs, one is recorded for each number of slots and length of the
text axis, and replayed: so all addresses are fixed. On a device the kernels are told that the
longest row is as long as can be: that is fixed, too, and they divide a row by it, whatever its
neighbours.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from dia_ort.buffers import Buffer, DeviceBuffer, HostBuffer, State, Value, open_buffers
from dia_ort.choice import open_choice
from dia_ort.copies import Shape
from dia_ort.graphs import ModelSpec, cache_names
from dia_ort.providers import Provider, onnxruntime
from dia_ort.sampling import Candidates, SamplingParams, choose

ROWS = 2
"""Of a slot. onnxruntime's kernels run rows in pairs, and round a single one differently."""
TEXT_BLOCK = 32
"""The text axis has a multiple of this: kernels round a rest of other lengths differently."""

_NO_GRAPH = -1
"""onnxruntime's number for a run that is not captured."""
_GRAPH_NUMBERS = itertools.count()
"""A captured graph has addresses of one batch, and several batches may share a session."""
_SHORT_RUN = 16
"""Steps in a call on the WebGPU provider, which has another attention from 32 on: with drivers in
software, the only ones it was tried with, that one is wrong."""
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


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


def few_sizes(text: int, model: ModelSpec) -> int:
    """A length of text rounded up to one of few: CUDA graphs and cuDNN's plans are for a size each.

    Plans are made in the step or the encoding that first has a size, for each layer.
    """
    return min(max(1 << (text - 1).bit_length(), TEXT_BLOCK), _padded(model.max_text))


P = ParamSpec("P")
T = TypeVar("T")


def _alone(
    method: Callable[Concatenate["DecoderBatch", P], T],
) -> Callable[Concatenate["DecoderBatch", P], T]:
    """A method that holds :attr:`Provider.alone`."""

    @functools.wraps(method)
    def held(self: "DecoderBatch", /, *arguments: P.args, **named: P.kwargs) -> T:
        with self._provider.alone:
            return method(self, *arguments, **named)

    return held


class _Graphs(threading.local):
    """The CUDA graphs that a thread has captured: onnxruntime keeps them for each thread.

    Attributes:
        numbers: By slots and length of the text axis.
    """

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, int], int] = {}


class DecoderBatch:
    """The state of the decoder for a number of slots.

    Its buffers are reserved at their largest size. On the CPU they take memory as they are written
    to; a device gives all of it at once.

    Args:
        session: Of the decoder graph.
        model: Its shapes.
        provider: Where it runs.
        dtype: Of its cross-attention's keys and values.
        cache_dtype: Of its cache.
        slots: The most utterances at once.
        unconditional: The text encoder's outputs for a text of one zero, in graph order,
            (1, heads, 1, head_dim) each.

    Attributes:
        slots: The most utterances at once.
        has_plans: Whether kernels make a plan for each number of steps, as cuDNN's attention does.

    Raises:
        ProviderError: There is not so much memory.
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
        unconditional: Sequence[Value],
    ) -> None:
        self.slots = slots
        self._provider = provider
        self._session = session
        self._model = model

        buffers = open_buffers(provider)
        layers, heads, width = model.num_layers, model.cross_num_heads, model.cross_head_dim
        rows = ROWS * slots
        self._cross_names = cache_names(layers, "cross_key", "cross_value")
        self._cache_names = cache_names(layers, "key", "value")
        # The conditional half alone has a text; its rows end where the unconditional ones begin.
        text = (slots, heads, _padded(model.max_text), width)
        self._cross: list[Buffer] = [buffers.given(text, dtype) for _ in self._cross_names]
        self._text_axis = TEXT_BLOCK
        self._text_lengths = buffers.exchanged((slots,), "int32")
        one = (1, heads, 1, width)
        self._uncond: list[Buffer] = [buffers.given(one, dtype) for _ in self._cross_names]
        for constant, value in zip(self._uncond, unconditional, strict=True):
            constant.put(0, value)
        self._uncond_value = buffers.given((layers, heads * width), dtype)
        for layer, value in enumerate(unconditional[1::2]):
            self._uncond_value.put(layer, value, (layers, heads, 1, width))
        cache = (rows, model.num_kv_heads, model.max_steps, model.head_dim)
        self._cache: list[State] = [buffers.state(cache, cache_dtype) for _ in self._cache_names]

        channels, vocab = model.num_channels, model.vocab_size
        self._tokens = buffers.exchanged((rows, 1, channels), "int64")
        self._last = buffers.exchanged((rows,), "int32")
        self._total = HostBuffer((1,), "int32")  # kernels want it on the CPU
        self._total.host[0] = model.max_steps
        self._logits = buffers.exchanged((rows, 1, channels, vocab), "float32")
        self._paired = np.empty((slots, ROWS, channels, vocab), np.float32)
        self._choice = open_choice(provider, model, slots, buffers)
        self._steps = [0] * slots  # in each slot's cache
        self._finite = np.zeros(slots, bool)  # whether a slot's latest logits are known to be
        self._binding = session.io_binding()
        self._bound: tuple[int, int] | None = None
        self._captures = provider.captures
        self._has_addresses = provider.has_addresses
        self._on_device = isinstance(self._cache[0], DeviceBuffer)
        self.has_plans = self._on_device
        self._longest_run = None if provider.name != "webgpu" else _SHORT_RUN
        self._graphs = _Graphs()

    @_alone
    def set_text(self, slot: int, cross: Sequence[Value], length: int) -> None:
        """Give a slot its script.

        Args:
            slot: Which.
            cross: The text encoder's outputs, in graph order, (1, heads, text, head_dim) each.
            length: Text positions.
        """
        row = self.slots - 1 - slot
        self._finite[slot] = False
        self._set_length(row, length)
        self._fit_text()
        for buffer, value in zip(self._cross, cross, strict=True):
            buffer.put(row, value, self._text_shape(self.slots))
        self._bound = None

    @_alone
    def prefill(self, slot: int, tokens: NDArray[np.int64], start: int) -> None:
        """Fill a slot's cache with steps that are known.

        A row at a time: GroupQueryAttention takes several steps after a past of one row only.

        Args:
            slot: Which.
            tokens: (steps, channels).
            start: The position of the first of them.
        """
        if self._longest_run is not None and len(tokens) > self._longest_run:
            self.prefill(slot, tokens[: self._longest_run], start)
            self.prefill(slot, tokens[self._longest_run :], start + self._longest_run)
            return
        row = self.slots - 1 - slot
        length = self._lengths[row : row + 1].copy()
        self._steps[slot], self._finite[slot] = start + len(tokens), False
        own = [(buffer, row) for buffer in self._cross]
        shape = self._text_shape(1)
        self._prefill_row(row, tokens, start, own, shape, length)
        constant = [(buffer, 0) for buffer in self._uncond]
        shape = (*shape[:2], 1, shape[3])
        self._prefill_row(self.slots + slot, tokens, start, constant, shape, np.ones_like(length))

    @_alone
    def choose(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], params: SamplingParams
    ) -> Candidates:
        """Run one step of the first slots, and choose the best tokens.

        Args:
            tokens: (slots, channels), the latest of each.
            positions: (slots,), where each stands.
            params: The settings of each.
        """
        if self._choice:
            self._forward(tokens, positions)
            chosen = self._choice.choose(self._logits, self.slots, params)
            self._finite[: len(tokens)] = chosen.finite
            return chosen
        logits, model = self.step(tokens, positions), self._model
        return choose(
            logits[:, 0],
            logits[:, 1],
            params,
            release=model.release,
            eos_token_id=model.eos_token_id,
        )

    @_alone
    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run one step of the first slots, with all logits.

        Args:
            tokens: (slots, channels), the latest of each.
            positions: (slots,), where each stands.

        Returns:
            Logits, (slots, 2, channels, vocabulary), of the conditional row and the unconditional
            one; valid until the next call.
        """
        self._forward(tokens, positions)
        count = len(tokens)
        first, middle, stop = self.slots - count, self.slots, self.slots + count
        self._logits.download(first, ROWS * count)
        logits, paired = self._logits.host, self._paired[:count]
        paired[:, 0] = logits[first:middle][::-1, 0]
        paired[:, 1] = logits[middle:stop, 0]
        return paired

    def _forward(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Run one step of the first slots; the logits stay where they are."""
        count = len(tokens)
        first, middle, stop = self.slots - count, self.slots, self.slots + count
        for buffer, values in ((self._tokens, tokens[:, None]), (self._last, positions)):
            buffer.host[first:middle] = values[::-1]
            buffer.host[middle:stop] = values
            buffer.upload()
        self._steps[:count] = (positions + 1).tolist()
        if not self._on_device:
            self._total.host[0] = max(self._steps[:count])
        shape = count, self._text_axis
        if self._bound != shape:
            self._bind(count)
        elif not self._has_addresses:
            self._bind_inputs(count)
        numbers = self._graphs.numbers
        number = numbers[shape] if shape in numbers else next(_GRAPH_NUMBERS)
        self._run(self._binding, number)
        numbers[shape] = number

    @_alone
    def move(self, source: int, target: int) -> None:
        """Put the utterance of one slot into another, and release its own."""
        row, to = self.slots - 1 - source, self.slots - 1 - target
        steps = self._steps[target] = self._steps[source]
        self._finite[target] = self._finite[source]
        length = int(self._lengths[row])
        self._set_length(to, length)
        for buffer in self._cross:
            buffer.move(row, to, length, self._text_shape(self.slots))
        for cache in self._cache:
            cache.move(row, to, steps)
            cache.move(self.slots + source, self.slots + target, steps)
        self.release(source)
        self._bound = None

    @_alone
    def release(self, slot: int) -> None:
        """Forget a slot's utterance, and give its memory back.

        A device gives none back, and clears a row of each tensor on its own. So what is finite
        stays there: masked, it has a weight of zero, which NaN alone would survive.
        """
        row = self.slots - 1 - slot
        self._set_length(row, 0)
        if self._on_device and self._finite[slot]:
            return
        for buffer in self._cross:
            buffer.forget(row, self._text_shape(self.slots))
        for cache in self._cache:
            cache.forget(row)
            cache.forget(self.slots + slot)

    @property
    def _lengths(self) -> NDArray[np.int32]:
        return self._text_lengths.host

    def _set_length(self, row: int, length: int) -> None:
        self._lengths[row] = length
        self._text_lengths.upload()

    def _text_shape(self, rows: int) -> Shape:
        model = self._model
        return (rows, model.cross_num_heads, self._text_axis, model.cross_head_dim)

    def _fit_text(self) -> None:
        """Make the text axis as long as the longest script, and not longer than need be."""
        axis = _padded(int(self._lengths.max()))
        if self._on_device:
            axis = few_sizes(axis, self._model)
        if axis == self._text_axis:
            return
        before, self._text_axis = self._text_shape(self.slots), axis
        for buffer in self._cross:
            buffer.reshape(self._lengths.tolist(), before, self._text_shape(self.slots))

    def _bind(self, count: int) -> None:
        """Bind the rows of the first slots, which stay where they are until the text axis moves."""
        binding, first, rows = self._binding, self.slots - count, ROWS * count
        self._bind_inputs(count)
        self._text_lengths.bind_input(binding, "text_lengths", first, count)
        shape = self._text_shape(self.slots)
        self._bind_layers(binding, [(b, first) for b in self._cross], (count, *shape[1:]))
        self._bind_cache(binding, first, rows)
        self._logits.bind_output(binding, "logits", first, rows)
        self._bound = count, self._text_axis

    def _bind_inputs(self, count: int) -> None:
        """Bind what is new in every step; without addresses, it is copied here."""
        first, rows = self.slots - count, ROWS * count
        self._tokens.bind_input(self._binding, "tokens", first, rows)
        self._last.bind_input(self._binding, "seqlens_k", first, rows)
        self._total.bind_input(self._binding, "total_sequence_length", 0, 1)

    def _prefill_row(
        self,
        row: int,
        tokens: NDArray[np.int64],
        start: int,
        cross: Sequence[tuple[Buffer, int]],
        text_shape: Shape,
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
        self._run(binding, _NO_GRAPH)

    def _bind_layers(self, binding: Any, cross: Sequence[tuple[Buffer, int]], shape: Shape) -> None:
        self._uncond_value.bind_input(binding, "uncond_value", 0, self._model.num_layers)
        for name, (buffer, row) in zip(self._cross_names, cross, strict=True):
            buffer.bind_input(binding, name, row, shape[0], shape)

    def _bind_cache(self, binding: Any, row: int, rows: int) -> None:
        for name, buffer in zip(self._cache_names, self._cache, strict=True):
            buffer.bind_input(binding, f"past_{name}", row, rows)
            buffer.bind_output(binding, f"present_{name}", row, rows)

    def _run(self, binding: Any, graph: int) -> None:
        """Run what is bound; where steps are captured, as the graph of this number."""
        if not self._captures:
            self._session.run_with_iobinding(binding)
            return
        options = onnxruntime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        self._session.run_with_iobinding(binding, options)
