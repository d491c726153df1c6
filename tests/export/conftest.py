"""Exports of the tiny random model, made once for all tests."""

import functools
import gc

import pytest

from dia_export import exporter
from support.traces import export_quickly, trace_once

MODEL = "tiny-random"


@pytest.fixture(autouse=True)
def _quick_traces(monkeypatch):
    gc.freeze()  # of what earlier traces left, for each export collects twice a graph
    monkeypatch.setattr(exporter, "trace", trace_once)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """By dtype and attention, the result of a verified export."""

    @functools.cache
    def run(dtype, attention="fused"):
        output = tmp_path_factory.mktemp("exported") / dtype
        return export_quickly(MODEL, dtype=dtype, attention=attention, output=output)

    return run
