"""``/v1/audio/stream``: text in pieces, audio as it is spoken; for voice agents.

The client sends JSON objects:

- ``{"type": "start", ...}``: once, first, and only if something is not to be as by default: the
  fields of :class:`dia_ort.serve.schemas.SpeechSettings` (``response_format`` is pcm here).
- ``{"type": "text", "text": "..."}``: some more text, cut anywhere. Whole sentences are spoken as
  soon as they are 5 s long.
- ``{"type": "flush"}``: speak what has come, however short it is.
- ``{"type": "end"}``: the same, and all was said: ``done`` follows its audio.
- ``{"type": "cancel"}``: stop speaking, and forget what has come; ``cancelled`` follows at once.

The server sends binary messages with audio, and JSON objects:

- ``{"type": "started", "seed", "sample_rate", "response_format"}``, after ``start`` or the first
  text.
- ``{"type": "speaking", "text"}``, before the audio of a script.
- ``{"type": "done", "seconds"}`` and ``{"type": "cancelled"}``. In the formats that have files,
  what lies between two of them is one.
- ``{"type": "error", "error": {...}}``. What was being said ends with it, and text up to the next
  ``end`` or ``cancel`` is not spoken. A message that cannot be read closes the connection (1008).

An utterance has its place among the server's requests from its first script on, and gives it back
when no text comes for 5 s; what comes then takes one again, or fails if there is none.

Several utterances follow each other in one session, in the same voices: those of ``voice``, or of
the first one.
"""

import asyncio
import json
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect

from dia_ort.errors import DiaError
from dia_ort.live import LiveNarrator
from dia_ort.script import split_pauses
from dia_ort.serve.errors import ApiError, to_api_error
from dia_ort.serve.job import Job
from dia_ort.serve.schemas import Format, SpeechSettings
from dia_ort.serve.segments import Segmenter
from dia_ort.serve.service import Service, get_service

router = APIRouter()

_POLICY_VIOLATION = 1008
_MOST_UTTERANCES = 64  # that wait
_PATIENCE = 5.0  # seconds that an utterance keeps its place while no text comes


class _Start(SpeechSettings):
    type: Literal["start"]
    response_format: Format = "pcm"


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["flush", "end", "cancel"]


_Message = _Start | _Text | _Command

_MESSAGE: TypeAdapter[_Message] = TypeAdapter(Annotated[_Message, Field(discriminator="type")])


@router.websocket("/v1/audio/stream")
async def stream_speech(
    socket: WebSocket, service: Annotated[Service, Depends(get_service)]
) -> None:
    """Speak text while it is written; see :mod:`dia_ort.serve.websocket`."""
    await socket.accept()
    session = _Session(socket, service)
    try:
        while True:
            await session.handle(_MESSAGE.validate_json(await session.receive()))
    except _GoneError:
        pass
    except ValidationError as error:
        await session.close_with(to_api_error(RequestValidationError(error.errors())))
    except (ApiError, DiaError) as error:
        await session.close_with(to_api_error(error))
    finally:
        await session.stop()


class _GoneError(Exception):
    """The client has left, or takes nothing."""


class _Utterance:
    """What is said from the first text to the end."""

    def __init__(self) -> None:
        self.is_ended = False
        self.is_dropped = False  # it failed: what comes is not spoken
        self._segments = Segmenter()
        self._is_flushed = False
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """The characters that wait."""
        return len(self._segments)

    def add(self, text: str) -> None:
        if not self.is_dropped:
            self._segments.push(text)
            self._news.set()

    def flush(self, *, end: bool) -> None:
        self._is_flushed = True
        self.is_ended = self.is_ended or end
        self._news.set()

    def drop(self) -> None:
        self.is_dropped = True
        self._segments.clear()

    async def next_script(self) -> str | None:
        """What can be spoken next, as soon as there is something; None: all was."""
        while True:
            self._news.clear()
            if (script := self._segments.take()) is not None:
                return script
            if self._is_flushed:
                self._is_flushed = False
                if (script := self._segments.take_all()) is not None:
                    return script
            if self.is_ended:
                return None
            await self._news.wait()


