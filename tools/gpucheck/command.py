"""The command line of tools/gpu_check.py: what to run, in order, and where the report goes."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.apart import run_apart
from benchmark.artifacts import ensure_artifact
from benchmark.settings import FULL, TINY
from dia_ort.cuda import find_problem
from dia_ort.errors import DiaError
from dia_ort.providers import onnxruntime, resolve_provider
from gpucheck.codec import VARIANTS
from gpucheck.ours import Setup, decoder_bytes
from gpucheck.summary import COMPILED, lines, summarize, targets

PARTS = (
    *("facts", "nodes", "gate", "runtime", "bandwidth"),
    *("steps", "transformers", "kernels", "speech", "codec", "parity", "compiled"),
)
DTYPES = ("fp16", "bf16", "int4")
KNOWN_DTYPES = (*DTYPES, "int8", "int4-32", "fp32", "fp32-standard")
_ON_WEBGPU = ("facts", "nodes", "gate", "runtime", "steps", "speech", "codec"), ("fp16", "int4")
"""Parts and dtypes there: PyTorch does not run on it, nor does bfloat16."""
COUNTS = (1, 8, 16, 32, 64)
CODEC_FRAMES = 430  # five seconds
GREEDY_STEPS = 200

_CAPTURED = {"enable_cuda_graph": "1"}
OTHER_KERNELS = {
    "products chosen by timing": ({"ORT_CUDA_GEMM_AUTO_TUNE": "1"}, KNOWN_DTYPES),
    "self-attention by cuDNN": ({"ORT_ENABLE_XQA": "0"}, ("fp16", "bf16")),
    "products by fpA_intB": ({"ORT_FPA_INTB_GEMM": "1"}, ("int4-32",)),
}
"""onnxruntime's other kernels for a step: the environment that chooses them, and for which dtypes.

The last are the only products of 4-bit weights that do not widen them first for many rows."""

CONTESTANTS = ("transformers bf16", "transformers fp16")
"""transformers' ways in turn with ours; the compiled one takes minutes, and comes last of all."""

Call = tuple[str, str, str, tuple[object, ...]]
"""A part, what it is called in the report, the function that measures it, and its arguments."""


def main() -> None:
    options = parse_arguments(sys.argv[1:])
    if problem := find_obstacle(options.provider):
        sys.exit(f"nothing can be checked: {problem}")
    report = check(options)
    print("\n".join(lines(report)))
    sys.exit(1 if report["failures"] else 0)


