"""dia-ort's side. Each function runs in a process of its own and returns a part of the report."""

import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.decoding import TimedSession
from benchmark.settings import CACHED_POSITIONS, FRAMES_PER_SECOND, TEXT_POSITIONS, WARM_UP_STEPS
from dia_ort import Dia, GenerationConfig
from dia_ort.graphs import DECODER, GRAPH_NAMES
from dia_ort.levels import levels_of
from dia_ort.manifest import read_manifest
from dia_ort.placement import choose_file, place
from dia_ort.providers import node_placement, open_session, resolve_provider
from dia_ort.sampling import SamplingParams, draw

_LONGEST = 30
_SCRIPT = "[S1] " + "All that is gold does not glitter. " * 3


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured.

    Attributes:
        provider: An execution provider.
        steps: To time.
        options: Of the provider, over dia-ort's own.
        environment: Variables for onnxruntime, which reads them when it opens a graph.
    """

    provider: str
    steps: int
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def load(self, folder: Path) -> Dia:
        """An artifact on the provider, in a process that is for nothing else."""
        os.environ.update(self.environment)
        options = dict(self.options) or None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of half precision on the CPU
            return Dia.load(folder, provider=self.provider, provider_options=options)


class Speaking:
    """So many utterances at once, in the middle of their speech, at 500 positions.

    Args:
        dia: The model.
        count: How many.
    """

    def __init__(self, dia: Dia, count: int) -> None:
        self._model = dia.manifest.model
        self._batch = dia.open_decoder(count)
        text = np.full(TEXT_POSITIONS, ord("a"))
        for slot in range(count):
            self._batch.set_text(slot, dia.encode_tokens(text), len(text))
        self._random = np.random.default_rng(0)
        self._params = SamplingParams.stack([GenerationConfig()] * count)
        shape = count, self._model.num_channels
        self._tokens = self._random.integers(0, self._model.eos_token_id, shape)
        self._positions = np.full(count, CACHED_POSITIONS)

    def step(self) -> tuple[float, float]:
        """Milliseconds of a step to its candidates, and of the draw from them."""
        started = time.perf_counter()
        candidates = self._batch.choose(self._tokens, self._positions, self._params)
        between = time.perf_counter()
        self._tokens = draw(
            *(candidates, self._random.random(self._tokens.shape), self._params),
            release=self._model.release,
            eos_token_id=self._model.eos_token_id,
        )
        self._positions += 1
        return (between - started) * 1e3, (time.perf_counter() - between) * 1e3


def facts(_setup: Setup) -> dict[str, Any]:
    """What ``dia-ort doctor`` finds."""
    from dia_ort.doctor import diagnose

    return asdict(diagnose())


def nodes(setup: Setup, folder: Path) -> dict[str, Any]:
    """How many nodes of which operator sit where, graph by graph; nothing for the CPU's own."""
    manifest, provider = read_manifest(folder), resolve_provider(setup.provider)
    found = {}
    for graph in GRAPH_NAMES:
        info = choose_file(manifest, graph, provider)
        where = place(manifest, info, provider)
        if where.name == "cpu":
            continue
        session = open_session(folder / info.file, manifest.spec(info), where, None)
        found[info.file] = {name: dict(ops) for name, ops in node_placement(session).items()}
    return found


def gate(setup: Setup, folder: Path, model: str) -> dict[str, Any]:
    """The exporter's gate, on the provider: error, KL and overlap against PyTorch in float32.

    Not of all graphs: NumPy has no bfloat16 to feed, and onnxruntime's CUDA kernels keep an 8-bit
    cache in place alone, where the gate hands on copies. The runtime's gate has those.
    """
    from dia_export.exporter import open_sources
    from dia_export.verify import TOLERANCES, Reference, check_graph

    provider = resolve_provider(setup.provider)
    manifest = read_manifest(folder)
    reference = Reference(*open_sources(model, None, None, 0))
    figures: dict[str, Any] = {}
    for graph in GRAPH_NAMES:
        info = choose_file(manifest, graph, provider)
        if info.compute == "bfloat16":
            figures[info.file] = "not run: NumPy has no bfloat16 to feed it"
        elif provider.name == "cuda" and graph == DECODER and manifest.cache_of(info):
            figures[info.file] = "not run: its 8-bit cache works in place alone"
        else:
            path, spec, where = (
                folder / info.file,
                manifest.spec(info),
                place(manifest, info, provider),
            )
            cases, limits = reference.cases(graph), TOLERANCES[manifest.dtype]
            levels = levels_of(folder, info)
            figures[info.file] = check_graph(path, spec, cases, limits, where, levels)
    return figures


