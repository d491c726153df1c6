"""tools/bench.py runs, and reports what it promises; its figures are nobody's business here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from support.artifacts import copy_demo

TOOLS = Path(__file__).parents[1] / "tools"
REFERENCE = "transformers bf16"


def run_bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOLS / "bench.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A run of all parts, as short as can be, and the folder of its report."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bench")
    copy_demo(folder / "tiny-random-fp32")  # spares half a minute of exporting
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        from benchmark.artifacts import mark_current  # noqa: PLC0415 - of the tools

        mark_current(folder / "tiny-random-fp32")
    done = run_bench(
        *("--dtypes", "fp32", "--steps", 2, "--threads", 1, "--variants", "int4 32"),
        *("--artifacts", folder, "--json", folder / "bench.json"),
    )
    assert done.returncode == 0, done.stderr
    return done, folder


@pytest.fixture(scope="module")
def report(bench):
    return json.loads((bench[1] / "bench.json").read_text())


def test_the_tiny_form_measures_every_contestant(report):
    samples = report["samples"]
    assert samples["step"].keys() == {REFERENCE, "fp32"}
    assert samples["dac"].keys() == {"torch", "dia-ort"}
    assert samples["growth"].keys() == {"text", "position"}
    assert samples["prices"].keys() == samples["quality tiny-random"].keys() == {"int4 32"}
    for section in ("causes", "batch", "speak", "serving"):
        assert samples[section].keys() == {"fp32"}
    for section in samples.values():
        for rounds in section.values():
            assert len(rounds) == 1
            assert rounds[0]["peak_rss_gb"] > 0
    for (one,) in samples["step"].values():
        assert len(one["step_ms"]) == 2


def test_a_step_is_held_against_its_floor_and_the_reference(report):
    figures = report["summary"]["step"]["fp32"]
    assert figures["floor_ms"] > 0
    ratio = figures[f"speed over {REFERENCE}"]
    assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert set(report["floors"]["fp32"]) == {"weights", "cache", "text"}
    assert report["dac_gflop"] > 0


def test_all_parts_are_printed(bench):
    for title in (
        "Decoder step of one utterance",
        "The step's floor",
        "The graph's kernels",
        "Utterances at once",
        "How cost grows with text positions",
        "How cost grows with audio positions",
        "DAC decode",
        "dia-ort speak as a whole",
        "Clients of the server",
        "The price list",
    ):
        assert title in bench[0].stdout


def test_a_report_can_be_rendered_into_a_document_with_charts(report, tmp_path):
    for source in ("int4", "int8"):  # the targets are of these, at full size
        for section in ("step", "speak", "batch"):
            contestants = report["samples"][section]
            contestants[source] = contestants["fp32"]
        report["floors"][source] = report["floors"]["fp32"]
    report["settings"]["model"] = "full-random"
    report["variants"] = {"full-random": report["variants"]["tiny-random"]}
    saved, document = tmp_path / "bench.json", tmp_path / "performance.md"
    saved.write_text(json.dumps(report))
    names = ("run", "targets", "step", "prices", "unknown")
    document.write_text("".join(f"<!-- bench:{n} -->\nold {n}\n<!-- /bench -->\n" for n in names))

    done = run_bench("--from-json", saved, "--docs", document)
    assert done.returncode == 0, done.stderr
    text = document.read_text()
    assert "old unknown" in text
    assert text.count("old") == 1
    assert text.count("<!-- /bench -->") == len(names)
    targets = text.partition("<!-- bench:targets -->")[2].partition("<!-- /bench -->")[0]
    assert targets.count("| at ") == 10
    for chart in ("step-time.svg", "throughput.svg"):
        assert ET.parse(tmp_path / chart).getroot().tag.endswith("svg")


def test_a_measurement_that_fails_is_left_out_and_told(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    from benchmark.plan import Measurement, measure  # noqa: PLC0415 - of the tools

    broken = Measurement("step", "broken", "benchmark.machine:no_such_function", ())
    samples, failures = measure([broken], rounds=2)
    assert samples == {}
    assert len(failures) == 1
    assert "no_such_function" in failures[0]


def test_the_document_has_a_place_for_every_table():
    text = (TOOLS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    tables = (
        "run targets step floor causes batch growth-text growth-position dac speak serving prices "
        "exports"
    )
    for name in tables.split():
        assert f"<!-- bench:{name} -->" in text


@pytest.mark.parametrize("arguments", [("--dtypes", "int4,int3"), ("--parts", "step,stop")])
def test_an_unknown_choice_is_refused(arguments):
    done = run_bench(*arguments)
    assert done.returncode == 2
    assert repr(arguments[1].split(",")[1]) in done.stderr