class _Session:
    """A connection: a task of its own speaks one utterance after the other."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket = socket
        self._service = service
        self._settings = _Start(type="start")
        self._narrator: LiveNarrator | None = None
        self._utterances: list[_Utterance] = []  # that are not all spoken
        self._speaking: asyncio.Task[None] | None = None
        self._gone = asyncio.get_running_loop().create_future()  # done when the client is

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            _GoneError: There will be none.
        """
        message = asyncio.ensure_future(self._socket.receive())
        try:
            await asyncio.wait({message, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if not message.done() or message.result()["type"] == "websocket.disconnect":
                raise _GoneError
        finally:
            message.cancel()
        text: str | None = message.result().get("text")
        return message.result()["bytes"] if text is None else text

    async def handle(self, message: _Message) -> None:
        """Do as the client says.

        Raises:
            ApiError: It cannot be done, and the connection is to end.
        """
        if isinstance(message, _Start):
            if self._narrator is not None:
                raise ApiError(422, "`start` comes first, and once.", "invalid_message")
            self._settings = message
            await self._open()
        elif isinstance(message, _Text):
            await self._open()
            self._latest().add(message.text)
            self._service.check_length(sum(map(len, self._utterances)), "text")
        elif message.type == "cancel":
            await self.stop()
            await self._send_json({"type": "cancelled"})
        else:
            await self._open()
            self._latest().flush(end=message.type == "end")

    async def stop(self) -> None:
        """Stop speaking, and forget what was to be spoken."""
        if self._speaking is not None:
            self._speaking.cancel()
            await asyncio.gather(self._speaking, return_exceptions=True)
        self._speaking = None
        self._utterances.clear()

    async def close_with(self, error: ApiError) -> None:
        """Tell the client why the connection ends."""
        with suppress(_GoneError):
            await self._send_json({"type": "error", **error.body})
            await self._socket.close(_POLICY_VIOLATION)

    async def _open(self) -> None:
        """Begin the session, unless it has begun."""
        if self._narrator is not None:
            return
        encoder = self._service.encoder(self._settings)
        self._narrator = await self._service.narrator(self._settings, goes_on=True)
        await self._send_json(
            {
                "type": "started",
                "seed": self._narrator.seed,
                "sample_rate": encoder.sample_rate,
                "response_format": self._settings.response_format,
            }
        )

    def _latest(self) -> _Utterance:
        """The utterance that text belongs to."""
        if not self._utterances or self._utterances[-1].is_ended:
            if len(self._utterances) >= _MOST_UTTERANCES:
                raise ApiError(429, "too much waits to be spoken: wait for `done`.", "too_much")
            self._utterances.append(_Utterance())
        if self._speaking is None:
            self._speaking = asyncio.create_task(self._speak_all())
        return self._utterances[-1]

    async def _speak_all(self) -> None:
        """Speak all utterances in turn; one that fails is dropped up to its end."""
        try:
            while self._utterances:
                utterance = self._utterances[0]
                try:
                    await self._speak(utterance)
                except _GoneError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
                    utterance.drop()
                    await self._send_json({"type": "error", **to_api_error(error).body})
                    while await utterance.next_script() is not None:
                        pass
                self._utterances.remove(utterance)
            self._speaking = None
        except _GoneError:
            self._gone.set_result(None)

    async def _speak(self, utterance: _Utterance) -> None:
        """Speak an utterance to its end, which says so."""
        job: Job | None = None
        try:
            while (script := await self._next_script(utterance, job)) is not None:
                job = job or self._begin()
                await self._say(job, script)
            if job and (encoded := await job.finish()):
                await self._send(encoded)
            await self._send_json({"type": "done", "seconds": job.seconds if job else 0})
        finally:
            if job:
                job.close()

    async def _next_script(self, utterance: _Utterance, job: Job | None) -> str | None:
        """As the utterance has it; a job that waits long for it gives its place to others."""
        if job:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    return await utterance.next_script()
            job.rest()
        return await utterance.next_script()

    async def _say(self, job: Job, script: str) -> None:
        """Speak a script; pauses at its beginning follow what was said before."""
        try:
            pause, words = split_pauses(script)
        except DiaError:
            job.refuse(script)
            raise
        async for encoded in job.silence(pause):
            await self._send(encoded)
        if not words:
            return
        await job.submit(words)
        await job.begin()
        await self._send_json({"type": "speaking", "text": words})
        async for encoded in job.audio():
            await self._send(encoded)

    def _begin(self) -> Job:
        if self._narrator is None:
            raise RuntimeError("the session has not begun")
        return Job(self._service, self._narrator, self._service.encoder(self._settings))

    async def _send_json(self, message: dict[str, Any]) -> None:
        await self._send(json.dumps(message))

    async def _send(self, message: str | bytes) -> None:
        """Send a message.

        Raises:
            _GoneError: Nobody takes it.
        """
        try:
            async with asyncio.timeout(self._service.settings.send_timeout):
                if isinstance(message, str):
                    await self._socket.send_text(message)
                else:
                    await self._socket.send_bytes(message)
        except (TimeoutError, WebSocketDisconnect) as error:
            raise _GoneError from error
