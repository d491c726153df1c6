"""What Prometheus reads. All names begin with ``dia_ort_``, but for those of the process."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from dia_ort.engine import Engine

REJECTIONS = ("queue_full", "queue_timeout", "warming up", "draining", "dead")
"""Why speech is refused."""

OUTCOMES = ("finished", "cancelled", "slow_client", "refused", "queue_timeout", "failed")
"""What becomes of speech that has a place. It is cancelled when its client leaves, and refused when
its script cannot be read, or when it gave its place back and finds no other."""

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_REAL_TIMES = (0.05, 0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 20, 50)


class Metrics:
    """Counts what the server does.

    Args:
        engine: Whose steps, slots and queue are told too.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "dia_ort_requests",
            "HTTP requests and WebSockets, by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.rejections = Counter(
            "dia_ort_rejections",
            "Speech that was refused, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.speeches = Counter(
            "dia_ort_speeches",
            "Speech that was taken, by what became of it.",
            ["outcome"],
            registry=self.registry,
        )
        self.open = Gauge(
            "dia_ort_open_requests",
            "Requests and utterances that have a place: they wait, speak, or are being sent.",
            registry=self.registry,
        )
        for reason in REJECTIONS:  # else they are missing until the first one
            self.rejections.labels(reason)
        for outcome in OUTCOMES:
            self.speeches.labels(outcome)
        self.text_tokens = Counter(
            "dia_ort_text_tokens", "Text tokens of speech that began.", registry=self.registry
        )
        self.faults = Counter(
            "dia_ort_faults",
            "Chunks of speech that may have come out badly: cut, silent, or far too long.",
            registry=self.registry,
        )
        self.audio_seconds = Counter(
            "dia_ort_audio_seconds", "Seconds of audio that were sent.", registry=self.registry
        )
        self.queue_time = Histogram(
            "dia_ort_queue_seconds",
            "Seconds from a request to its slot.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_audio_time = Histogram(
            "dia_ort_first_audio_seconds",
            "Seconds from a request to its first audio.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.real_time_factor = Histogram(
            "dia_ort_real_time_factor",
            "Seconds of audio for each second since its slot: over 1 is faster than real time.",
            buckets=_REAL_TIMES,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """The engine's own counts, read when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats
        frames = stats.frames
        gauges = {
            "queue_depth": (
                "Requests to the engine (chunks of text) without a slot.",
                stats.queued,
            ),
            "active_slots": ("Slots that speak.", stats.running),
            "slots": ("Slots there are.", self._engine.max_batch),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"dia_ort_{name}", text, value)
        channels = self._engine.dia.manifest.model.num_channels
        counters = {
            "steps": ("Decoder steps, each of all slots that speak.", stats.steps),
            "frames": ("Frames of codes, of all slots.", frames),
            "audio_tokens": ("Audio tokens, a frame's channels each.", frames * channels),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"dia_ort_{name}", text, value)
