"""The command line of tools/load_test.py."""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmark.charts import stacked_bars
from benchmark.machine import describe_machine
from loadtest.audio import pcm_of
from loadtest.client import Answer, ask, open_client, run_load
from loadtest.server import Server, Watcher, start_server
from loadtest.summary import LATENCIES, faults, summarize
from loadtest.workload import FORMATS, Load, Planned, make_workload

QUICK = Load(requests=24, concurrency=8, malformed=0.2, texts=4, most_words=3, seeds=2)
PARTS = {
    "first_byte": "first byte",
    "first_audible": "first audible sound",
    "last_byte": "last byte",
}
_WARM_UP = 2  # requests in each format


def main() -> None:
    options = parse_arguments(sys.argv[1:])
    load = choose_load(options)
    with tempfile.TemporaryDirectory(prefix="dia-ort-load-") as folder:
        report = run(options, load, Path(folder) / "server.log")
    report["faults"] = faults(report)
    if options.json:
        write(options.json, json.dumps(report, indent=2) + "\n")
    if options.chart:
        write(options.chart, draw(report))
    print(table(report))
    sys.exit(1 if report["faults"] else 0)


def run(options: argparse.Namespace, load: Load, log: Path) -> dict[str, Any]:
    """The report, but for its faults."""
    with open_server(options, log) as server:
        return asyncio.run(measure(server, load))


def open_server(options: argparse.Namespace, log: Path) -> Any:
    """The server that runs already, or one of our own."""
    if options.url:
        process = psutil.Process(options.pid) if options.pid else None
        return nullcontext(Server(options.url.rstrip("/"), options.api_key, process))
    return start_server(["--model", options.model, *options.serve], log)


async def measure(server: Server, load: Load) -> dict[str, Any]:
    """Warm up, load, let it settle, and speak once more what is to be compared; the report."""
    async with open_client(server.url, server.api_key, load.concurrency) as client:
        await warm_up(client, load)
    server.settle()
    before, watcher = server.resources(), Watcher(server)
    async with open_client(server.url, server.api_key, load.concurrency) as client:
        watcher.start()
        answers = await run_load(client, load, make_workload(load))
        watcher.stop()
    settling, taken = server.settle()
    after = server.resources()
    async with open_client(server.url, server.api_key, 1) as client:
        solo = await compare(client, answers)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "load": asdict(load),
        "run": summarize(answers, watcher),
        "settling": settling,
        "taken": taken,
        "before": before,
        "after": after,
        "solo": solo,
    }


async def warm_up(client: Any, load: Load) -> None:
    """Every format, several at once: what is loaded and started once is there before it counts."""
    workload = make_workload(replace(load, requests=_WARM_UP, abort=0, malformed=0, seed=1))
    planned = [replace(one, audio_format=name) for one in workload for name in set(FORMATS)]
    await asyncio.gather(*(ask(client, one) for one in planned))


async def compare(client: Any, answers: Sequence[Answer]) -> dict[str, Any]:
    """Speak what was finished as pcm once more, alone, and hold the bits against each other."""
    spoken: dict[tuple[str, int], list[bytes]] = {}
    for answer in answers:
        planned = answer.planned
        if answer.fate == "finished" and planned.audio_format in {"pcm", "sse"}:
            spoken.setdefault((planned.text, planned.seed), []).append(pcm_of(answer))
    different = []
    for (text, seed), bodies in spoken.items():
        solo = await ask(client, Planned(0, text, "pcm", seed))
        if solo.fate != "finished" or any(body != solo.body for body in bodies):
            different.append({"text": text, "seed": seed, "solo": solo.fate})
    return {
        "compared": sum(map(len, spoken.values())),
        "solo_runs": len(spoken),
        "different": different,
    }


def draw(report: dict[str, Any]) -> str:
    """Latencies, up to each percentile: what was there when."""
    latency = report["run"]["latency"]
    rows: dict[str, dict[str, float]] = {}
    for percentile in latency[LATENCIES[0]] or {}:
        at, rows[percentile] = 0.0, {}
        for key in LATENCIES:
            rows[percentile][PARTS[key]] = latency[key][percentile] - at
            at = latency[key][percentile]
    load = report["load"]
    title = f"{load['requests']} requests, {load['concurrency']} at once: when it was there"
    return stacked_bars(title, "seconds after the request, by percentile", rows, {}, "")


def table(report: dict[str, Any]) -> str:
    """The figures that matter, for people."""
    run, solo = report["run"], report["solo"]
    audio, took = run["audio_seconds"], run["seconds"]
    lines = [
        ", ".join(f"{count} {fate}" for fate, count in run["fates"].items()),
        f"{audio:.1f} s of audio in {took:.1f} s: {run['throughput']:.2f} times real time",
    ]
    for name, values in [
        *((PARTS[key], run["latency"][key]) for key in LATENCIES),
        ("times real time", run["real_time_factor"]),
        ("/health", run["health"]),
        ("held outside", run["held_outside"]),
    ]:
        figures = {key: value for key, value in (values or {}).items() if key.startswith("p")}
        shown = "  ".join(f"{key} {value:7.3f}" for key, value in figures.items())
        lines.append(f"{name:20}{shown}")
    if run["rejected"]:
        lines.append(f"rejected: {run['rejected']}")
    if memory := run["memory"]:
        lines.append(f"memory: {memory['most'] / 1e6:.0f} MB, growth {memory['growth']:+.1%}")
    before, after, different = report["before"], report["after"], len(solo["different"])
    lines += [
        f"open files: {before['open_files']} before, {after['open_files']} after",
        f"threads: {before['threads']} before, {after['threads']} after",
        f"settled after {report['settling']:.2f} s, {report['taken']:g} places taken",
        f"{solo['compared']} compared with {solo['solo_runs']} runs alone: {different} differ",
        f"{run['silent']} finished without a sound",
    ]
    return "\n".join([*lines, *(f"FAULT: {fault}" for fault in report["faults"])])


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def choose_load(options: argparse.Namespace) -> Load:
    """The defaults, but for what was given."""
    names = ("requests", "rate", "concurrency", "abort", "malformed", "seed", "most_words")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return replace(QUICK if options.quick else Load(), **given)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Put a server under load.")
    parser.add_argument("--url", help="of a server that runs; default: start one with the demo")
    parser.add_argument("--api-key", help="that it takes")
    parser.add_argument("--pid", type=int, help="its process, if it runs here")
    parser.add_argument("--model", default="demo", help="for the server that is started")
    parser.add_argument("--quick", action="store_true", help="24 short requests")
    parser.add_argument("--requests", type=int, help=f"default: {Load().requests}")
    parser.add_argument("--rate", type=float, help="arrivals a second; inf: all at once")
    parser.add_argument("--concurrency", type=int, help="the most that are open at once")
    parser.add_argument("--abort", type=float, help="part of the clients that leave early")
    parser.add_argument("--malformed", type=float, help="part of the requests that are nonsense")
    parser.add_argument("--most-words", type=int, help="of a text")
    parser.add_argument("--seed", type=int, help="of all chance here")
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--chart", type=Path, help="where to write the chart, as SVG")
    parser.add_argument("serve", nargs="*", help="after --: options for the server it starts")
    return parser.parse_args(arguments)
