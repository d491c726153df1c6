"""The clients: each sends its request when it arrives, and notes what comes back."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import httpx

from loadtest.workload import NONSENSE, Load, Nonsense, Planned, speech_body

Fate = Literal["finished", "left", "rejected", "refused", "failed"]

SPEECH = "/v1/audio/speech"
_TIMEOUT = httpx.Timeout(300, connect=30)
_DONE = b'"type": "speech.audio.done"'


@dataclass(slots=True)
class Answer:
    """What a client saw. All times are :func:`time.perf_counter`'s.

    Attributes:
        planned: What it asked for.
        fate: ``finished``: all of it came. ``left``: the client did. ``rejected``: 429 or 503.
            ``refused``: nonsense, and taken for such. ``failed``: anything else.
        status: Of HTTP.
        held: Seconds that it waited outside, with too many open.
        started: When it was sent.
        ended: When nothing more came.
        pieces: When each piece came, and how many bytes there were then.
        body: All bytes.
        error: What failed.
    """

    planned: Planned
    fate: Fate = "failed"
    status: int | None = None
    held: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    pieces: list[tuple[float, int]] = field(default_factory=list)
    body: bytes = b""
    error: str | None = None


def open_client(url: str, api_key: str | None, connections: int) -> httpx.AsyncClient:
    """A client that opens as many connections as it is let, and asks no proxy."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=_TIMEOUT,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=False,
    )


async def run_load(
    client: httpx.AsyncClient, load: Load, workload: Sequence[Planned]
) -> list[Answer]:
    """Send everything in its time; returns when all has ended."""
    room = asyncio.Semaphore(load.concurrency)
    start = time.perf_counter()
    return await asyncio.gather(*(_arrive(client, planned, start, room) for planned in workload))


async def ask(client: httpx.AsyncClient, planned: Planned) -> Answer:
    """Send one request, and read its answer."""
    answer = Answer(planned, started=time.perf_counter())
    try:
        if planned.nonsense:
            await _send_nonsense(client, NONSENSE[planned.nonsense], answer)
        else:
            await _listen(client, answer)
    except httpx.HTTPError as error:
        answer.fate, answer.error = "failed", repr(error)
    answer.ended = time.perf_counter()
    return answer


async def _arrive(
    client: httpx.AsyncClient, planned: Planned, start: float, room: asyncio.Semaphore
) -> Answer:
    await asyncio.sleep(start + planned.at - time.perf_counter())
    arrived = time.perf_counter()
    async with room:
        answer = await ask(client, planned)
    answer.held = answer.started - arrived
    return answer


async def _listen(client: httpx.AsyncClient, answer: Answer) -> None:
    planned = answer.planned
    body = speech_body(planned.text, planned.audio_format, planned.seed)
    received = bytearray()
    async with client.stream("POST", SPEECH, json=body) as response:
        answer.status = response.status_code
        async for piece in response.aiter_raw():
            received += piece
            answer.pieces.append((time.perf_counter(), len(received)))
            if len(answer.pieces) == planned.leave_after and response.status_code == 200:
                answer.fate = "left"
                break
    answer.body = bytes(received)
    if answer.fate != "left":
        _judge(answer, response)


def _judge(answer: Answer, response: httpx.Response) -> None:
    """The fate of an answer that came to its end."""
    if answer.status == 200:
        if answer.planned.audio_format == "sse" and _DONE not in answer.body:
            answer.error = f"the events end with {answer.body[-200:]!r}"
        else:
            answer.fate = "finished"
    elif answer.status in {429, 503} and response.headers.get("Retry-After", "").isdecimal():
        answer.fate = "rejected"
    else:
        answer.error = f"{answer.status}: {answer.body[:200]!r}"


async def _send_nonsense(client: httpx.AsyncClient, nonsense: Nonsense, answer: Answer) -> None:
    response = await client.post(SPEECH, content=nonsense.body, headers=nonsense.headers)
    answer.status, answer.body = response.status_code, response.content
    if _is_refusal(response):
        answer.fate = "refused"
    else:
        answer.error = (
            f"{response.status_code} for {answer.planned.nonsense}: {answer.body[:200]!r}"
        )


def _is_refusal(response: httpx.Response) -> bool:
    """Whether it says that the client is wrong, in the form of OpenAI's errors."""
    if not 400 <= response.status_code < 500 or response.status_code == 429:
        return False
    try:
        return set(response.json()["error"]) == {"message", "type", "param", "code"}
    except (ValueError, KeyError, TypeError):
        return False
