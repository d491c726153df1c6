import io
import sys
from typing import NamedTuple

import pytest

from dia_ort.cli import main
from dia_ort.dia import Dia


class Outcome(NamedTuple):
    code: int
    out: bytes
    err: str


@pytest.fixture
def dia_ort(monkeypatch, capsysbinary, tmp_path):
    """Runs ``dia-ort`` in this process, in an empty folder and with no model but the demo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["dia-ort", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = capsysbinary.readouterr()
        return Outcome(leaving.value.code or 0, out, err.decode())

    return run


@pytest.fixture
def nothing_loads(monkeypatch):
    """Fails the test if a model is loaded: mistakes are to be found before."""

    def load(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(Dia, "load", load)
