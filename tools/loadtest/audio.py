"""What can be heard in an answer, and when."""

import base64
import io
import json
import struct
from functools import partial

import av
import numpy as np
from numpy.typing import NDArray

from loadtest.client import Answer

PCM_RATE = 24000
AUDIBLE = 10 ** (-40 / 20)
"""-40 dBFS: what is louder is heard."""

_DELTA = b'data: {"type": "speech.audio.delta"'
_CONTAINERS = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac"}

Sound = tuple[NDArray[np.float32], int]


def decode(audio_format: str, body: bytes) -> Sound:
    """The samples in what has come so far, (samples,), and their rate."""
    return _DECODERS[audio_format](body)


def pcm_of(answer: Answer) -> bytes:
    """The bytes of an answer in pcm, or in pcm in events."""
    return _join_events(answer.body) if answer.planned.audio_format == "sse" else answer.body


def first_audible(answer: Answer) -> float | None:
    """Seconds from the request to the piece that is heard first; None: nothing is."""
    for moment, size in answer.pieces:
        samples, _ = decode(answer.planned.audio_format, answer.body[:size])
        if len(samples) and np.abs(samples).max() > AUDIBLE:
            return moment - answer.started
    return None


def duration(answer: Answer) -> float:
    """Seconds of audio in an answer."""
    samples, rate = decode(answer.planned.audio_format, answer.body)
    return len(samples) / rate


def _decode_pcm(body: bytes) -> Sound:
    return _samples(body), PCM_RATE


def _decode_events(body: bytes) -> Sound:
    return _decode_pcm(_join_events(body))


def _decode_wav(body: bytes) -> Sound:
    """A header of open end, and 16 bits to the sample."""
    start = body.find(b"data") + 8
    if start < 8:
        return _samples(b""), 1
    (rate,) = struct.unpack_from("<I", body, 24)
    return _samples(body[start:]), rate


def _decode_packets(container: str, body: bytes) -> Sound:
    """By FFmpeg; what is cut at its end ends there."""
    parts, rate = [np.zeros(0, np.float32)], 1
    try:
        with av.open(io.BytesIO(body), format=container) as file:
            resampler = av.AudioResampler("flt", "mono")
            for frame in file.decode(audio=0):
                rate = frame.sample_rate
                parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    except (av.FFmpegError, IndexError):  # too little for a header, or no stream in it
        pass
    return np.concatenate(parts), rate


def _join_events(body: bytes) -> bytes:
    lines = [line for line in body.split(b"\n\n")[:-1] if line.startswith(_DELTA)]
    deltas = [json.loads(line.removeprefix(b"data: "))["audio"] for line in lines]
    return b"".join(map(base64.b64decode, deltas))


def _samples(pcm: bytes) -> NDArray[np.float32]:
    whole = pcm[: len(pcm) // 2 * 2]
    return np.frombuffer(whole, "<i2").astype(np.float32) / 2**15


_DECODERS = {
    "pcm": _decode_pcm,
    "sse": _decode_events,
    "wav": _decode_wav,
    **{name: partial(_decode_packets, container) for name, container in _CONTAINERS.items()},
}
