"""``dia-ort models``, ``info``, ``verify``, ``doctor``, ``--help`` and ``--version``."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys

import pytest

from dia_ort import Dia, __version__, doctor, providers
from dia_ort.artifacts import find_artifact
from dia_ort.errors import ProviderError

DEMO = find_artifact("demo")


@pytest.fixture
def copy(tmp_path):
    """A copy of the demo that loads by the name of ``copy``."""
    folder = tmp_path / "models" / "copy"
    shutil.copytree(DEMO.folder, folder)
    return folder


def edit_manifest(folder, edit):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    edit(manifest)
    path.write_text(json.dumps(manifest), "utf-8")


def test_version(dia_ort):
    assert dia_ort("--version") == (0, f"dia-ort {__version__}\n".encode(), "")


def test_help_has_the_exit_codes(dia_ort):
    code, out, _ = dia_ort("--help")
    assert code == 0
    for line in ("0    done", "1    it failed", "2    a mistake", "130  Ctrl-C", "141  nobody"):
        assert line.encode() in out
    assert dia_ort("-h").out == out


@pytest.mark.parametrize("arguments", [(), ("sing",), ("models", "--verbose"), ("info", "a", "b")])
def test_usage_errors(dia_ort, arguments):
    assert dia_ort(*arguments).code == 2


def test_models(dia_ort, copy):
    code, out, err = dia_ort("models")
    head, newest, last, *_ = out.decode().splitlines()
    assert (code, err) == (0, "")
    assert head.split() == ["NAME", "DTYPE", "SIZE", "SOURCE", "FOLDER"]
    assert newest.startswith("copy ")
    assert newest.endswith(str(copy))
    assert last.startswith("demo ")
    assert str(copy.parent) in out.decode()


def test_models_as_json(dia_ort, copy):
    first, last = json.loads(dia_ort("models", "--json").out)
    assert first["folder"] == str(copy)
    assert last == {
        "name": "demo",
        "dtype": DEMO.manifest.dtype,
        "size": sum(file.size for file in DEMO.manifest.files.values()),
        "source": DEMO.manifest.sources["model"].name,
        "folder": str(DEMO.folder),
    }


def test_models_that_are_broken_are_named(dia_ort, copy):
    edit_manifest(copy, lambda manifest: manifest.pop("codec"))
    code, out, err = dia_ort("models")
    assert code == 0
    assert str(copy / "manifest.json") in err
    assert "codec" in err
    assert b"demo" in out


def test_info(dia_ort):
    code, out, err = dia_ort("info", "demo")
    text = out.decode()
    assert (code, err) == (0, "")
    assert str(DEMO.folder) in text
    assert f"max_steps        {DEMO.manifest.model.max_steps}" in text
    assert "delay_pattern    0 8 9 10 11 12 13 14 15" in text
    for graph in DEMO.manifest.graphs:
        assert f"{graph.file} " in text
    for tool in DEMO.manifest.tools:
        assert tool in text
    for section in ("\nmodel\n", "\ncodec\n", "\ngraphs\n"):
        assert section in text
    assert text == dia_ort("info").out.decode()


def test_info_as_json(dia_ort):
    shown = json.loads(dia_ort("info", "demo", "--json").out)
    manifest = json.loads((DEMO.folder / "manifest.json").read_text("utf-8"))
    assert shown == {"name": "demo", "folder": str(DEMO.folder), "manifest": manifest}


def test_info_of_an_unverified_model(dia_ort, copy):
    edit_manifest(copy, lambda manifest: manifest.update(verification={}, quantization=None))
    out = dia_ort("info", "copy").out.decode()
    assert "not verified (--no-verify)" in out
    assert "quantized           no\n" in out
    assert "an utterance takes  " in out


@pytest.mark.parametrize("command", ["info", "verify"])
def test_models_that_are_not_there(dia_ort, tmp_path, command):
    code, out, err = dia_ort(command, "nosuch")
    assert (code, out) == (1, b"")
    assert "error: there is no model 'nosuch'" in err
    code, _, err = dia_ort(command, tmp_path)
    assert code == 1
    assert "manifest.json" in err


def test_verify(dia_ort):
    code, out, err = dia_ort("verify", "demo")
    lines = out.decode().splitlines()
    assert (code, err) == (0, "")
    for name in DEMO.manifest.files:
        assert any(line.startswith(f"ok       {name} (") for line in lines)
    for graph in DEMO.manifest.graphs:
        assert any(line.startswith(f"ok       {graph.file} loads") for line in lines)
    assert lines[-1] == "ok       speech is the same in company as alone, bit for bit"


def test_verify_finds_a_cpu_that_rounds_by_company(dia_ort, monkeypatch):
    real = Dia.generate_batch

    def other(self, texts, config):
        return [
            dataclasses.replace(audio, codes=audio.codes ^ 1) for audio in real(self, texts, config)
        ]

    monkeypatch.setattr(Dia, "generate_batch", other)
    code, out, _ = dia_ort("verify", "demo")
    assert code == 0
    assert out.decode().splitlines()[-1].startswith("DIFFERS  speech in company")


def test_verify_finds_a_changed_byte(dia_ort, copy):
    path = copy / "decoder.onnx.data"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    code, out, err = dia_ort("verify", "copy")
    assert code == 1
    assert b"CHANGED  decoder.onnx.data" in out
    assert b"ok       encoder.onnx (" in out
    assert "error: decoder.onnx.data in" in err
    assert b"loads" not in out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"Not found"), "has 9 bytes, not"),
    ],
)
def test_verify_finds_missing_and_cut_files(dia_ort, copy, damage, message):
    damage(copy / "encoder.onnx")
    code, _, err = dia_ort("verify", "copy")
    assert code == 1
    assert message in err


def test_verify_finds_a_graph_that_is_another(dia_ort, copy):
    """With hashes that fit, as a careless hand might mix two exports."""
    for suffix in ("", ".data"):
        shutil.copy(copy / f"dac_encoder.onnx{suffix}", copy / f"dac_decoder.onnx{suffix}")

    def mix(manifest):
        for name, file in manifest["files"].items():
            content = (copy / name).read_bytes()
            file.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    shutil.copy(copy / "dac_encoder.onnx.data", copy / "dac_decoder.onnx.data")
    edit_manifest(copy, mix)
    code, _, err = dia_ort("verify", "copy")
    assert code == 1
    assert "dac_decoder.onnx is not the graph of its manifest" in err


def test_verify_says_what_it_cannot_load(dia_ort, copy):
    def widen(manifest):
        for graph in manifest["graphs"]:
            if graph["file"] == "encoder.float16.onnx":
                graph["compute"] = "bfloat16"

    edit_manifest(copy, widen)
    code, out, _ = dia_ort("verify", "copy")
    assert code == 0
    assert b"skipped  encoder.float16.onnx: the CPU provider has no bfloat16 kernels" in out


def test_doctor(dia_ort, copy, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor, "available_providers", lambda: ["cpu"])
    code, out, _ = dia_ort("doctor")
    text = out.decode()
    assert code == 0
    assert "dia-ort can speak, with copy on " in text
    assert f"{__version__}\n" in text
    for word in ("numpy ", "soundfile ", "libsndfile ", "soxr ", "onnxruntime", "logical cores"):
        assert word in text
    assert "problem" not in text


def test_doctor_as_json(dia_ort):
    code, out, _ = dia_ort("doctor", "--json")
    found = json.loads(out)
    assert (code, found["can_speak"]) == (0, True)
    assert found["dia_ort"] == __version__
    assert "cpu" in found["providers"]
    assert [model["name"] for model in found["models"]] == ["demo"]
    assert found["cores"] >= 1


def problems(outcome, kind):
    return [line for line in outcome.out.decode().splitlines() if line.startswith(f"{kind}: ")]


def test_doctor_without_onnxruntime(dia_ort, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    providers.onnxruntime.cache_clear()
    outcome = dia_ort("doctor")
    [problem] = problems(outcome, "problem")
    assert outcome.code == 1
    assert "pip install 'dia-ort[cpu]'" in problem
    assert b"dia-ort cannot speak like this." in outcome.out


def test_doctor_with_two_onnxruntimes(dia_ort, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda _: "1.0")
    outcome = dia_ort("doctor")
    assert outcome.code == 0
    assert any("both installed" in warning for warning in problems(outcome, "warning"))


@pytest.mark.parametrize(
    ("found", "opened", "said"),
    [
        ("libcublas.so.13 is missing: do this.", None, "libcublas.so.13 is missing: do this."),
        (None, ProviderError("no kernel"), "no kernel"),
    ],
)
def test_doctor_where_cuda_does_not_start(dia_ort, monkeypatch, found, opened, said):
    def open_session(*_):
        raise opened

    monkeypatch.setattr(providers, "available_providers", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(doctor, "available_providers", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(doctor, "find_problem", lambda _: found)
    monkeypatch.setattr(doctor, "open_session", open_session)
    outcome = dia_ort("doctor")
    [problem] = problems(outcome, "problem")
    assert outcome.code == 1
    assert problem == f"problem: cuda does not start: {said} Meanwhile, --provider cpu speaks."


def test_doctor_where_webgpu_does_not_start(dia_ort, monkeypatch):
    """No fault of the set-up: nobody takes it but by name."""

    def resolve_provider(name):
        if name == "webgpu":
            raise ProviderError("no GPU.")
        return providers.resolve_provider(name)

    monkeypatch.setattr(doctor, "available_providers", lambda: ["cpu", "webgpu"])
    monkeypatch.setattr(doctor, "resolve_provider", resolve_provider)
    outcome = dia_ort("doctor")
    assert outcome.code == 0
    said = "webgpu does not start: no GPU. Meanwhile, --provider cpu speaks."
    assert f"warning: {said}" in problems(outcome, "warning")


@pytest.mark.skipif(os.name != "posix", reason="a program that is a shell's script")
def test_doctor_names_the_gpus(dia_ort, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 580.65.06'\n")
    program.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: str(program))
    monkeypatch.setattr(doctor, "available_providers", lambda: ["cpu"])
    assert b"NVIDIA H200, 143771 MiB, 580.65.06" in dia_ort("doctor").out


def test_doctor_with_a_gpu_that_is_not_used(dia_ort, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor, "available_providers", lambda: ["cpu"])
    outcome = dia_ort("doctor")
    assert outcome.code == 0
    assert any("NVIDIA" in warning for warning in problems(outcome, "warning"))


def test_doctor_without_audio_libraries(dia_ort, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    outcome = dia_ort("doctor")
    assert outcome.code == 1
    assert [line.split()[1] for line in problems(outcome, "problem")] == ["soundfile", "soxr"]


def test_doctor_without_models(dia_ort, monkeypatch):
    monkeypatch.setattr(doctor, "list_artifacts", list)
    outcome = dia_ort("doctor")
    assert outcome.code == 1
    assert "there is no model" in problems(outcome, "problem")[0]


def test_doctor_with_broken_models(dia_ort, copy):
    (copy / "encoder.onnx").unlink()
    outcome = dia_ort("doctor")
    assert outcome.code == 1
    assert "encoder.onnx is missing" in problems(outcome, "problem")[0]
    edit_manifest(copy, lambda manifest: manifest.update(version=99))
    outcome = dia_ort("doctor")
    assert outcome.code == 0
    assert any("version 99" in warning for warning in problems(outcome, "warning"))