def find_obstacle(provider: str) -> str | None:
    """Why a provider cannot start, said before minutes of exports; None if nothing shows."""
    try:
        resolve_provider(provider)
    except DiaError as error:
        return str(error)
    return find_problem(onnxruntime()) if provider == "cuda" else None


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Run every part, and write the report after each."""
    started = time.monotonic()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": options.model,
        "provider": options.provider,
        "parts": {},
        "failures": {},
    }
    folders = export_all(options)
    for dtype, folder in folders.items():
        size = decoder_bytes(folder, options.provider)
        report["parts"][f"decoder bytes {dtype}"] = {"bytes": size}
    for part, name, function, arguments in plan(options, folders):
        if part not in options.parts:
            continue
        if time.monotonic() - started > options.budget_minutes * 60:
            report["failures"][name] = "left out: --budget-minutes were over"
            continue
        print(name, file=sys.stderr, flush=True)
        try:
            figures = run_apart(f"gpucheck.{function}", *arguments)
            figures.pop("peak_rss_gb")
            report["parts"][name] = figures
            if not figures.get("passes", True):
                report["failures"][name] = "further from PyTorch than is allowed; see its figures"
        except Exception as error:  # noqa: BLE001 - the other parts must outlive it
            report["failures"][name] = f"{type(error).__name__}: {error}"
        _finish(report, options.json)
    _finish(report, options.json)
    return report


def export_all(options: argparse.Namespace) -> dict[str, Path]:
    """The models to check by dtype, exported side by side in processes of their own."""

    def export(dtype: str) -> Path:
        print(f"export {options.model} {dtype}", file=sys.stderr, flush=True)
        # Not calibrated: that takes minutes, and makes no step faster.
        return ensure_artifact(options.artifacts, options.model, dtype, calibrate=False)[0]

    with ThreadPoolExecutor(3) as threads:
        return dict(zip(options.dtypes, threads.map(export, options.dtypes), strict=True))


def plan(options: argparse.Namespace, folders: dict[str, Path]) -> Iterator[Call]:
    """What to run, in order: facts before figures, and contestants beside each other."""
    setups = {"": Setup(options.provider, options.steps)}
    if options.provider == "cuda":
        setups[", captured"] = replace(setups[""], options=_CAPTURED)
    yield "facts", "facts", "ours:facts", (setups[""],)
    for dtype, folder in folders.items():
        arguments = (folder, options.model)
        yield "nodes", f"nodes {dtype}", "ours:nodes", (setups[""], folder)
        yield "gate", f"gate {dtype}", "ours:gate", (setups[""], *arguments)
        for way, setup in setups.items():
            yield "runtime", f"runtime {dtype}{way}", "runtime_gate:gate", (setup, *arguments)
    yield "bandwidth", "bandwidth", "reference:bandwidth", (_device(options),)
    for number in range(1, options.rounds + 1):
        yield from _plan_round(options, folders, setups, number)
    yield from _plan_kernels(options, folders, setups)
    for dtype, folder in folders.items():
        for way, setup in setups.items():
            yield "speech", f"speech {dtype}{way}", "ours:speech", (setup, folder)
    yield from _plan_comparisons(options, folders, setups[""])
    if options.provider == "cuda":
        arguments = (options.model, "cuda", options.steps, COMPILED)
        yield "compiled", COMPILED, "reference:step", arguments


def _plan_round(
    options: argparse.Namespace,
    folders: dict[str, Path],
    setups: dict[str, Setup],
    number: int,
) -> Iterator[Call]:
    """Steps of ours and of theirs; several utterances at once in the first round alone."""
    suffix = f", round {number}" if number > 1 else ""
    counts = options.counts if number == 1 else options.counts[:1]
    for dtype, folder in folders.items():
        for way, setup in setups.items():
            yield "steps", f"steps {dtype}{way}{suffix}", "ours:steps", (setup, folder, counts)
    device = _device(options)
    for name in CONTESTANTS if device == "cuda" else CONTESTANTS[:1]:
        arguments = (options.model, device, options.steps, name)
        yield "transformers", f"{name}{suffix}", "reference:step", arguments


def _plan_kernels(
    options: argparse.Namespace, folders: dict[str, Path], setups: dict[str, Setup]
) -> Iterator[Call]:
    """What a step of one utterance is made of, and how long it takes with other kernels."""
    for dtype, folder in folders.items():
        for way, setup in setups.items():
            yield "kernels", f"kernels {dtype}{way}", "ours:kernels", (setup, folder)
            for name, (environment, dtypes) in OTHER_KERNELS.items():
                if options.provider == "cuda" and dtype in dtypes:
                    other = replace(setup, environment=environment)
                    counts = tuple(sorted({options.counts[0], options.counts[-1]}))
                    arguments = (other, folder, counts)
                    yield "kernels", f"{name}, {dtype}{way}", "ours:steps", arguments


def _plan_comparisons(
    options: argparse.Namespace, folders: dict[str, Path], setup: Setup
) -> Iterator[Call]:
    """Audio against PyTorch's, and greedy codes against transformers'."""
    on_cuda = options.provider == "cuda"
    first = next(iter(folders.values()))
    for variant in VARIANTS if on_cuda else ("as it is",):
        arguments = (first, options.provider, variant, options.model, CODEC_FRAMES)
        yield "codec", f"codec {variant}", "codec:decode", arguments
    for dtype, folder in folders.items():
        # Elsewhere than on CUDA, half precision is widened to float32: transformers has no such.
        if dtype.startswith("fp32") or (on_cuda and dtype in {"fp16", "bf16"}):
            compared = (setup, folder, options.model, GREEDY_STEPS)
            yield "parity", f"parity {dtype}", "parity:greedy", compared


def _device(options: argparse.Namespace) -> str:
    """Torch's name of where its side runs."""
    return "cuda" if options.provider == "cuda" else "cpu"


def _finish(report: dict[str, Any], path: Path | None) -> None:
    report["summary"] = summarize(report["parts"])
    report["targets"] = targets(report["summary"])
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check and measure dia-ort on a GPU; on NVIDIA's, against transformers."
    )
    parser.add_argument(
        "--provider", default="cuda", help="or webgpu, for any GPU; cpu tries the tool itself"
    )
    parser.add_argument("--model", choices=(FULL, TINY), default=FULL)
    parser.add_argument("--parts", type=_subset(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument(
        "--dtypes", type=_subset(KNOWN_DTYPES), help="default: all that the provider has"
    )
    parser.add_argument("--counts", type=_numbers, default=COUNTS, help="utterances at once")
    parser.add_argument("--steps", type=int, default=100, help="to time")
    parser.add_argument(
        "--rounds", type=int, default=2, help="of single steps, ours and theirs in turn"
    )
    parser.add_argument("--budget-minutes", type=float, default=60)
    parser.add_argument("--json", type=Path, help="where to write the report, after every part")
    parser.add_argument(
        "--artifacts",
        type=Path,
        default=Path(tempfile.gettempdir()) / "dia-ort-bench",
        help="where exports are kept for the next run",
    )
    options = parser.parse_args(arguments)
    parts, dtypes = _ON_WEBGPU if options.provider == "webgpu" else (PARTS, DTYPES)
    options.parts, options.dtypes = options.parts or parts, options.dtypes or dtypes
    return options


def _subset(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: of {','.join(known)}")
        return names

    return parse


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
