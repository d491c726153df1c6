"""Copies on a provider's device, and between it and the host, by graphs of their own.

onnxruntime's own copies are of whole tensors.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dia_ort.errors import ProviderError
from dia_ort.providers import Provider, onnxruntime, open_own_graph

WORD = 4
"""Bytes that the device's copies are counted in."""

Shape = tuple[int, ...]
Place = tuple[str, int]
"""A device as :attr:`Provider.place` has it, or the host."""
HOST: Place = "cpu", 0


class Mover:
    """Copies between the host and a provider's device, and on it, by a graph of its own.

    onnxruntime copies whole tensors only. The graph has a slice of its input followed by zeros, in
    32-bit words whatever they mean; bound to addresses, that is every copy a buffer needs.

    Args:
        provider: Whose device it is.
    """

    def __init__(self, provider: Provider) -> None:
        self.place = provider.place
        self._session = open_own_graph("move.onnx", provider)
        self._binding = self._session.io_binding()
        self._scratch: tuple[int, Any] = (0, None)

    def zeros(self, words: int) -> Any:
        """An OrtValue of so many words, all zero.

        Of the session's memory, which grows by what is asked for; :func:`reserve`'s doubles.

        Raises:
            ProviderError: There is not so much memory.
        """
        binding = self._session.io_binding()
        binding.bind_cpu_input("source", np.zeros((1, 1), np.float32))
        binding.bind_cpu_input("kept", np.ones(1, np.int64))
        binding.bind_cpu_input("pads", np.array([0, 0, 0, words - 1], np.int64))
        binding.bind_output("target", *self.place)
        with _enough_memory((words,), self.place):
            self._session.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def scratch(self, words: int) -> int:
        """The address of so many words on the device, whose content is anybody's."""
        if self._scratch[0] < words:
            self._scratch = 0, None  # given back before more is taken
            self._scratch = words, reserve((words,), np.float32, self.place)
        address: int = self._scratch[1].data_ptr()
        return address

    def copy(
        self, source: int, place: Place, rows: int, words: int, target: int, target_words: int
    ) -> None:
        """Copy rows of so many words to the device, where they may be shorter, or end in zeros.

        Args:
            source: Address.
            place: Where that is: the host, or the device.
            rows: How many.
            words: Of a row, at the source.
            target: Address on the device. Not within the source.
            target_words: Of a row, there.
        """
        self._run(
            (place, source, (rows, words)),
            (self.place, target, (rows, target_words)),
        )

    def fetch(self, source: int, words: int, target: int) -> None:
        """Copy words from the device to an address on the host."""
        self._run((self.place, source, (1, words)), (HOST, target, (1, words)))

    def _run(self, source: tuple[Place, int, Shape], target: tuple[Place, int, Shape]) -> None:
        (place, pointer, shape), (target_place, target_pointer, target_shape) = source, target
        kept = np.array([min(shape[1], target_shape[1])], np.int64)
        pads = np.array([0, 0, 0, max(target_shape[1] - shape[1], 0)], np.int64)
        binding = self._binding
        binding.bind_input("source", *place, np.float32, shape, pointer)
        binding.bind_cpu_input("kept", kept)
        binding.bind_cpu_input("pads", pads)
        binding.bind_output("target", *target_place, np.float32, target_shape, target_pointer)
        self._session.run_with_iobinding(binding)


class Gatherer:
    """Picks rows of two tensors on a provider's device, by a graph of its own.

    Args:
        provider: Whose device it is.
    """

    def __init__(self, provider: Provider) -> None:
        self.place = provider.place
        self._session = open_own_graph("gather.onnx", provider)

    def gather(self, first: Any, second: Any, index: Sequence[int], axes: Shape) -> Any:
        """A new tensor of rows of two, counted through.

        Args:
            first: float16, (rows, *axes), on the device.
            second: The same, with rows of its own number.
            index: Which rows, those of ``second`` after those of ``first``.
            axes: Of a row.
        """
        gathered = reserve((len(index), *axes), np.dtype("float16"), self.place)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("first", first)
        binding.bind_ortvalue_input("second", second)
        binding.bind_cpu_input("index", np.array(index, np.int64))
        binding.bind_ortvalue_output("rows", gathered)
        self._session.run_with_iobinding(binding)
        return gathered


def reserve(shape: Shape, element_type: Any, place: Place) -> Any:
    """An OrtValue on a device, of any content.

    Raises:
        ProviderError: There is not so much memory.
    """
    with _enough_memory(shape, place):
        return onnxruntime().OrtValue.ortvalue_from_shape_and_type(shape, element_type, *place)


@contextmanager
def _enough_memory(shape: Shape, place: Place) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's own classes share no useful base
        raise ProviderError(
            f"{place[0]} has no memory for a tensor of the shape {shape}: run fewer "
            f"utterances at once (max_batch), or take a smaller model. ({error})"
        ) from error
