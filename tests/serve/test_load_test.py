"""tools/load_test.py runs, and the server stands it; its figures are nobody's business here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "load_test.py"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends a server by SIGTERM")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The quick form: what it said, its report, and its folder."""
    folder = tmp_path_factory.mktemp("load")
    done = subprocess.run(
        [sys.executable, TOOL, "--quick", "--json", "load.json", "--chart", "load.svg"],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "DIA_ORT_HOME": str(folder / "models")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "load.json").read_text("utf-8")), folder


def test_clients_of_every_kind_were_there(run):
    fates = run[1]["run"]["fates"]
    assert sum(fates.values()) == run[1]["load"]["requests"]
    assert fates["failed"] == 0
    assert min(fates["finished"], fates["left"], fates["refused"]) > 0


def test_what_was_finished_has_the_bits_of_a_run_alone(run):
    solo = run[1]["solo"]
    assert solo["compared"] >= solo["solo_runs"] > 0
    assert solo["different"] == []


def test_latencies_come_in_their_order(run):
    latency = run[1]["run"]["latency"]
    for percentile in ("p50", "p90", "p99", "p100"):
        first_byte, audible, last_byte = (
            latency[name][percentile] for name in ("first_byte", "first_audible", "last_byte")
        )
        assert 0 < first_byte <= audible <= last_byte


def test_the_server_was_watched_and_has_nothing_left_open(run):
    report = run[1]
    assert report["taken"] == 0
    assert report["run"]["health"]["asked"] > 5
    assert report["run"]["health"]["errors"] == 0
    assert report["run"]["memory"]["most"] > 0
    assert report["faults"] == []


def test_figures_are_printed_and_drawn(run):
    out, _, folder = run
    assert "first audible sound p50" in out
    assert "0 differ" in out
    assert ET.parse(folder / "load.svg").getroot().tag.endswith("svg")
