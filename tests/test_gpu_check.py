"""tools/gpu_check.py, on the CPU and on figures that are made up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from benchmark.artifacts import mark_current  # noqa: E402
from gpucheck.command import find_obstacle, parse_arguments  # noqa: E402
from gpucheck.parity import compare  # noqa: E402
from gpucheck.summary import lines, summarize, targets  # noqa: E402
from support.traces import export_quickly  # noqa: E402

PARTS = {
    "decoder bytes fp16": {"bytes": 2_500_000_000},
    "bandwidth": {"gb_per_s": 4300.0},
    "steps fp16": {"1": {"step_ms": 2.0, "realtime": 5.0}, "64": {"step_ms": 8, "realtime": 0.9}},
    "steps fp16, captured": {"1": {"step_ms": 1.0, "realtime": 11.0}},
    "steps int4": {"1": {"step_ms": 0.1, "realtime": 100.0}},
    "transformers fp16": {"step_ms": 12.0},
    "transformers fp16, static and compiled": {"step_ms": 4.0},
    "speech fp16": {"first_audio_s": 0.12},
    "speech fp16, captured": {"first_audio_s": 0.08},
    "codec as it is": {"max_error": 2e-4},
    "codec tf32": {"max_error": 2e-2},
}


def test_the_summary_takes_the_best_of_each_side():
    figures = summarize(PARTS)
    assert figures["realtime"] == 11.0
    assert figures["realtime_64"] == 0.9
    assert figures["over_transformers"] == pytest.approx(4.0)
    assert figures["over_floor"] == pytest.approx(1 / (2500 / 4300))


def test_targets_are_reached_or_not_or_not_measured():
    assert [row["reached"] for row in targets(summarize(PARTS))] == [
        *(False, True, True, False, True)
    ]
    assert [row["reached"] for row in targets(summarize({}))] == [None] * 5


def test_their_best_is_not_known_before_it_was_compiled():
    parts = {name: part for name, part in PARTS.items() if "compiled" not in name}
    assert "over_transformers" not in summarize(parts)


def test_webgpu_has_no_side_of_pytorchs():
    options = parse_arguments(["--provider", "webgpu"])
    assert options.dtypes == ("fp16", "int4")
    assert "steps" in options.parts
    assert "transformers" not in options.parts
    options = parse_arguments(["--provider", "webgpu", "--dtypes", "int8", "--parts", "kernels"])
    assert (options.dtypes, options.parts) == (("int8",), ("kernels",))


def run_check(*arguments):
    return subprocess.run(
        [
            *(sys.executable, TOOLS / "gpu_check.py", "--provider", "cpu"),
            *("--model", "tiny-random", *map(str, arguments)),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Exports for all tests here."""
    folder = tmp_path_factory.mktemp("artifacts")
    export_quickly("tiny-random", dtype="fp32", output=folder / "tiny-random-fp32", verify=False)
    mark_current(folder / "tiny-random-fp32", calibrate=False)
    return folder


def test_a_small_check_on_the_cpu(tmp_path, artifacts):
    pytest.importorskip("transformers")
    report = tmp_path / "report.json"
    parts = "facts,steps,runtime,kernels,codec,parity"
    done = run_check(
        *("--dtypes", "fp32", "--parts", parts, "--counts", "1,2", "--steps", 2, "--rounds", 2),
        *("--json", report, "--artifacts", artifacts),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert not found["failures"]
    assert found["parts"]["steps fp32"]["2"]["step_ms"] > 0
    assert found["parts"]["steps fp32"]["2"]["choice_ms"] > 0
    assert found["parts"]["steps fp32, round 2"].keys() & {"1", "2"} == {"1"}
    assert found["parts"]["kernels fp32"]["launches"] == 0  # it looks at the GPU alone
    assert found["parts"]["runtime fp32"]["passes"]
    assert found["parts"]["runtime fp32"]["choice"] == 0  # NumPy's, here
    assert found["parts"]["codec as it is"]["max_error"] < 1e-4
    parity = found["parts"]["parity fp32"]
    assert parity["dtype"] == "float32"
    assert parity["max_error"] < 1e-3
    assert parity["parted_at"] is None or parity["parted_at"] > 20  # a tie may fall either way
    assert found["parts"]["facts"]["auto"] in {"cpu", "cuda"}
    assert "64 utterances, x real time each: at least 1; None: not measured" in done.stdout
    assert done.stdout.strip().splitlines() == "\n".join(lines(found)).strip().splitlines()


def test_a_provider_that_is_not_there_ends_it_at_once():
    assert find_obstacle("cpu") is None
    assert "quantum" in find_obstacle("quantum")


def test_a_part_that_fails_is_reported_and_the_rest_goes_on(tmp_path, artifacts):
    report = tmp_path / "report.json"
    done = run_check(
        *("--dtypes", "fp32", "--parts", "facts,steps", "--counts", 0, "--rounds", 1),
        *("--json", report, "--artifacts", artifacts),
    )
    found = json.loads(report.read_text())
    assert done.returncode == 1
    assert list(found["failures"]) == ["steps fp32"]
    assert "facts" in found["parts"]


def test_greedy_codes_are_compared_up_to_where_they_part():
    tokens = np.arange(12).reshape(4, 3)
    logits = np.ones((4, 2, 3, 5), np.float32)
    same = compare(tokens, logits, tokens, logits)
    assert (same["parted_at"], same["max_error"], same["error"]) == (None, 0, 0)

    other, wrong = tokens.copy(), logits.copy()
    other[2, 1:] += 1
    wrong[1, 0, 0, 0] = 1.5
    wrong[2:] = 100  # after they parted: of no account
    figures = compare(other, wrong, tokens, logits)
    assert (figures["parted_at"], figures["different_tokens"]) == (2, 2)
    assert figures["max_error"] == 0.5
    assert figures["error"] == pytest.approx(0.5 / 60**0.5)
