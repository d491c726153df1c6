"""What all routes share: the engine, its state, and how many may ask at once."""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from starlette.requests import HTTPConnection

from dia_ort.config import GenerationConfig
from dia_ort.engine import Engine
from dia_ort.errors import InvalidConfigError
from dia_ort.live import LiveNarrator
from dia_ort.plan import Plan
from dia_ort.serve.encoding import StreamEncoder, open_encoder
from dia_ort.serve.errors import ApiError
from dia_ort.serve.metrics import Metrics
from dia_ort.serve.schemas import DEFAULT_VOICE, SpeechSettings, State
from dia_ort.serve.settings import ServerSettings
from dia_ort.voice import Voice
from dia_ort.voices import find_voice, list_built_in_voices, list_voice_files, voice_file

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("dia_ort.serve")

CHUNKS_AT_ONCE = 2
"""Of one request: the one that is heard and the next, so that nobody takes all slots."""

_SEED_BITS = 32  # a seed that a person can copy, and that JavaScript holds exactly
_USUAL_SECONDS = 10.0  # of a request, before there was one
_MEMORY = 0.9  # of the estimate that stays when a new request is counted in


class Place:
    """A request's place among those that are open.

    Attributes:
        asked: When it came, as :func:`time.monotonic` has it.
    """

    def __init__(self, waiting: dict["Place", None]) -> None:
        self.asked = time.monotonic()
        self._waiting = waiting
        waiting[self] = None

    @property
    def ahead(self) -> int:
        """How many wait that came before; 0 when it does not wait."""
        return list(self._waiting).index(self) if self in self._waiting else 0

    def begin(self) -> None:
        """Wait no longer."""
        self._waiting.pop(self, None)


class Admission:
    """Counts open requests, and refuses those that are too many.

    Args:
        slots: How many run at once.
        queue: How many wait besides.
        metrics: Counts refusals.

    Attributes:
        num_open: How many are open.
        idle: Set while none is.
    """

    def __init__(self, slots: int, queue: int, metrics: Metrics) -> None:
        self.num_open = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._slots = slots
        self._most = slots + queue
        self._metrics = metrics
        self._waiting: dict[Place, None] = {}
        self._usual_seconds = _USUAL_SECONDS

    @contextmanager
    def enter(self) -> Iterator[Place]:
        """Take a place.

        Raises:
            ApiError: There is none; it says when there may be.
        """
        if self.num_open >= self._most:
            self._metrics.rejections.labels("queue_full").inc()
            raise ApiError(
                429,
                f"{self.num_open} requests are open, as many as this server takes: try again in "
                f"{self.retry_after} s.",
                "queue_full",
                retry_after=self.retry_after,
            )
        self.num_open += 1
        self._metrics.open.inc()
        self.idle.clear()
        place = Place(self._waiting)
        try:
            yield place
        finally:
            place.begin()
            self.num_open -= 1
            self._metrics.open.dec()
            if not self.num_open:
                self.idle.set()
            spent = time.monotonic() - place.asked
            self._usual_seconds += (1 - _MEMORY) * (spent - self._usual_seconds)

    @property
    def retry_after(self) -> int:
        """Whole seconds until a place may be free: those that requests take, for each slot."""
        return max(1, min(120, math.ceil(self._usual_seconds / self._slots)))


