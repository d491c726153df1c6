"""``POST /v1/audio/speech``: OpenAI's speech API, and Dia's own settings."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from dia_ort.errors import DiaError
from dia_ort.serve.encoding import AUDIO_FORMATS
from dia_ort.serve.events import events
from dia_ort.serve.job import Job
from dia_ort.serve.schemas import AUDIO_RESPONSE, SpeechRequest, errors
from dia_ort.serve.service import Service, get_service, log

T = TypeVar("T")

router = APIRouter(tags=["speech"])


@router.post(
    "/v1/audio/speech",
    response_class=Response,
    responses={200: AUDIO_RESPONSE, **errors(400, 404, 413, 422, 429, 500, 503)},
)
async def create_speech(
    request: Request, asked: SpeechRequest, service: Annotated[Service, Depends(get_service)]
) -> Response:
    """Speak a script of any length; its audio comes as it is made."""
    service.check_length(len(asked.input), "input")
    encoder = service.encoder(asked)
    job = Job(service, await service.narrator(asked), encoder)
    try:
        await _unless_gone(request, job.submit(asked.input))
        audio = job.stream()
        is_sse = asked.stream_format == "sse"
        if not (is_sse and asked.progress):  # until there is audio, an error has a status
            audio = _with_first(await _unless_gone(request, anext(audio, b"")), audio)
        content = events(job, audio, progress=asked.progress) if is_sse else audio
    except BaseException:
        job.close()
        raise
    media_type = "text/event-stream" if is_sse else AUDIO_FORMATS[asked.response_format].media_type
    headers = {
        "X-Dia-Seed": str(job.seed),
        "X-Dia-Sample-Rate": str(encoder.sample_rate),
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx passes it on at once
    }
    return _JobResponse(job, content, headers, media_type, service.settings.send_timeout)


class _JobResponse(StreamingResponse):
    """A job's answer, which closes the job, however it ends."""

    body_iterator: AsyncGenerator[bytes, None]

    def __init__(
        self,
        job: Job,
        content: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        media_type: str,
        send_timeout: float,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._job = job
        self._send_timeout = send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._send_timeout):
                    await send(message)
            except TimeoutError:
                self._job.outcome = "slow_client"
                raise ClientDisconnect from None

        try:
            await super().__call__(scope, receive, send_in_time)
        except DiaError as error:
            log.warning("broken off", extra={"reason": str(error)})
            raise ClientDisconnect from error  # the client sees that it is not whole
        finally:
            self._job.close()
            await self.body_iterator.aclose()


async def _with_first(
    first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for item in rest:
        yield item


async def _unless_gone(request: Request, result: Awaitable[T]) -> T:
    """Wait for something, but not for longer than the client.

    Raises:
        ClientDisconnect: It is gone.
    """
    work = asyncio.ensure_future(result)
    gone = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
