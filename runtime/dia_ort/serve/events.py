"""Speech as server-sent events: OpenAI's, and those that tell how far it is."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

from dia_ort.serve.errors import to_api_error
from dia_ort.serve.job import Job

_PROGRESS_SECONDS = 0.5  # between two events that tell it


async def events(
    job: Job, audio: AsyncGenerator[bytes, None], *, progress: bool
) -> AsyncGenerator[bytes, None]:
    """A job's events to its end. An error is the last one.

    Args:
        job: That has submitted its text.
        audio: Its stream.
        progress: Whether to tell how far it is.
    """
    try:
        async for event in _events(job, audio, progress=progress):
            yield _encode(event)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
        yield _encode({"type": "error", **to_api_error(error).body})


async def _events(
    job: Job, audio: AsyncGenerator[bytes, None], *, progress: bool
) -> AsyncGenerator[dict[str, Any], None]:
    interval = _PROGRESS_SECONDS if progress else None
    if progress:
        yield _progress(job)
    while True:
        upcoming = asyncio.ensure_future(anext(audio, None))
        try:
            while not (await asyncio.wait({upcoming}, timeout=interval))[0]:
                yield _progress(job)
        finally:
            upcoming.cancel()  # nothing happens if it is there
        encoded = upcoming.result()
        if encoded is None:
            break
        yield {"type": "speech.audio.delta", "audio": base64.b64encode(encoded).decode()}
        if progress:
            yield _progress(job)
    yield _done(job)


def _progress(job: Job) -> dict[str, Any]:
    speech = job.speech
    return {
        "type": "speech.progress",
        "state": "speaking" if job.begun else "queued",
        "queue_position": job.ahead,
        "seconds": round(speech.seconds, 3),
        "expected_seconds": round(speech.plan.seconds, 3),
        "elapsed": round(job.elapsed, 3),
        "chunk": speech.chunk,
        "chunks": len(speech.plan.chunks),
        "seed": job.seed,
    }


def _done(job: Job) -> dict[str, Any]:
    speech = job.speech
    tokens = {"input_tokens": speech.num_tokens, "output_tokens": speech.num_frames}
    return {
        "type": "speech.audio.done",
        "usage": {**tokens, "total_tokens": sum(tokens.values())},
        "seconds": round(job.seconds, 3),
        "elapsed": round(job.elapsed, 3),
        "seed": job.seed,
        "finish_reason": speech.finish_reason,
        "faults": speech.faults,
    }


def _encode(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"
