"""What all the answers say together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from loadtest.audio import duration, first_audible
from loadtest.client import Answer, Fate
from loadtest.server import Watcher

PERCENTILES = (50, 90, 99, 100)
FATES: tuple[Fate, ...] = ("finished", "left", "rejected", "refused", "failed")
_WORST = 20  # failures that are told
_BLINK = 1e-3  # seconds that are nothing
_SLACK = {"open_files": 4, "threads": 4}
"""What may be left: pools that grow once, and what Python's garbage collector has not met yet."""

Figures = dict[str, float]


def spread(values: Iterable[float]) -> Figures | None:
    """Percentiles by name, as ``p50``; None of nothing."""
    known = list(values)
    if not known:
        return None
    return {
        f"p{p}": float(value)
        for p, value in zip(PERCENTILES, np.percentile(known, PERCENTILES), strict=True)
    }


def summarize(answers: Sequence[Answer], watcher: Watcher) -> dict[str, Any]:
    """The figures of a run; times are in seconds."""
    rows = [describe(answer) for answer in answers]
    finished = [row for row in rows if row["fate"] == "finished"]
    heard = [row for row in finished if row["first_audible"] is not None]
    began = min(answer.started for answer in answers)
    took = max(answer.ended for answer in answers) - began
    audio = sum(row["audio"] for row in rows)
    failed = [answer for answer in answers if answer.fate == "failed"]
    rejected = Counter(str(row["status"]) for row in rows if row["fate"] == "rejected")
    return {
        "seconds": took,
        "fates": {fate: sum(row["fate"] == fate for row in rows) for fate in FATES},
        "rejected": dict(rejected),
        "failures": [answer.error for answer in failed[:_WORST]],
        "audio_seconds": audio,
        "throughput": audio / took,
        "latency": {key: spread(row[key] for row in heard) for key in LATENCIES},
        "by_format": {name: _latencies(heard, name) for name in _formats(heard)},
        "real_time_factor": spread(row["real_time_factor"] for row in heard),
        "silent": sum(row["first_audible"] is None for row in finished),
        "held_outside": spread(row["held"] for row in rows),
        "health": {
            "asked": len(watcher.health),
            "errors": watcher.errors,
            **(spread(watcher.health) or {}),
        },
        "memory": _memory(watcher.memory),
        "requests": rows,
    }


LATENCIES = ("first_byte", "first_audible", "last_byte")
"""Of answers that were finished and can be heard, each from when its request was sent."""


def describe(answer: Answer) -> dict[str, Any]:
    """An answer's figures; the real-time factor is of what comes after the first byte."""
    has_audio = answer.fate in {"finished", "left"} and bool(answer.pieces)
    seconds = duration(answer) if has_audio else 0.0
    first = answer.pieces[0][0] if answer.pieces else answer.ended
    return {
        "at": answer.planned.at,
        "format": answer.planned.audio_format,
        "fate": answer.fate,
        "status": answer.status,
        "held": answer.held,
        "first_byte": first - answer.started,
        "first_audible": first_audible(answer) if has_audio else None,
        "last_byte": answer.ended - answer.started,
        "audio": seconds,
        "real_time_factor": seconds / max(answer.ended - first, _BLINK),
    }


def faults(report: dict[str, Any]) -> list[str]:
    """What must not be, however slow the machine is."""
    run, solo = report["run"], report["solo"]
    found = [f"failed: {error}" for error in run["failures"]]
    if run["health"]["errors"]:
        found.append(f"/health failed {run['health']['errors']} times")
    if report["taken"]:
        found.append(f"{report['taken']:g} slots or places in the queue were never freed")
    for key, slack in _SLACK.items():
        before, after = report["before"][key], report["after"][key]
        if before is not None and after > before + slack:
            found.append(f"{key.replace('_', ' ')}: {before} before, {after} after")
    if solo["different"]:
        found.append(f"{len(solo['different'])} of {solo['compared']} differ from their solo runs")
    if not run["fates"]["finished"]:
        found.append("nothing was finished")
    return found


def _formats(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({row["format"] for row in rows})


def _latencies(rows: Sequence[dict[str, Any]], audio_format: str) -> dict[str, Figures | None]:
    chosen = [row for row in rows if row["format"] == audio_format]
    return {key: spread(row[key] for row in chosen) for key in LATENCIES}


def _memory(samples: Sequence[float]) -> dict[str, Any] | None:
    """Bytes: at the most, and how the last quarter of the run compares with the second."""
    if len(samples) < 4:
        return None
    _, second, _, last = (float(np.median(q)) for q in np.array_split(samples, 4))
    return {
        "most": max(samples),
        "second_quarter": second,
        "last_quarter": last,
        "growth": last / second - 1,
        "samples": samples,
    }
