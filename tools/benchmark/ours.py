"""dia-ort's side of the comparison; runs without torch, as users do."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.artifacts import cpu_graph
from benchmark.settings import (
    CACHED_POSITIONS,
    DAC_FRAMES,
    DAC_REPEATS,
    ROWS,
    SPEAK_FRAMES,
    TEXT_POSITIONS,
    WARM_UP_STEPS,
    Settings,
)
from dia_ort import Dia, GenerationConfig
from dia_ort.artifacts import Artifact, find_artifact
from dia_ort.codec import decode_codes
from dia_ort.decoder import DecoderBatch
from dia_ort.generation import Utterance, run_batch
from dia_ort.graphs import DAC_DECODER, DECODER, ENCODER
from dia_ort.providers import open_session, resolve_provider


def decoder_step(settings: Settings, folder: Path) -> dict[str, Any]:
    """Time the decode loop, sampling included, and the graph within it.

    Returns:
        One figure per step in each of ``step_ms``, ``graph_ms`` and ``outside_ms``, the first
        being the sum of the others; ``prefill_s`` of the positions before.
    """
    artifact = find_artifact(folder)
    model = artifact.manifest.model
    random = np.random.default_rng(0)
    text = np.zeros((ROWS, TEXT_POSITIONS), np.int64)
    text[0] = random.integers(1, model.text_vocab_size, TEXT_POSITIONS)
    lengths = np.full(ROWS, TEXT_POSITIONS, np.int32)
    encoder = _open(artifact, ENCODER, settings)
    cross = encoder.run(None, {"tokens": text, "text_lengths": lengths})

    decoder = _TimedSession(_open(artifact, DECODER, settings))
    batch = DecoderBatch(
        decoder,
        model,
        resolve_provider("cpu"),
        "float32",
        slots=1,
        rows_per_slot=ROWS,
        max_text=TEXT_POSITIONS,
    )
    batch.set_text(0, cross, TEXT_POSITIONS)
    voice = random.integers(0, model.eos_token_id, (CACHED_POSITIONS, model.num_channels))
    steps = run_batch(batch, model, [_Endless(model, GenerationConfig(seed=0), voice)])
    for _ in range(WARM_UP_STEPS):
        next(steps)
    step_ms = []
    for _ in range(settings.steps):
        started = time.perf_counter()
        next(steps)
        step_ms.append((time.perf_counter() - started) * 1e3)
    graph_ms = [seconds * 1e3 for seconds in decoder.calls[-settings.steps :]]
    return {
        "step_ms": step_ms,
        "graph_ms": graph_ms,
        "outside_ms": [a - b for a, b in zip(step_ms, graph_ms, strict=True)],
        "prefill_s": decoder.calls[0],
    }


def dac_decode(settings: Settings, folder: Path) -> dict[str, Any]:
    """Time the codec, in the windows that dia-ort decodes in.

    Returns:
        ``seconds_per_second`` of audio, one figure per repeat.
    """
    artifact = find_artifact(folder)
    codec = artifact.manifest.codec
    session = _open(artifact, DAC_DECODER, settings)

    def run(window: NDArray[np.int64]) -> NDArray[np.float32]:
        samples: NDArray[np.float32] = session.run(None, {"codes": window})[0]
        return samples

    shape = (DAC_FRAMES, codec.num_codebooks)
    codes = np.random.default_rng(0).integers(0, codec.codebook_size, shape)
    duration = DAC_FRAMES * codec.hop_length / codec.sample_rate
    timings = []
    for _ in range(1 + DAC_REPEATS):
        started = time.perf_counter()
        decode_codes(run, codes, codec)
        timings.append((time.perf_counter() - started) / duration)
    return {"seconds_per_second": timings[1:]}


def speak(settings: Settings, folder: Path) -> dict[str, Any]:
    """Load a model and speak, as a program would that does nothing else.

    Returns:
        ``load_s``: of the first ``Dia.load``, onnxruntime's import included; ``speak_s`` and
        ``audio_s``, what was spoken.
    """
    started = time.perf_counter()
    dia = Dia.load(folder, provider="cpu", threads=settings.threads)
    loaded = time.perf_counter()
    text = "[S1] " + "All that is gold does not glitter. " * 3
    max_tokens = SPEAK_FRAMES + dia.manifest.model.max_delay + 1
    audio = dia.generate(text, GenerationConfig(max_tokens=max_tokens, seed=0))
    return {
        "load_s": loaded - started,
        "speak_s": time.perf_counter() - loaded,
        "audio_s": len(audio.samples) / audio.sample_rate,
    }


class _Endless(Utterance):
    """An utterance that goes on after its end of speech: random weights may come to it early."""

    @property
    def done(self) -> bool:
        return False


class _TimedSession:
    """A session that notes how long each call of its graph took, in seconds."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.calls: list[float] = []

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        started = time.perf_counter()
        self._session.run_with_iobinding(binding)
        self.calls.append(time.perf_counter() - started)


def _open(artifact: Artifact, graph: str, settings: Settings) -> Any:
    info = cpu_graph(artifact.manifest, graph)
    path, spec = artifact.folder / info.file, artifact.manifest.spec(info)
    return open_session(path, spec, resolve_provider("cpu"), settings.threads)
