"""The server as its clients see it: several at once, each with a request of its own."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmark.endless import speak_endlessly
from benchmark.settings import Settings
from dia_ort import Dia
from dia_ort.serve.server import SpeechServer
from dia_ort.serve.settings import ServerSettings

_TEXT = "[S1] " + "All that is gold does not glitter. " * 3
_BYTES_PER_SAMPLE = 2
_WAIT_S = 1800


def clients(settings: Settings, folder: Path) -> dict[str, Any]:
    """Let so many clients ask at the same moment, for pcm at the model's rate.

    Returns:
        For each number N of them: ``first_audio_s@N``, the median over the clients;
        ``last_first_audio_s@N``, of the one that waited longest; and ``speed@N``, the seconds of
        audio that all together got for a second of waiting for the last.
    """
    logging.disable()
    speak_endlessly()
    dia = Dia.load(folder, provider="cpu", threads=settings.threads)
    server = SpeechServer(dia, ServerSettings(port=0, max_batch=max(settings.clients)))
    thread = threading.Thread(target=server.run_until_stopped)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    try:
        while httpx.get(f"{url}/ready", timeout=_WAIT_S).status_code != httpx.codes.OK:
            time.sleep(0.1)
        figures: dict[str, Any] = {}
        for count in settings.clients:
            figures |= {
                f"{name}@{count}": value
                for name, value in _ask_at_once(url, dia, settings.serve_frames, count).items()
            }
    finally:
        server.stop()
        thread.join()
    return figures


def _ask_at_once(url: str, dia: Dia, frames: int, count: int) -> dict[str, float]:
    body = {
        "input": _TEXT,
        "response_format": "pcm",
        "sample_rate": dia.sample_rate,
        "max_tokens": frames + dia.manifest.model.max_delay + 1,
        "seed": 0,
    }
    started = time.perf_counter()

    def ask(_: int) -> tuple[float, int]:
        """Seconds to the first audio, and samples in all."""
        first, size = 0.0, 0
        with httpx.stream("POST", f"{url}/v1/audio/speech", json=body, timeout=_WAIT_S) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                first = first or time.perf_counter() - started
                size += len(part)
        return first, size // _BYTES_PER_SAMPLE

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(ask, range(count)))
    took = time.perf_counter() - started
    firsts = [first for first, _ in answers]
    return {
        "first_audio_s": median(firsts),
        "last_first_audio_s": max(firsts),
        "speed": sum(samples for _, samples in answers) / dia.sample_rate / took,
    }
