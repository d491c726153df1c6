"""Speech to the bytes of an audio format while it is made, in the formats of OpenAI's API.

PyAV (FFmpeg) encodes. Nothing in a stream is ever gone back to, so it can go over a wire, and the
same samples give the same bytes.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Protocol

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from dia_ort.errors import InvalidAudioError, InvalidConfigError
from dia_ort.wav import WavWriter

RATES = (8_000, 16_000, 24_000, 44_100, 48_000)
"""The sample rates that are offered."""
_BITS_PER_SAMPLE = 4  # at the most: what LAME and AAC know at 8 kHz, with their full rate at 44.1

_Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Codec:
    """FFmpeg's encoder and muxer, and what makes them give their bytes at once.

    Attributes:
        encoder: Its name.
        muxer: Its name.
        sample_format: That the encoder takes.
        bit_rate: Of high sample rates; None for a lossless encoder.
        options: Of the encoder.
        muxer_options: Of the muxer.
    """

    encoder: str
    muxer: str
    sample_format: str
    bit_rate: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    muxer_options: Mapping[str, str] = field(default_factory=dict)


_MP3 = _Codec(
    "libmp3lame",
    "mp3",
    "fltp",
    bit_rate=128_000,
    options={"reservoir": "0"},  # else a frame waits for bits of later ones
    muxer_options={"write_xing": "0", "id3v2_version": "0"},  # both tell what is not known yet
)
_OPUS = _Codec(
    "libopus",
    "ogg",
    "flt",
    bit_rate=64_000,
    options={"frame_duration": "20"},
    muxer_options={"page_duration": "20000"},  # microseconds: a frame. One page is kept back
)
_AAC = _Codec("aac", "adts", "fltp", bit_rate=96_000)
_FLAC = _Codec(
    "flac",
    "flac",
    "s16",
    options={"frame_size": "1024"},
    muxer_options={"metadata_header_padding": "0"},
)


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """A format that speech can be streamed in.

    Attributes:
        media_type: As HTTP's ``Content-Type`` names it.
        default_rate: The sample rate if none is asked for; None: that of the speech.
        rates: The sample rates that it can have.
    """

    media_type: str
    default_rate: int | None = None
    rates: tuple[int, ...] = RATES


AUDIO_FORMATS: Mapping[str, AudioFormat] = MappingProxyType(
    {
        "mp3": AudioFormat("audio/mpeg"),
        "opus": AudioFormat("audio/ogg; codecs=opus", 48_000, (8_000, 16_000, 24_000, 48_000)),
        "aac": AudioFormat("audio/aac"),
        "flac": AudioFormat("audio/flac"),
        "wav": AudioFormat("audio/wav"),
        "pcm": AudioFormat("audio/pcm", 24_000),
    }
)
"""The formats by the names that OpenAI's API has for them.

