"""dia-ort's side of the comparison; runs without torch, as users do."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.decoding import artifact_decoder, batch_steps, noise_text, time_steps
from benchmark.settings import (
    CACHED_POSITIONS,
    DAC_REPEATS,
    PREFILL_STEPS,
    TEXT_POSITIONS,
    WARM_UP_STEPS,
    Settings,
)
from dia_ort import Dia, GenerationConfig
from dia_ort.artifacts import find_artifact
from dia_ort.generation import Utterance
from dia_ort.placement import open_dac_decoder
from dia_ort.providers import resolve_provider
from dia_ort.scheduler import Request, Scheduler

_ENCODER_REPEATS = 3


def decoder_step(settings: Settings, folder: Path) -> dict[str, Any]:
    """Time the runtime's own loop, sampling included, and the graph within it.

    Returns:
        One figure per step in each of ``step_ms``, ``graph_ms`` and ``outside_ms``, the first
        being the sum of the others; ``prefill_s`` of the positions before; ``load_s``.
    """
    decoder = artifact_decoder(folder)
    model = decoder.model
    started = time.perf_counter()
    session = decoder.open(settings)
    load_s = time.perf_counter() - started
    cross = noise_text(model, TEXT_POSITIONS)
    scheduler = Scheduler(decoder.batch(session, 1), model, lambda _text: cross)
    shape = (CACHED_POSITIONS, model.num_channels)
    voice = np.random.default_rng(0).integers(0, model.eos_token_id, shape)
    utterance = _Endless(model, GenerationConfig(seed=0), voice)
    scheduler.add(Request(np.zeros(TEXT_POSITIONS, np.int64), utterance))
    while scheduler.steps < WARM_UP_STEPS:
        scheduler.tick()
    prefill_s = sum(session.calls[:-WARM_UP_STEPS])
    step_ms = []
    for _ in range(settings.steps):
        started = time.perf_counter()
        scheduler.tick()
        step_ms.append((time.perf_counter() - started) * 1e3)
    graph_ms = [seconds * 1e3 for seconds in session.calls[-settings.steps :]]
    return {
        "step_ms": step_ms,
        "graph_ms": graph_ms,
        "outside_ms": [a - b for a, b in zip(step_ms, graph_ms, strict=True)],
        "prefill_s": prefill_s,
        "load_s": load_s,
    }


def batches(settings: Settings, folder: Path) -> dict[str, Any]:
    """Time steps of several utterances at once: ``step_ms@N`` for each number."""
    return batch_steps(settings, artifact_decoder(folder), settings.batches)


def growth_by_text(settings: Settings, folder: Path) -> dict[str, Any]:
    """``step_ms@N`` and ``encoder_s@N`` for texts of N positions."""
    decoder = artifact_decoder(folder)
    session = decoder.open(settings)
    dia = Dia.load(folder, provider="cpu", threads=settings.threads)
    figures: dict[str, Any] = {}
    for length in settings.texts:
        script = np.full(length, ord("a"))
        timings = []
        for _ in range(1 + _ENCODER_REPEATS):
            started = time.perf_counter()
            dia.encode_tokens(script)
            timings.append(time.perf_counter() - started)
        figures[f"encoder_s@{length}"] = timings[1:]
        figures[f"step_ms@{length}"] = time_steps(settings, decoder, session, text=length)
    return figures


def growth_by_position(settings: Settings, folder: Path) -> dict[str, Any]:
    """``step_ms@N``, and ``prefill_s@N`` of the steps of a voice that lead there, at position N."""
    decoder = artifact_decoder(folder)
    session = decoder.open(settings)
    figures: dict[str, Any] = {}
    for position in settings.positions:
        batch = decoder.batch(session, 1)
        batch.set_text(0, noise_text(decoder.model, TEXT_POSITIONS), TEXT_POSITIONS)
        batch.fill(position)
        shape = (PREFILL_STEPS, decoder.model.num_channels)
        tokens = np.random.default_rng(0).integers(0, decoder.model.eos_token_id, shape)
        started = time.perf_counter()
        batch.prefill(0, tokens, position - PREFILL_STEPS)
        figures[f"prefill_s@{position}"] = time.perf_counter() - started
        figures[f"step_ms@{position}"] = time_steps(settings, decoder, session, position=position)
    return figures


def dac_decode(settings: Settings, folder: Path) -> dict[str, Any]:
    """Time the codec as the runtime has it.

    Returns:
        ``seconds_per_second`` of audio, one figure per repeat.
    """
    artifact = find_artifact(folder)
    codec = artifact.manifest.codec
    decoder = open_dac_decoder(artifact, resolve_provider("cpu"), settings.threads)
    shape = (settings.dac_frames, codec.num_codebooks)
    codes = np.random.default_rng(0).integers(0, codec.codebook_size, shape)
    duration = settings.dac_frames * codec.hop_length / codec.sample_rate
    timings = []
    for _ in range(1 + DAC_REPEATS):
        started = time.perf_counter()
        decoder.decode(codes)
        timings.append((time.perf_counter() - started) / duration)
    return {"seconds_per_second": timings[1:]}


def speak(settings: Settings, folder: Path) -> dict[str, Any]:
    """Time a whole ``dia-ort speak``, from before the interpreter starts to after it has ended.

    The model's files are in the system's cache.

    Returns:
        ``whole_s``; ``speed``: seconds of audio per second of it; and the figures of
        :mod:`benchmark.spoken`, whose moments become ``first_step_s`` and ``steps_s``.
    """
    artifact = find_artifact(folder)
    for name in artifact.manifest.files:
        (folder / name).read_bytes()
    frames = settings.speak_frames
    tokens = frames + artifact.manifest.model.max_delay + 1
    with tempfile.TemporaryDirectory() as scratch:
        options = [
            *("--model", folder, "--provider", "cpu", "--seed", 0, "--max-tokens", tokens),
            *("--output", Path(scratch) / "speech.wav", "--quiet"),
            *(("--threads", settings.threads) if settings.threads else ()),
        ]
        text = "[S1] " + "All that is gold does not glitter. " * 3
        command = [sys.executable, "-m", "benchmark.spoken", "speak", text, *map(str, options)]
        paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        started = time.time()
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=paths)
        whole_s = time.time() - started
    if done.returncode:
        raise RuntimeError(f"dia-ort speak failed: {done.stderr}")
    figures = json.loads(done.stdout.splitlines()[-1])
    first, last = figures.pop("first_step"), figures.pop("last_step")
    codec = artifact.manifest.codec
    return {
        "first_step_s": first - started,
        "steps_s": last - first,
        "whole_s": whole_s,
        "speed": frames * codec.hop_length / codec.sample_rate / whole_s,
        **figures,
    }


class _Endless(Utterance):
    """An utterance that goes on after its end of speech: random weights may come to it early."""

    @property
    def done(self) -> bool:
        return False
