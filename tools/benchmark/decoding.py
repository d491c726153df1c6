"""Decoder steps, timed without a text encoder: what is attended to does not change their cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.settings import CACHED_POSITIONS, TEXT_POSITIONS, WARM_UP_STEPS, Settings
from dia_ort import GenerationConfig
from dia_ort.decoder import DecoderBatch
from dia_ort.graphs import DECODER, ModelSpec, decoder_graph
from dia_ort.levels import UnsignedLevels
from dia_ort.manifest import Levels, read_manifest
from dia_ort.placement import choose_file
from dia_ort.providers import open_session, resolve_provider
from dia_ort.sampling import SamplingParams, draw


@dataclass(frozen=True, slots=True)
class DecoderFile:
    """A decoder graph for the CPU provider, of an artifact or on its own.

    Attributes:
        path: The ONNX file.
        model: Its shapes.
        cache: Dtype of its key/value cache; None: float32.
        unsigned: As :class:`dia_ort.manifest.GraphInfo` has it.
    """

    path: Path
    model: ModelSpec
    cache: str | None
    unsigned: tuple[Levels, ...] = ()

    def open(self, settings: Settings) -> "TimedSession":
        """Load it as the runtime does."""
        spec = decoder_graph(self.model, "float32", self.cache)
        levels = None
        if self.unsigned:
            levels = UnsignedLevels(self.path.with_name(f"{DECODER}.onnx.data"), self.unsigned)
        provider = resolve_provider("cpu")
        return TimedSession(
            open_session(self.path, spec, provider, settings.threads, levels=levels)
        )

    def batch(self, session: Any, slots: int) -> "NoiseBatch":
        """Room for so many utterances."""
        names = (self.cache or "float32",)
        unconditional = noise_text(self.model, 1)
        return NoiseBatch(
            *(session, self.model, resolve_provider("cpu"), "float32", *names),
            slots=slots,
            unconditional=unconditional,
        )


def artifact_decoder(folder: Path) -> DecoderFile:
    """The decoder of an artifact."""
    manifest = read_manifest(folder)
    info = choose_file(manifest, DECODER, resolve_provider("cpu"))
    return DecoderFile(folder / info.file, manifest.model, manifest.cache, info.unsigned)


class TimedSession:
    """A session that notes how long each call of its graph took, in seconds."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.calls: list[float] = []

    def io_binding(self) -> Any:
        """As onnxruntime has it."""
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, *options: Any) -> None:
        """As onnxruntime has it."""
        started = time.perf_counter()
        self._session.run_with_iobinding(binding, *options)
        self.calls.append(time.perf_counter() - started)


class NoiseBatch(DecoderBatch):
    """A batch whose caches can be filled at once, instead of step by step."""

    def fill(self, positions: int) -> None:
        """Put noise into so many positions of every row."""
        for buffer in self._cache:
            _, heads, _, width = buffer.host.shape
            noise = np.random.default_rng(0).normal(size=(heads, positions, width))
            scale = 40 if buffer.host.dtype == np.int8 else 1
            buffer.host[:, :, :positions] = (scale * noise).clip(-127, 127)


def noise_text(model: ModelSpec, length: int) -> list[NDArray[np.float32]]:
    """What a text encoder could give for a text, every layer's the same."""
    shape = (1, model.cross_num_heads, length, model.cross_head_dim)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    return [noise] * (2 * model.num_layers)


def time_steps(
    settings: Settings,
    decoder: DecoderFile,
    session: Any,
    *,
    utterances: int = 1,
    text: int = TEXT_POSITIONS,
    position: int = CACHED_POSITIONS,
) -> list[float]:
    """Milliseconds of each step of so many utterances, sampling included."""
    model = decoder.model
    batch = decoder.batch(session, utterances)
    cross = noise_text(model, text)
    for slot in range(utterances):
        batch.set_text(slot, cross, text)
    batch.fill(position)
    random = np.random.default_rng(0)
    tokens = random.integers(0, model.eos_token_id, (utterances, model.num_channels))
    params = SamplingParams.stack([GenerationConfig()] * utterances)
    step_ms = []
    for offset in range(WARM_UP_STEPS + settings.steps):
        started = time.perf_counter()
        candidates = batch.choose(tokens, np.full(utterances, position + offset), params)
        tokens = draw(
            candidates,
            random.random(tokens.shape),
            params,
            release=model.release,
            eos_token_id=model.eos_token_id,
        )
        step_ms.append((time.perf_counter() - started) * 1e3)
    return step_ms[WARM_UP_STEPS:]


def batch_steps(
    settings: Settings, decoder: DecoderFile, counts: Sequence[int]
) -> dict[str, list[float]]:
    """Time steps of several numbers of utterances: ``step_ms@N`` for each."""
    session = decoder.open(settings)
    return {
        f"step_ms@{count}": time_steps(settings, decoder, session, utterances=count)
        for count in counts
    }