- ``mp3``: MPEG layer III, 128 kbit/s (less under 44.1 kHz), without tags.
- ``opus``: Ogg Opus, 64 kbit/s (less at 8 kHz).
- ``aac``: AAC-LC in ADTS, 96 kbit/s (less under 24 kHz).
- ``flac``: 16 bits, of unknown length (0 in its header, which libsndfile does not read).
- ``wav``: 16 bits, of unknown length (0xFFFFFFFF in its header).
- ``pcm``: The samples of ``wav`` alone, little-endian.
"""
_CODECS = {"mp3": _MP3, "opus": _OPUS, "aac": _AAC, "flac": _FLAC}


def choose_rate(format: str, sample_rate: int, output_rate: int | None = None) -> int:  # noqa: A002
    """The sample rate that a stream will have.

    Args:
        format: A name in :data:`AUDIO_FORMATS`.
        sample_rate: Of the speech.
        output_rate: That is asked for; None: the format's own, or else that of the speech.

    Raises:
        InvalidConfigError: There is no such format, or it cannot have that rate.
    """
    if format not in AUDIO_FORMATS:
        raise InvalidConfigError(
            f"'{format}' is no audio format of this server: give one of {', '.join(AUDIO_FORMATS)}"
        )
    known = AUDIO_FORMATS[format]
    rate = (known.default_rate or sample_rate) if output_rate is None else output_rate
    if rate not in known.rates:
        rates = ", ".join(map(str, known.rates))
        raise InvalidConfigError(
            f"{format} cannot have a sample rate of {rate} Hz here: give one of {rates}"
        )
    return rate


def open_encoder(format: str, sample_rate: int, output_rate: int | None = None) -> "StreamEncoder":  # noqa: A002
    """Begin a stream; parameters and errors as in :class:`StreamEncoder`."""
    return StreamEncoder(format, sample_rate, output_rate)


class StreamEncoder:
    """Encodes one stream of mono speech, and gives its bytes as they are made.

    Those lag behind the samples by less than 0.1 s at 44.1 kHz and over. It is less than 0.2 s at
    24 kHz, 0.25 s at 16 kHz and 0.5 s at 8 kHz, where frames of as many samples last longer.

    The bytes do not depend on how the samples are cut into pushes. Samples are clipped to -1 and 1.
    WAV, PCM and FLAC hold what :func:`dia_ort.audio.write_audio` writes to WAV. Another sample rate
    is soxr's (quality HQ), with the duration kept to the nearest sample.

    A stream of no samples is a valid file: empty, or in formats that need something, a moment of
    silence. Any one thread at a time may use a stream.

    Args:
        format: A name in :data:`AUDIO_FORMATS`.
        sample_rate: Of the samples, in hertz.
        output_rate: Of the stream, one of :data:`RATES`; None: see :func:`choose_rate`.

    Attributes:
        sample_rate: Of the stream.
        media_type: As HTTP's ``Content-Type`` names it.

    Raises:
        InvalidConfigError: There is no such format, or it cannot have that rate.
    """

    def __init__(self, format: str, sample_rate: int, output_rate: int | None = None) -> None:  # noqa: A002
        self.sample_rate: int = choose_rate(format, sample_rate, output_rate)
        self.media_type: str = AUDIO_FORMATS[format].media_type
        self._resampler = None
        if self.sample_rate != sample_rate:
            self._resampler = soxr.ResampleStream(
                sample_rate, self.sample_rate, 1, dtype="float32", quality="HQ"
            )
        self._coder: _Coder | None
        if format in _CODECS:
            self._coder = _FrameCoder(_CODECS[format], self.sample_rate)
        else:
            self._coder = _SampleCoder(self.sample_rate, header=format == "wav")

    def push(self, samples: _Samples) -> bytes:
        """Take the next samples, (samples,), and return the bytes that are ready.

        Raises:
            InvalidAudioError: The samples are not mono, or not all finite; or the stream has ended.
        """
        coder = self._get_coder()
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise InvalidAudioError(
                f"samples of shape {samples.shape} cannot be encoded: give (samples,), all finite"
            )
        return coder.encode(self._resample(samples).clip(-1, 1))

    def finish(self) -> bytes:
        """Return the bytes that are left, and end the stream.

        Raises:
            InvalidAudioError: The stream has ended already.
        """
        coder = self._get_coder()
        rest = self._resample(np.empty(0, np.float32), last=True).clip(-1, 1)
        ready = coder.encode(rest) + coder.finish()
        self.close()
        return ready

    def close(self) -> None:
        """Give the stream up, if it has not ended."""
        if self._coder:
            self._coder.close()
        self._coder = None

    def _get_coder(self) -> "_Coder":
        if not self._coder:
            raise InvalidAudioError("this stream has ended: open another encoder")
        return self._coder

    def _resample(self, samples: _Samples, *, last: bool = False) -> _Samples:
        samples = np.ascontiguousarray(samples, np.float32)
        if not self._resampler:
            return samples
        resampled: _Samples = self._resampler.resample_chunk(samples, last=last)
        return resampled


class _Coder(Protocol):
    """Makes bytes of samples, float32 of shape (samples,) from -1 to 1."""

    def encode(self, samples: _Samples) -> bytes: ...
    def finish(self) -> bytes: ...
    def close(self) -> None: ...


class _Outbox(io.BytesIO):
    """What is written to it can be taken, once. It does not seek for others."""

    def seekable(self) -> bool:
        return False

    def take(self) -> bytes:
        taken = self.getvalue()
        self.seek(0)
        self.truncate()
        return taken


class _SampleCoder:
    """16 bits for each sample, rounded as in :class:`dia_ort.wav.WavWriter`."""

    def __init__(self, sample_rate: int, *, header: bool) -> None:
        self._outbox = _Outbox()
        self._wav = WavWriter(self._outbox, sample_rate, update=False)
        if not header:
            self._outbox.take()

    def encode(self, samples: _Samples) -> bytes:
        self._wav.write(samples)
        return self._outbox.take()

    def finish(self) -> bytes:
        return self._outbox.take()

    def close(self) -> None:
        pass


class _FrameCoder:
    """One of FFmpeg's encoders, which take frames of some hundred samples."""

    def __init__(self, codec: _Codec, rate: int) -> None:
        self._codec = codec
        self._rate = rate
        self._taken = 0  # samples
        self._rounder = _SampleCoder(rate, header=False)
        self._outbox = _Outbox()
        # "bitexact" leaves out what differs between runs (Ogg's serial number) and versions.
        self._container = av.open(
            self._outbox,
            "w",
            format=codec.muxer,
            options={"fflags": "+bitexact", "flush_packets": "1", **codec.muxer_options},
        )
        bits: dict[str, Any] = {}
        if codec.bit_rate:
            bits["bit_rate"] = min(codec.bit_rate, _BITS_PER_SAMPLE * rate)
        self._stream: Any = self._container.add_stream(
            codec.encoder,
            rate,
            {"flags": "+bitexact", **codec.options},
            layout="mono",
            format=codec.sample_format,
            **bits,
        )
        self._stream.codec_context.thread_count = 1  # speech is no work for more
        self._container.start_encoding()

    def encode(self, samples: _Samples) -> bytes:
        if len(samples):
            self._container.mux(self._stream.encode(self._make_frame(samples)))
            self._taken += len(samples)
        return self._outbox.take()

    def finish(self) -> bytes:
        if not self._taken and self._codec.bit_rate:  # no frame at all is no file
            self._container.mux(self._stream.encode(self._make_frame(np.zeros(1, np.float32))))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._outbox.take()

    def close(self) -> None:
        self._container.close()

    def __del__(self) -> None:
        self.close()  # PyAV under 17.0.1 breaks if the garbage collector finds an open container

    def _make_frame(self, samples: _Samples) -> av.AudioFrame:
        values: NDArray[Any] = samples
        if self._codec.sample_format == "s16":
            values = np.frombuffer(self._rounder.encode(samples), np.int16)
        frame = av.AudioFrame.from_ndarray(values[None], self._codec.sample_format, "mono")
        frame.sample_rate, frame.pts = self._rate, self._taken
        frame.time_base = Fraction(1, self._rate)
        return frame
