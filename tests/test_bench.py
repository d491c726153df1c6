"""tools/bench.py runs, and reports what it promises; its figures are nobody's business here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "tools" / "bench.py"


def run_bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCH, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tiny_form_reports_every_contestant(tmp_path):
    pytest.importorskip("transformers")
    output = tmp_path / "bench.json"
    done = run_bench(
        *("--dtypes", "int4", "--steps", 3, "--rounds", 1, "--threads", 1),
        *("--artifacts", tmp_path, "--json", output),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert {"date", "machine", "versions", "settings", "summary", "targets"} < report.keys()
    assert report["exports"].keys() == {"int4"}

    samples = report["samples"]
    references = {"transformers fp32", "transformers bf16"}
    assert samples["decoder_step"].keys() == references | {"int4"}
    assert samples["dac_decode"].keys() == {"torch", "dia-ort"}
    assert samples["speak"].keys() == {"int4"}
    for section in samples.values():
        for rounds in section.values():
            assert len(rounds) == 1
            assert rounds[0]["peak_rss_gb"] > 0
    for (one,) in samples["decoder_step"].values():
        assert len(one["step_ms"]) == 3

    summary = report["summary"]["decoder_step"]
    assert summary["int4"]["floor_ms"] > 0
    for reference in references:
        ratio = summary["int4"][f"speed_over_{reference}"]
        assert ratio["min"] <= ratio["median"] <= ratio["max"]
    for title in ("Decoder step", "DAC decode", "Load, and speak", "Exports"):
        assert title in done.stdout


def test_an_unknown_dtype_is_refused():
    done = run_bench("--dtypes", "int4,int3")
    assert done.returncode == 2
    assert "'int3'" in done.stderr
