"""The command line of tools/bench.py: what to measure, and where the report goes."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.apart import run_apart
from benchmark.artifacts import ensure_artifact
from benchmark.decoding import artifact_decoder
from benchmark.docs import write_docs
from benchmark.floors import dac_flops, step_bytes
from benchmark.machine import describe_machine, versions
from benchmark.plan import measure, note, plan
from benchmark.settings import DEFAULTS, PARTS, TINY, Settings
from benchmark.summary import summarize, targets
from benchmark.tables import heading, tables
from dia_ort.graphs import DAC_DECODER
from dia_ort.manifest import read_manifest

DTYPES = ("fp32", "fp16", "bf16", "int8", "int4")


def main() -> None:
    options = parse_arguments(sys.argv[1:])
    if options.from_json:
        report = json.loads(options.from_json.read_text(encoding="utf-8"))
    else:
        report = run(choose_settings(options), options.artifacts)
        save(report, options.json)  # whatever becomes of the rest
    summary = summarize(report)
    report |= {"summary": summary, "targets": targets(summary)}
    save(report, options.json)
    print("\n".join(heading(report, summary)))
    for table in tables(report, summary):
        print(f"\n{table.text()}")
    if options.docs:
        write_docs(options.docs, report, summary)
    sys.exit(1 if report["failures"] else 0)


def save(report: dict[str, Any], path: Path | None) -> None:
    """Write a report, if there is a file to write it to."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def run(settings: Settings, artifacts: Path) -> dict[str, Any]:
    """Export what is missing, and measure; the report, but for its summary."""
    machine = describe_machine()
    folders, exports = {}, {}
    for dtype in settings.dtypes:
        note(f"export {settings.model} {dtype}")
        folders[dtype], figures = ensure_artifact(artifacts, settings.model, dtype)
        if figures:
            exports[dtype] = figures
    first = folders[settings.dtypes[0]]
    codec = read_manifest(first).codec
    floors = {dtype: step_bytes(artifact_decoder(path)) for dtype, path in folders.items()}
    dac_gflop = dac_flops(first / f"{DAC_DECODER}.onnx", codec) / 1e9
    variants, cases = export_variants(settings, artifacts, folders)
    samples, failures = measure(list(plan(settings, folders, variants, cases)), settings.rounds)
    for path in cases.values():
        path.unlink()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": versions(),
        "settings": asdict(settings),
        "floors": floors,
        "dac_gflop": dac_gflop,
        "exports": exports,
        "variants": {
            source: {
                name: {key: variant[key] for key in ("size_gb", "is_default")}
                for name, variant in made.items()
            }
            for source, made in variants.items()
        },
        "samples": samples,
        "failures": failures,
    }


def export_variants(
    settings: Settings, artifacts: Path, folders: dict[str, Path]
) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
    """The price list's decoders, by source and name, and the gate's cases, by source."""
    variants: dict[str, dict[str, Any]] = {}
    cases: dict[str, Path] = {}
    if "prices" not in settings.parts:
        return variants, cases
    sources = {settings.model: folders}
    if settings.quality_model:
        sources[settings.quality_model] = {}
    for number, (source, known) in enumerate(sources.items()):
        cases[source] = artifacts / f"cases-{number}.pickle"
        arguments = (artifacts, source, settings.variants, known, cases[source])
        variants[source] = run_apart("benchmark.prices:prepare", *arguments)
        del variants[source]["peak_rss_gb"]
    return variants, cases


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure dia-ort against transformers and torch on this machine."
    )
    parser.add_argument("--model", choices=DEFAULTS, default=TINY)
    parser.add_argument("--parts", type=subset(PARTS), help=f"of {','.join(PARTS)}; default: all")
    parser.add_argument("--dtypes", type=subset(DTYPES), help=f"of {','.join(DTYPES)}")
    parser.add_argument(
        "--variants",
        type=lambda text: tuple(text.split(",")),
        help="decoders of the price list, as int8 or 'int4 64'",
    )
    parser.add_argument("--steps", type=positive, help="decoder steps to time each round")
    parser.add_argument("--rounds", type=positive, help="over all contestants")
    parser.add_argument("--threads", type=positive, help="default: the physical cores")
    parser.add_argument(
        "--quality-model",
        metavar="PATH[,CODEC]",
        help="a trained checkpoint, and its codec's: the price list gives its quality too",
    )
    parser.add_argument(
        "--artifacts",
        type=Path,
        default=Path(tempfile.gettempdir()) / "dia-ort-bench",
        help="where exports are kept for the next run (full-random: 25 GB)",
    )
    parser.add_argument("--json", type=Path, help="where to write the report with all samples")
    parser.add_argument("--docs", type=Path, help="a document to write tables and charts into")
    parser.add_argument("--from-json", type=Path, help="render this report; measure nothing")
    return parser.parse_args(arguments)


def choose_settings(options: argparse.Namespace) -> Settings:
    """The model's defaults, but for what was given."""
    names = ("parts", "dtypes", "variants", "steps", "rounds", "threads", "quality_model")
    given = {name: getattr(options, name) for name in names}
    return replace(DEFAULTS[options.model], **{k: v for k, v in given.items() if v is not None})


def subset(choices: tuple[str, ...]) -> Any:
    """A parser of a list of some of them, with commas between."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(text.split(",")))
        if unknown := [name for name in chosen if name not in choices]:
            raise argparse.ArgumentTypeError(
                f"{', '.join(map(repr, unknown))}: take of {', '.join(choices)}"
            )
        return chosen

    return parse


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
