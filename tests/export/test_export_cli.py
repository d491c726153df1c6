"""The command ``dia-export``: its options, its messages and its exit codes."""

import errno
import re
import sys
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import onnx_ir as ir
import pytest

from dia_export import cli, hub
from dia_export.errors import ExportError, ValueMismatchError
from dia_export.exporter import ExportResult, GraphReport
from dia_ort import __version__
from dia_ort.artifacts import find_artifact
from support.artifacts import copy_demo


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def dia_export(monkeypatch, capsys, tmp_path):
    """Runs ``dia-export`` in this process, in an empty folder and with no model but the demo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path / "models"))
    monkeypatch.setattr(cli.console, "width", 120)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dia-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Outcome(leaving.value.code or 0, out, err)

    return run


@pytest.fixture
def fake_export(monkeypatch, tmp_path):
    """Stands for the export: returns a report, or raises what it is told to; keeps its calls."""
    fake = SimpleNamespace(calls=[], error=None)

    def export(*arguments, output, **options):
        fake.calls.append((*arguments, output, options))
        if fake.error is not None:
            raise fake.error
        report = GraphReport("encoder.onnx", 67, 1_234_567, 2.34, {"error": 1.234e-4, "kl": 0.5})
        bare = GraphReport("decoder.onnx", 51, 99_000_000, 123.4)
        return ExportResult(output or tmp_path / "models" / "default", [report, bare])

    monkeypatch.setattr(cli, "export", export)
    return fake


@pytest.fixture
def fake_hub(monkeypatch):
    """Keeps what is pushed."""
    calls = []

    def push(folder, repo):
        calls.append((folder, repo))
        return f"https://huggingface.co/{repo}/commit/0123"

    monkeypatch.setattr(cli, "push_to_hub", push)
    return calls


def test_help(dia_export):
    code, out, _ = dia_export("--help")
    assert code == 0
    options = set(re.findall(r"--[a-z][a-z-]*", re.sub(r"\x1b\[[0-9;]*m", "", out)))
    assert options >= {
        "--model",
        "--codec",
        "--dtype",
        "--attention",
        "--output",
        "--revision",
        "--seed",
        "--no-verify",
        "--force",
        "--push-to-hub",
        "--version",
    }


def test_version(dia_export):
    assert dia_export("--version") == (0, f"dia-export {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dtype", "fp8"),
        ("--dtype", ""),
        ("--seed", "-1"),
        ("--seed", "x"),
        ("tiny-random",),
        ("--quantise",),
    ],
)
def test_usage_errors(dia_export, fake_export, arguments):
    code, _, err = dia_export(*arguments)
    assert code == 2
    assert "Usage: dia-export" in err
    assert fake_export.calls == []


def test_a_dtype_that_is_none_lists_those_there_are(dia_export):
    message = dia_export("--dtype", "fp8").err
    for name in ("fp8", "fp32", "fp16", "bf16", "int8", "int4"):
        assert f"'{name}'" in message


def test_defaults(dia_export, fake_export):
    assert dia_export().code == 0
    ((model, codec, output, options),) = fake_export.calls
    assert (model, codec, output) == ("nari-labs/Dia-1.6B-0626", None, None)
    options.pop("progress")
    assert options == {
        "dtype": "fp16",
        "attention": "fused",
        "revision": None,
        "seed": 0,
        "calibrate": True,
        "verify": True,
        "force": False,
    }


# Mistakes


@pytest.mark.parametrize("model", ["nowhere", "./nowhere", "/nowhere/at/all", "", "a/b/c"])
def test_a_model_that_is_not_there(dia_export, tmp_path, model):
    code, _, err = dia_export("--model", model, "--codec", "tiny-random", "--dtype", "int4")
    assert code == 1
    assert err.startswith("dia-export: ")
    assert not (tmp_path / "models").exists()


def test_a_hub_model_without_a_network(dia_export, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = dia_export("--model", "nobody/nothing", "--codec", "tiny-random")
    assert code == 1
    assert err.startswith("dia-export: nobody/nothing is no folder here")
    assert "HF_HUB_OFFLINE" in err


def test_a_folder_of_something_else(dia_export, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    code, _, err = dia_export("--model", "model", "--codec", "tiny-random")
    assert code == 1
    assert err.startswith("dia-export: ")
    assert "model" in err


def test_a_place_that_is_taken(dia_export, tmp_path):
    copy_demo(tmp_path / "mine")
    code, _, err = dia_export("--model", "tiny-random", "--dtype", "int4", "--output", "mine")
    assert code == 1
    assert err == ("dia-export: mine exists: choose another --output, or replace it (--force).\n")


def test_a_full_disk(dia_export, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ir, "save", fail)
    code, _, err = dia_export("--model", "tiny-random", "--dtype", "int4")
    assert code == 1
    assert "No space left on device. Nothing was published." in err
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        ValueMismatchError(
            "decoder.onnx: logits differs from PyTorch's by 0.5, and 0.1 is allowed."
        ),
        ExportError("install dia-ort[export] [bold]or[/bold] [/] not"),
    ],
)
def test_messages_are_printed_as_they_are(dia_export, fake_export, error):
    """On one line, however long, with what is in brackets."""
    fake_export.error = error
    assert dia_export() == (1, "", f"dia-export: {error}\n")


def test_ctrl_c(dia_export, fake_export):
    fake_export.error = KeyboardInterrupt()
    code, _, err = dia_export()
    assert code == 130
    assert err.endswith("dia-export: stopped; an unfinished export leaves nothing behind.\n")


def test_a_lost_ctrl_c_counts_at_the_next_step(dia_export, monkeypatch):
    """Python drops what is raised in a finalizer, of which torch has many."""

    class Interrupting:
        def __del__(self):
            raise KeyboardInterrupt

    def export(*_, progress, **__):
        progress("write", 0, 2)
        Interrupting()
        progress("write", 1, 2)
        pytest.fail("it went on")

    monkeypatch.setattr(cli, "export", export)
    assert dia_export().code == 130
    assert sys.unraisablehook is sys.__unraisablehook__


# Success


def test_an_export(dia_export, tmp_path):
    """Where dia-ort looks, with a bar for each stage, a table and what to do next."""
    code, out, err = dia_export("--model", "tiny-random", "--dtype", "int4")
    assert (code, out) == (0, "")
    artifact = find_artifact("tiny-random-int4")
    assert artifact.folder == tmp_path / "models" / "tiny-random-int4"
    for info in artifact.manifest.graphs:
        row = re.search(
            rf"{info.file} +. +{info.nodes} +. +([0-9.]+) +. +([0-9.]+) +. (.*?) *.\n", err
        )
        is_twin = info.file != f"{info.graph}.onnx"  # its weights are the other graph's
        names = [info.file] if is_twin else [info.file, info.data]
        size = sum(artifact.manifest.files[name].size for name in names)
        assert float(row[1]) == pytest.approx(size / 1e6, abs=0.06)
        figures = artifact.manifest.verification[info.file]
        assert row[3] == ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
    for stage in ("trace", "write", "verify", "PyTorch's values", "hash"):
        assert stage in err
    assert f"Wrote {artifact.folder}\n" in err
    assert f"dia-ort speak --model {artifact.folder} '[S1] Hello.'" in err
    assert "Not verified" not in err


def test_no_verify_says_so(dia_export, fake_export):
    code, _, err = dia_export("--no-verify")
    assert code == 0
    assert "Not verified (--no-verify): nothing was held against PyTorch." in err
    assert fake_export.calls[0][-1]["verify"] is False


def test_the_table(dia_export, fake_export):
    err = dia_export("--output", "a[b]c [/x]").err
    assert re.search(r"graph +. +nodes +. +MB +. +seconds +. +against PyTorch", err)
    assert re.search(r"encoder.onnx +. +67 +. +1.2 +. +2.3 +. +error 0.000123, kl 0.5", err)
    assert re.search(r"decoder.onnx +. +51 +. +99.0 +. +123.4 +. +not run", err)
    assert "Wrote a[b]c [/x]\nTry: dia-ort speak --model a[b]c [/x] '[S1] Hello.'" in err


def test_warnings_are_one_line(dia_export, monkeypatch, fake_export):
    def export(*_, **__):
        warnings.warn("take dia-ort[gpu]", stacklevel=1)
        raise ExportError("no")

    monkeypatch.setattr(cli, "export", export)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert "warning: take dia-ort[gpu]\n" in dia_export().err


# The hub


def test_what_is_exported_is_pushed(dia_export, fake_export, fake_hub, tmp_path):
    code, _, err = dia_export("--push-to-hub", "someone/dia")
    assert code == 0
    assert fake_hub == [(tmp_path / "models" / "default", "someone/dia")]
    assert "Uploaded to https://huggingface.co/someone/dia/commit/0123\n" in err


def test_what_is_there_is_pushed_as_it_is(dia_export, fake_export, fake_hub, tmp_path):
    folder = copy_demo(tmp_path / "mine")
    assert dia_export("--output", folder, "--push-to-hub", "someone/dia").code == 0
    assert fake_hub == [(folder, "someone/dia")]
    assert fake_export.calls == []
    assert dia_export("--output", folder, "--push-to-hub", "someone/dia", "--force").code == 0
    assert len(fake_export.calls) == 1


def test_an_upload_that_fails(dia_export, monkeypatch, tmp_path):
    folder = copy_demo(tmp_path / "mine")

    def refuse(*_, **__):
        raise RuntimeError("401 Unauthorized")

    monkeypatch.setattr(hub.huggingface_hub, "create_repo", refuse)
    code, _, err = dia_export("--output", folder, "--push-to-hub", "someone/dia")
    assert code == 1
    assert err.startswith("dia-export: someone/dia was not uploaded: 401 Unauthorized.")