class Service:
    """The engine as the server has it.

    Args:
        engine: With room in its queue for :data:`CHUNKS_AT_ONCE` of each request that the settings
            admit.
        settings: The server's.

    Attributes:
        state: Whether it takes requests.
        reason: Why it is dead.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.state: State = "warming up"
        self.reason: str | None = None
        self.metrics = Metrics(engine)
        self.admission = Admission(settings.max_batch, settings.max_queue, self.metrics)
        self.threads = ThreadPoolExecutor(4, "dia-ort-serve")  # encoders and files
        self._planning = ThreadPoolExecutor(
            1, "dia-ort-serve-plan"
        )  # they hold up each other alone
        self.voice_lock = asyncio.Lock()  # one recording is encoded at a time
        self.num_voices_in_work = 0
        name = engine.dia.artifact.name
        self.model_names = tuple(dict.fromkeys([name, *settings.model_alias]))

    async def warm_up(self) -> None:
        """Speak once, so that the first request is as quick as the next.

        Raises:
            Exception: It cannot speak.
        """
        config = GenerationConfig(
            seed=0, max_tokens=min(64, self.engine.dia.manifest.model.max_steps)
        )
        async for _ in self.engine.submit("[S1] hello.", config).audio():
            pass
        if self.state == "warming up":
            self.state = "ready"

    def check_ready(self) -> None:
        """Refuse requests while none are taken.

        Raises:
            ApiError: It says why.
        """
        if self.state == "ready":
            return
        self.metrics.rejections.labels(self.state).inc()
        raise ApiError(
            503,
            f"the server is {self.state}: try again in a few seconds.",
            "not_ready",
            retry_after=5,
        )

    def check_model(self, model: str | None) -> None:
        """Refuse a model that is not this one.

        Raises:
            ApiError: With the names that there are.
        """
        if model is not None and model not in self.model_names:
            names = ", ".join(self.model_names)
            raise ApiError(
                404,
                f"there is no model {model!r} here; there are: {names}.",
                "model_not_found",
                param="model",
            )

    def check_length(self, characters: int, param: str) -> None:
        """Refuse a text that is too long.

        Args:
            characters: That it has.
            param: What it is called.

        Raises:
            ApiError: With the limit.
        """
        if characters > self.settings.max_input:
            raise ApiError(
                413,
                f"the {param} has {characters} characters, and this server takes "
                f"{self.settings.max_input}: send it in parts; whoever runs the server may raise "
                "--max-input.",
                "input_too_long",
                param=param,
            )

    def load_voice(self, name: str) -> Voice | None:
        """A voice by its id or alias; it reads a file.

        Raises:
            ApiError: There is no such voice; with those that there are.
            VoiceFileError: Its file is damaged.
        """
        name = self.settings.voice_aliases.get(name, name)
        return None if name == DEFAULT_VOICE else Voice.load(self.find_voice(name))

    def find_voice(self, name: str) -> Path:
        """The file of a voice that is kept.

        Raises:
            ApiError: There is no such voice; with those that there are.
        """
        try:
            path = find_voice(voice_file(name).stem)
        except InvalidConfigError:  # it is no name at all
            path = None
        if path is not None and path.is_file():
            return path
        stored = [file.stem for file in [*list_voice_files(), *self.built_in_voices()]]
        names = ", ".join([DEFAULT_VOICE, *self.settings.voice_aliases, *stored])
        raise ApiError(
            404,
            f"there is no voice {name!r} here; there are: {names}.",
            "voice_not_found",
            param="voice",
        )

    def built_in_voices(self) -> list[Path]:
        """The files of the demo's own voices; none if another model is served."""
        return list_built_in_voices() if self.engine.dia.artifact.is_demo else []

    async def narrator(self, asked: SpeechSettings, *, goes_on: bool = False) -> LiveNarrator:
        """What speaks as a request wants it.

        Raises:
            ApiError: The model or the voice is not there.
            DiaError: A setting cannot be had.
        """
        self.check_model(asked.model)
        voice = await self.in_a_thread(self.load_voice, asked.voice_id)
        seed = secrets.randbits(_SEED_BITS) if asked.seed is None else asked.seed
        return LiveNarrator(
            self.engine,
            asked.generation(seed),
            voice,
            speed=asked.speed,
            width=CHUNKS_AT_ONCE,
            goes_on=goes_on,
        )

    async def plan(self, narrator: LiveNarrator, text: str) -> Plan:
        """Cut a script into chunks, after those of others.

        Raises:
            DiaError: As in :meth:`dia_ort.LiveNarrator.plan`.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._planning, narrator.plan, text)

    def encoder(self, asked: SpeechSettings) -> StreamEncoder:
        """What makes the bytes that a request wants.

        Raises:
            InvalidConfigError: The format does not have the rate.
        """
        return open_encoder(asked.response_format, self.engine.dia.sample_rate, asked.sample_rate)

    async def in_a_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that takes a while, beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, partial(call, *args, **kwargs))

    def close(self) -> None:
        """End the threads, when nothing is asked any more."""
        self.threads.shutdown()
        self._planning.shutdown()


async def get_service(connection: HTTPConnection) -> Service:
    """The service of the application that a request or a WebSocket came to."""
    service: Service = connection.app.state.service
    return service
