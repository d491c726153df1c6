"""The engine: requests of any threads, run together by one thread of its own."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import Audio, AudioChunk, FinishReason
from dia_ort.checks import check_whole
from dia_ort.codec import CHUNK_FRAMES, ChunkWindows
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.errors import (
    DiaError,
    EngineClosedError,
    EngineDiedError,
    QueueFullError,
)
from dia_ort.graphs import CodecSpec
from dia_ort.memory import available_memory
from dia_ort.scheduler import Request, Scheduler
from dia_ort.streams import AudioStream, FrameStream, Progress, Stream
from dia_ort.voice import Voice
from dia_ort.waiting import wait_for

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine is doing.

    Attributes:
        queued: Requests that wait for a slot.
        running: Requests that have one.
        steps: Decoder steps since the engine was opened, each of all that ran.
        frames: Complete frames of all requests, 86.13 to the second of audio.
    """

    queued: int
    running: int
    steps: int
    frames: int


class Engine:
    """Speaks for many at once: requests join the running ones at any step, and leave at their end.

    On the CPU provider, a request's codes are the same as alone, bit for bit, whoever runs beside
    it. Requests are begun in the order in which they came. All methods are for any thread.

    Use it in a ``with`` block: its end waits for all requests, and an exception in it gives them
    up. An engine that is dropped, or that is open when Python ends, gives them up too.

    Args:
        dia: The model.
        max_batch: The most requests that run at once.
        max_queue: The most that wait besides.
        memory_limit: The most bytes that the running requests' caches may take, each counted with
            its ``max_tokens``; None: half of the memory that is available, where the system tells.
            A device's memory is taken for all ``max_batch`` at the start, so None limits nothing
            there.

    Attributes:
        dia: The model.
        max_batch: The most requests that run at once.

    Raises:
        InvalidConfigError: A limit is less than 1 (``max_queue``: 0).
    """

    def __init__(
        self,
        dia: Dia,
        *,
        max_batch: int = 8,
        max_queue: int = 256,
        memory_limit: int | None = None,
    ) -> None:
        max_batch = check_whole("max_batch", max_batch, 1)
        max_queue = check_whole("max_queue", max_queue, 0)
        if memory_limit is not None:
            memory_limit = check_whole("memory_limit", memory_limit, 1)
        elif dia.provider.device == "cpu" and (available := available_memory()):
            memory_limit = available // 2
        self.dia = dia
        self.max_batch = max_batch
        self._worker = _Worker(dia, max_batch, max_queue, memory_limit)
        # The thread keeps no engine alive. SimpleQueue.put may interrupt anything, itself too.
        weakref.finalize(self, self._worker.inbox.put, _Worker.abort).atexit = False
        self._worker.start()

    def submit(
        self, text: str, config: GenerationConfig | None = None, voice: Voice | None = None
    ) -> "GenerationHandle":
        """Take a request, to be begun when there is room. Does not wait.

        Args:
            text: As in :meth:`dia_ort.Dia.generate`.
            config: Settings; None takes upstream's defaults.
            voice: To go on in.

        Raises:
            InvalidTextError, InvalidAudioError: As in :meth:`dia_ort.Dia.generate`.
            InvalidConfigError: As there; or its cache would never fit into ``memory_limit``.
            QueueFullError: ``max_batch`` run and ``max_queue`` wait.
            EngineClosedError: The engine was closed.
            EngineDiedError: The engine's thread has failed.
        """
        request = self.dia._request(text, config, voice)  # noqa: SLF001
        handle = GenerationHandle(request, self._worker)
        self._worker.submit(request, handle._progress)  # noqa: SLF001 - parts of one interface
        return handle

    @property
    def stats(self) -> EngineStats:
        """What it is doing now."""
        return self._worker.stats()

    @property
    def failure(self) -> EngineDiedError | None:
        """Why it has died; None: it has not."""
        return self._worker.failure

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests, and leave no thread behind.

        It blocks; in asyncio, ``await asyncio.to_thread(engine.close)``.

        Args:
            drain: Wait until all requests have ended; else give them up at the next step, or the
                next window of audio, with an :class:`EngineClosedError` each.
            timeout: Give them up after so many seconds of waiting; None: wait as long as it takes.
        """
        self._worker.close(drain=drain, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(drain=kind is None)


class GenerationHandle:
    """A request that an engine has taken. All its methods are for any thread.

    It keeps the model in memory, as its audio may be asked for again: keep the :meth:`result`.

    Attributes:
        seed: That generates the same codes again.
    """

    def __init__(self, request: Request, worker: "_Worker") -> None:
        self.seed: int = request.utterance.seed
        self._request = request
        self._worker = worker
        self._progress = Progress(request.utterance)
        # A handle that was dropped wants no audio, and must not wait for the garbage collector.
        on_end = weakref.WeakMethod(self._on_end)
        self._progress.ended.add_done_callback(lambda ended: (call := on_end()) and call(ended))
        self._is_streamed = False
        self._lock = threading.Lock()
        self._samples: Future[NDArray[np.float32]] | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended: all codes are there, or it failed or was cancelled."""
        return self._progress.ended.done()

    @property
    def begun(self) -> Future[None]:
        """A future that is done when it has a slot, or has ended without one."""
        return self._progress.begun

    @property
    def num_frames(self) -> int:
        """How many frames are complete."""
        return self._request.utterance.num_frames

    @property
    def codes(self) -> NDArray[np.int64]:
        """The complete frames so far, (frames, channels)."""
        return self._request.utterance.codes

    @property
    def finish_reason(self) -> FinishReason | None:
        """How it ended, as in :class:`dia_ort.Audio`; None while it has not."""
        return self._request.utterance.finish_reason if self.done else None

    def cancel(self) -> None:
        """Ask for an end at the next step; :meth:`result` and the streams then say so by raising.

        What is done stays in :attr:`codes`, and may be decoded. Nothing happens if it has ended.
        """
        self._worker.cancel(self._request)

    def result(self, timeout: float | None = None) -> Audio:
        """Wait for the finished speech, the same as :meth:`dia_ort.Dia.generate` gives.

        Args:
            timeout: The most seconds to wait; None: as long as it takes.

        Raises:
            TimeoutError: It is not finished by then; it goes on.
            GenerationCancelledError: It was cancelled.
            EngineClosedError: The engine was closed, and gave it up.
            EngineDiedError: The engine's thread has failed.
            NumericalError: The logits are not finite.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            wait_for(self._progress.ended, timeout)
            left = None if deadline is None else deadline - time.monotonic()
            samples = wait_for(self._decode(), left)
        except TimeoutError as error:
            raise TimeoutError(
                f"the speech was not finished in {timeout} s: it goes on; ask again."
            ) from error
        return self._request.utterance.audio(samples, self._worker.codec.sample_rate)

    def frames(self) -> Stream[NDArray[np.int64]]:
        """Codes as they are finished: all new complete frames at a time, (frames, channels).

        For ``for`` and ``async for``. Leaving the loop early leaves the request running:
        :meth:`cancel` it if nobody wants it. Errors are those of :meth:`result`, after the frames.
        """
        self._is_streamed = True
        return FrameStream(self._progress)

    def audio(self, chunk_frames: Sequence[int] = CHUNK_FRAMES) -> Stream[AudioChunk]:
        """Audio as it is finished. The chunks, joined, are the result's samples but for rounding.

        For ``for`` and ``async for``, as :meth:`frames`. An error comes after the audio before it,
        but at once if the request was cancelled or the engine closed. Each chunk is decoded when it
        is asked for, once, with ``CodecSpec.context_frames`` of its neighbours on both sides.

        Args:
            chunk_frames: Frames of the first chunk, the second, and so on; the last number counts
                for all that follow.

        Raises:
            InvalidConfigError: There are no such numbers, or some are less than 1.
        """
        windows = ChunkWindows(self._worker.codec, chunk_frames)
        self._is_streamed = True
        return AudioStream(self._progress, self._worker.decode, windows)

    def _on_end(self, ended: Future[None]) -> None:
        """Decode beside what runs on, but not what was taken as a stream."""
        if not ended.exception() and not self._is_streamed:
            self._decode()

    def _decode(self) -> Future[NDArray[np.float32]]:
        """All samples; they are decoded once."""
        with self._lock:
            given_up = self._samples and self._samples.done() and self._samples.exception()
            if self._samples is None or given_up:
                self._samples = self._worker.decode(self.codes)
            return self._samples


class _Worker(threading.Thread):
    """The engine's thread, and another one for the codec. Others leave it calls in its inbox."""

    def __init__(self, dia: Dia, max_batch: int, max_queue: int, memory_limit: int | None) -> None:
        # Daemonic: Python does not wait for it before _abort_all has told it to end.
        super().__init__(name="dia-ort-engine", daemon=True)
        self.codec: CodecSpec = dia.manifest.codec
        # Calls to be made on it. They do not hold it: those that come too late would keep it alive.
        self.inbox: SimpleQueue[Callable[[_Worker], None]] = SimpleQueue()
        self._dia = dia
        self._capacity = max_batch + max_queue
        self._scheduler = Scheduler(
            dia.open_decoder(max_batch), dia.manifest.model, dia.encode_tokens, memory_limit
        )
        self._decoding = ThreadPoolExecutor(1, "dia-ort-codec")
        self._lock = threading.Lock()  # of what follows
        self._open: dict[Request, Progress] = {}
        self._closed = False
        self._cause: BaseException | None = None  # of its death
        self._final: EngineStats | None = None
        # Its own:
        self._draining = False
        self._aborted = False

    # For any thread

    def submit(self, request: Request, progress: Progress) -> None:
        with self._lock:
            if self._closed or not self.is_alive():
                raise self._refusal()
            self._scheduler.check(request)
            if len(self._open) >= self._capacity:
                raise QueueFullError(
                    f"the engine has {len(self._open)} requests, as many as it may hold: submit "
                    "this one later, or raise max_queue."
                )
            self._open[request] = progress
            self.inbox.put(partial(_Worker._add, request=request))

    def cancel(self, request: Request) -> None:
        self.inbox.put(partial(_Worker._cancel, request=request))

    def decode(
        self, codes: NDArray[np.int64], context: tuple[int, int] = (0, 0)
    ) -> Future[NDArray[np.float32]]:
        decode = partial(self._dia.decode_codes, codes, context)
        try:
            return self._decoding.submit(decode, on_window=self._refuse_if_aborted)
        except RuntimeError:  # the engine was closed, or the main thread has ended
            return _in_a_thread(decode)

    def _refuse_if_aborted(self) -> None:
        if self._aborted:
            raise self._refusal()

    def stats(self) -> EngineStats:
        with self._lock:
            return self._final or self._current()

    def close(self, *, drain: bool, timeout: float | None) -> None:
        with self._lock:
            self._closed = True
        self.inbox.put(_Worker._drain)
        try:
            if drain:
                self.join(timeout)
        finally:  # Ctrl-C too
            self.inbox.put(_Worker.abort)
            self.join()
            self._decoding.shutdown()

    @property
    def failure(self) -> EngineDiedError | None:
        if self._cause is None and (self._closed or self.is_alive()):
            return None
        reason = repr(self._cause) if self._cause else "a forked process has none of its threads"
        error = EngineDiedError(f"the engine has died ({reason}): open another one.")
        error.__cause__ = self._cause
        return error

    # For its own

    def run(self) -> None:
        try:
            while not self._aborted and not (self._draining and self._scheduler.idle):
                self._receive()
                if not self._aborted:
                    self._tick()
        except BaseException as error:  # noqa: BLE001 - whoever waits is to hear of it
            self._cause = error
        with self._lock:
            self._closed = True
            left, self._open = self._open, {}
            self._final = self._current()
            del self._scheduler  # and the decoder's memory: handles may be kept
        for progress in left.values():
            progress.finish(self._refusal())
        self._decoding.shutdown(wait=False)

    def abort(self) -> None:
        self._aborted = True

    def _drain(self) -> None:
        self._draining = True

    def _receive(self) -> None:
        """Make the calls in the inbox, and wait for one if there is nothing else to do."""
        try:
            self.inbox.get(block=self._scheduler.idle)(self)
            while True:
                self.inbox.get_nowait()(self)
        except Empty:
            pass

    def _tick(self) -> None:
        for request in self._scheduler.tick():
            if request.done:
                self._finish(request)
            else:
                self._open[request].notify()

    def _add(self, request: Request) -> None:
        self._scheduler.add(request)

    def _cancel(self, request: Request) -> None:
        if not request.done:
            self._scheduler.cancel(request)
            self._finish(request)

    def _finish(self, request: Request) -> None:
        with self._lock:
            progress = self._open.pop(request)
        progress.finish(request.error)

    def _current(self) -> EngineStats:
        running = self._scheduler.num_active if self._open else 0
        return EngineStats(
            queued=max(len(self._open) - running, 0),  # the two change one after the other
            running=running,
            steps=self._scheduler.steps,
            frames=self._scheduler.frames,
        )

    def _refusal(self) -> DiaError:
        """Why it takes no requests, and has given up those it had."""
        return self.failure or EngineClosedError("the engine was closed.")


def _in_a_thread(call: Callable[[], T]) -> Future[T]:
    """What a call returns or raises in a thread of its own; no executor starts one at exit."""
    future: Future[T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - whoever waits is to hear of it
                future.set_exception(error)

    threading.Thread(target=run, name="dia-ort-codec", daemon=True).start()
    return future


@atexit.register
def _abort_all() -> None:
    """End the threads of open engines before onnxruntime is unloaded under them."""
    for thread in threading.enumerate():
        if isinstance(thread, _Worker):
            thread.close(drain=False, timeout=None)
