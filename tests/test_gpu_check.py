"""tools/gpu_check.py, on the CPU and on figures that are made up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from gpucheck.summary import lines, summarize, targets  # noqa: E402

PARTS = {
    "decoder bytes fp16": {"bytes": 2_500_000_000},
    "bandwidth": {"gb_per_s": 4300.0},
    "steps fp16": {"1": {"graph_ms": 2.0, "realtime": 5.0}, "64": {"graph_ms": 8, "realtime": 0.9}},
    "steps fp16, captured": {"1": {"graph_ms": 1.0, "realtime": 11.0}},
    "steps int4": {"1": {"graph_ms": 0.1, "realtime": 100.0}},
    "transformers fp16": {"step_ms": 12.0},
    "transformers fp16, static and compiled": {"step_ms": 4.0},
    "speech fp16": {"first_audio_s": 0.08},
}


def test_the_summary_takes_the_best_of_each_side():
    figures = summarize(PARTS)
    assert figures["realtime"] == 11.0
    assert figures["realtime_64"] == 0.9
    assert figures["over_transformers"] == pytest.approx(4.0)
    assert figures["over_floor"] == pytest.approx(1 / (2500 / 4300))


def test_targets_are_reached_or_not_or_not_measured():
    assert [row["reached"] for row in targets(summarize(PARTS))] == [False, True, True, False]
    assert [row["reached"] for row in targets(summarize({}))] == [None] * 4


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Exports for all tests here."""
    return tmp_path_factory.mktemp("artifacts")


def test_a_small_check_on_the_cpu(tmp_path, artifacts):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, TOOLS / "gpu_check.py", "--provider", "cpu"),
            *("--model", "tiny-random", "--dtypes", "fp16", "--parts", "facts,steps"),
            *("--counts", "1,2", "--steps", "2", "--json", report, "--artifacts", artifacts),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = json.loads(report.read_text())
    assert not found["failures"]
    assert found["parts"]["steps fp16"]["2"]["graph_ms"] > 0
    assert found["parts"]["facts"]["auto"] in {"cpu", "cuda"}
    assert "64 utterances, x real time each: at least 1; None: not measured" in done.stdout
    assert done.stdout.strip().splitlines() == "\n".join(lines(found)).strip().splitlines()


def test_a_part_that_fails_is_reported_and_the_rest_goes_on(tmp_path, artifacts):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, TOOLS / "gpu_check.py", "--provider", "cpu"),
            *("--model", "tiny-random", "--dtypes", "fp16", "--parts", "facts,steps"),
            *("--counts", "0", "--json", report, "--artifacts", artifacts),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = json.loads(report.read_text())
    assert done.returncode == 1
    assert list(found["failures"]) == ["steps fp16"]
    assert "facts" in found["parts"]