def steps(setup: Setup, folder: Path, counts: tuple[int, ...]) -> dict[str, Any]:
    """Time steps of so many utterances at once, sampling included, at 500 positions.

    Returns:
        By number: ``step_ms`` (one call of the decoder), ``choice_ms`` (what of it is not in
        onnxruntime's run of the decoder's graph: tokens to the device, guidance, the choice of
        candidates and these to the host), ``draw_ms``, all medians; ``realtime`` of each utterance;
        ``vram_gb`` that the buffers took.
    """
    dia = setup.load(folder)
    session = TimedSession(dia._decoder)  # noqa: SLF001 - to time the graph within a step
    dia._decoder = session  # noqa: SLF001
    loaded = gpu_memory()
    figures: dict[str, Any] = {"loaded_vram_gb": loaded}
    for count in counts:
        speaking = Speaking(dia, count)
        timings = [speaking.step() for _ in range(WARM_UP_STEPS + setup.steps)]
        step, drawing = np.median(timings[WARM_UP_STEPS:], axis=0).tolist()
        run = float(np.median(session.calls[-setup.steps :])) * 1e3
        taken = gpu_memory()
        figures[str(count)] = {
            "step_ms": step,
            "choice_ms": step - run,
            "draw_ms": drawing,
            "realtime": 1e3 / (step + drawing) / FRAMES_PER_SECOND,
            "vram_gb": None if taken is None or loaded is None else taken - loaded,
        }
        del speaking
    return figures


def kernels(setup: Setup, folder: Path) -> dict[str, Any]:
    """What the GPU does in a step of one utterance: torch's profiler sees onnxruntime's work too.

    Returns:
        ``launches`` a step, ``busy_ms`` of all of them, and ``longest``: by rank and name,
        ``launches`` and ``ms`` a step of those that take the most.
    """
    import torch  # here alone: its libraries must not help ours where steps are timed

    on_cuda = setup.provider == "cuda"
    dia = setup.load(folder)
    speaking = Speaking(dia, 1)
    for _ in range(WARM_UP_STEPS):
        speaking.step()
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_cuda else activity.CPU]) as profile:
        for _ in range(setup.steps):
            speaking.step()
    found = {
        event.key: {
            "launches": event.count / setup.steps,
            "ms": event.device_time_total / 1e3 / setup.steps,
        }
        for event in profile.key_averages()
        if event.device_time_total or not on_cuda  # what launches kernels is listed beside them
    }
    longest = sorted(found, key=lambda name: -found[name]["ms"])[:_LONGEST]
    return {
        "launches": sum(kernel["launches"] for kernel in found.values()),
        "busy_ms": sum(kernel["ms"] for kernel in found.values()),
        # Templates have names of kilobytes, which begin alike.
        "longest": {f"{i}. {name[:100]}": found[name] for i, name in enumerate(longest, 1)},
    }


def speech(setup: Setup, folder: Path) -> dict[str, Any]:
    """Seconds to the first audio of a stream, of its whole, and of decoding alone; warm."""
    dia = setup.load(folder)
    frames = 86
    config = GenerationConfig(seed=0, max_tokens=frames + dia.manifest.model.max_delay + 1)
    first_s, whole_s, spoken = [], [], 0.0
    for _ in range(3):
        started = time.perf_counter()
        stream = dia.stream(_SCRIPT, config)
        chunks = [next(stream)]
        first_s.append(time.perf_counter() - started)
        chunks += stream
        whole_s.append(time.perf_counter() - started)
        spoken = sum(len(chunk.samples) for chunk in chunks) / dia.sample_rate
    codec = dia.manifest.codec
    codes = np.random.default_rng(0).integers(0, codec.codebook_size, (430, codec.num_codebooks))
    seconds = len(codes) * codec.hop_length / codec.sample_rate
    decode = _timed(lambda: dia.decode_codes(codes))
    return {
        "first_audio_s": min(first_s[1:]),
        "realtime": spoken / min(whole_s[1:]),
        "decode_s_per_s": decode / seconds,
    }


def decoder_bytes(folder: Path, provider: str) -> int:
    """Bytes of the weights that a step reads: the decoder's file."""
    manifest = read_manifest(folder)
    info = choose_file(manifest, DECODER, resolve_provider(provider))
    return manifest.files[info.data or info.file].size


def gpu_memory() -> float | None:
    """GB in use on the first GPU, by anybody; None where nvidia-smi is not."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run([program, *query], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0]) * 2**20 / 1e9


def _timed(call: Callable[[], object]) -> float:
    """Seconds of the best of three, after one to warm up."""
    timings = []
    for _ in range(4):
        started = time.perf_counter()
        call()
        timings.append(time.perf_counter() - started)
    return min(timings[1:])
