"""All or nothing: what an export leaves when it fails, is stopped, or finds its place taken."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx_ir as ir
import pytest

from dia_export import export, exporter
from dia_export.errors import ExportError, OutputExistsError
from dia_ort import Dia
from dia_ort.artifacts import check_hashes, find_artifact, list_artifacts
from dia_ort.errors import ArtifactError, ArtifactNotFoundError


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("DIA_ORT_HOME", str(folder))
    return folder


@pytest.fixture
def quick(monkeypatch, exported):
    """Exports whose graphs are copied from one made before."""
    source = exported("int8").folder

    def run(self, _reference):
        for name in ("encoder", "decoder"):
            self._progress(name, 0, 1)
            shutil.copy(source / f"{name}.onnx", self._folder)
        shutil.copytree(source, self._folder, dirs_exist_ok=True)
        return []

    monkeypatch.setattr(exporter.Exporter, "run", run)


def failing(error, *, at):
    """ir.save that writes graphs, and half of the one named `at`."""
    save = ir.save

    def run(model, path, **options):
        if model.graph.name == at:
            Path(path).with_name(f"{at}.onnx.data").write_bytes(bytes(1000))
            raise error
        save(model, path, **options)

    return run


def listing(folder):
    """Every file beneath, hidden ones too, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# Failures in the middle


@pytest.mark.parametrize("graph", ["encoder", "decoder", "dac_encoder"])
def test_a_full_disk(models, monkeypatch, graph):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(ir, "save", failing(error, at=graph))
    with pytest.raises(
        ExportError, match=r"No space left on device. Nothing was published"
    ) as info:
        export("tiny-random", dtype="int8", output=models / "new" / "x", verify=False)
    assert str(models / "new" / "x") in str(info.value)
    assert listing(models) == {"new": None}


def test_a_full_disk_at_the_manifest(models, monkeypatch, quick):
    real = exporter.Exporter.run

    def run(self, reference):
        real(self, reference)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter.Exporter, "run", run)
    with pytest.raises(ExportError, match="No space left"):
        export("tiny-random", dtype="int8", output=models / "x")
    assert listing(models) == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("a bug")])
def test_whatever_goes_wrong_nothing_stays(models, monkeypatch, error):
    monkeypatch.setattr(ir, "save", failing(error, at="decoder"))
    with pytest.raises(type(error)):
        export("tiny-random", dtype="int8", output=models / "x", verify=False)
    assert listing(models) == {}


def test_a_failed_forced_export_leaves_the_old_one(models, monkeypatch, exported):
    shutil.copytree(exported("int8").folder, models / "x")
    before = listing(models)
    monkeypatch.setattr(ir, "save", failing(OSError(errno.ENOSPC, "full"), at="encoder"))
    with pytest.raises(ExportError, match="full"):
        export("tiny-random", dtype="int4", output=models / "x", verify=False, force=True)
    assert listing(models) == before


def test_a_failed_replacement_puts_the_old_one_back(models, monkeypatch, quick):
    export("tiny-random", dtype="int8", output=models / "x")
    before = listing(models)
    rename = Path.rename

    def fail(self, target):
        if self.suffix == ".partial":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ExportError, match=r"Permission denied. Nothing was published"):
        export("tiny-random", dtype="int8", output=models / "x", force=True)
    assert listing(models) == before


# Where it is written


def test_the_default_place(models, quick):
    result = export("tiny-random", dtype="int8")
    assert result.folder == models / "tiny-random-int8"
    assert [artifact.name for artifact in list_artifacts()] == ["tiny-random-int8", "demo"]
    assert find_artifact("tiny-random-int8").folder == result.folder
    check_hashes(find_artifact())
    if os.name != "nt":
        assert result.folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("kind", ["model", "something else", "file", "broken link"])
def test_a_place_that_is_taken(models, quick, kind):
    target = models / "x"
    if kind == "model":
        export("tiny-random", dtype="int8", output=target)
    elif kind == "something else":
        target.mkdir()
        (target / "thesis.tex").write_text("years of work")
    elif kind == "file":
        target.write_text("a file")
    else:
        target.symlink_to(models / "nowhere" / "y")
        export("tiny-random", dtype="int8", output=target)  # made where the link points
        assert find_artifact(models / "nowhere" / "y").manifest.dtype == "int8"
        return
    before = listing(models)
    with pytest.raises(OutputExistsError, match=r"x exists: .* or replace it \(--force\)"):
        export("tiny-random", dtype="int8", output=target)
    if kind != "model":
        with pytest.raises(OutputExistsError, match="is no exported model, and --force replaces"):
            export("tiny-random", dtype="int8", output=target, force=True)
    assert listing(models) == before


def test_an_empty_folder_is_free(models, quick):
    (models / "x").mkdir()
    export("tiny-random", dtype="int8", output=models / "x")
    check_hashes(find_artifact("x"))
    assert sorted(path.name for path in models.iterdir()) == ["x"]


def test_force_replaces_a_model(models, quick):
    export("tiny-random", dtype="int8", output=models / "x")
    fresh = listing(models)
    (models / "x" / "notes.txt").write_text("of the old one")
    (models / "x" / "decoder.onnx").write_text("damaged")
    export("tiny-random", dtype="int8", output=models / "x", force=True)
    assert listing(models) == fresh


def test_force_through_a_link_keeps_the_link(models, quick):
    export("tiny-random", dtype="int8", output=models / "real")
    (models / "link").symlink_to(models / "real")
    export("tiny-random", dtype="int8", output=models / "link", force=True)
    assert (models / "link").is_symlink()
    assert sorted(path.name for path in models.iterdir()) == ["link", "real"]
    check_hashes(find_artifact("real"))


def test_places_that_cannot_be_written(models, monkeypatch, quick):
    (models / "file").write_text("a file")
    for target in (models / "file" / "x", models / ("x" * 300)):
        with pytest.raises(ExportError, match="Choose another --output"):
            export("tiny-random", dtype="int8", output=target)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ExportError, match=r"models is not writable: .*Permission denied"):
        export("tiny-random", dtype="int8", output=models / "x")
    assert list(listing(models)) == ["file"]


# Signals

needs_signals = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")


# Where these tests run in the background, their children inherit that Ctrl-C is ignored.
_DIA_EXPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from dia_export.cli import main
sys.argv[0] = "dia-export"
main()
"""


def stopped(models, number):
    """A real `dia-export`, stopped by a signal while it works; its exit status and messages."""
    process = subprocess.Popen(
        [sys.executable, "-c", _DIA_EXPORT, "--model", "tiny-random", "--dtype", "int4"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"DIA_ORT_HOME": str(models)},
    )
    deadline = time.monotonic() + 120
    while not list(models.glob(".*/encoder.onnx")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages


@needs_signals
def test_ctrl_c(models):
    code, messages = stopped(models, signal.SIGINT)
    assert code == 130
    assert "dia-export: stopped; an unfinished export leaves nothing behind." in messages
    assert "Traceback" not in messages
    assert listing(models) == {}


@needs_signals
def test_killed(models):
    """Nothing can be tidied up then, but what is left is no model to anybody."""
    code, _ = stopped(models, signal.SIGKILL)
    assert code == -signal.SIGKILL
    (leftover,) = models.iterdir()
    assert leftover.name.startswith(".tiny-random-int4.")
    assert [artifact.name for artifact in list_artifacts()] == ["demo"]
    for model in (leftover, leftover.name, "tiny-random-int4"):
        with pytest.raises((ArtifactNotFoundError, ArtifactError)):
            Dia.load(model, provider="cpu")
