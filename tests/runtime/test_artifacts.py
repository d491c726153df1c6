"""Finding exported models, and refusing damaged ones."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dia_ort import Dia, GenerationConfig, placement
from dia_ort.artifacts import (
    check_hashes,
    find_artifact,
    hash_file,
    list_artifacts,
    models_folder,
)
from dia_ort.errors import ArtifactError, ArtifactNotFoundError, DiaError, UnsupportedVersionError
from dia_ort.manifest import VERSION
from support.artifacts import copy_demo, edit_manifest, list_again

FILES = sorted(find_artifact("demo").manifest.files)


@pytest.fixture(autouse=True)
def same_files(monkeypatch):
    """Those that x86 with VNNI runs; tests/runtime/test_levels.py has the others."""
    monkeypatch.setattr(placement, "products_overflow", lambda: False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder of models, and an empty working folder."""
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    return tmp_path / "models"


@pytest.fixture
def model(home):
    """A copy of the demo named ``model``, removed at the end: it has 15 MB."""
    yield copy_demo(home / "model")
    shutil.rmtree(home, ignore_errors=True)


def linked_demo(folder, age=0):
    """The demo under another name, without its bytes, exported so many seconds ago."""
    source = find_artifact("demo").folder
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, folder)
        else:
            (folder / file.name).symlink_to(file)
    time = 1_700_000_000 - age
    os.utime(folder / "manifest.json", (time, time))
    return folder


# Where models are found


def test_where_models_are(monkeypatch, tmp_path):
    monkeypatch.setenv("DIA_ORT_HOME", "~/voices")
    assert models_folder() == Path.home() / "voices"
    monkeypatch.setenv("DIA_ORT_HOME", "")
    if os.name != "nt":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert models_folder() == tmp_path / "dia-ort"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert models_folder() == Path.home() / ".cache" / "dia-ort"


def test_the_demo_is_all_there_is_at_first(home):
    home.rmdir()
    assert [artifact.name for artifact in list_artifacts()] == ["demo"]
    assert find_artifact().name == find_artifact("demo").name == "demo"
    assert find_artifact().manifest.dtype == "int8"


def test_the_newest_comes_first(home):
    for name, age in (("old", 100), ("new", 1), ("middle", 50)):
        linked_demo(home / name, age)
    assert [artifact.name for artifact in list_artifacts()] == ["new", "middle", "old", "demo"]
    assert find_artifact().name == "new"
    assert find_artifact("old").folder == home / "old"


def test_folders(home, monkeypatch):
    folder = linked_demo(home.parent / "elsewhere" / "mine")
    for path in (folder, str(folder), "../../elsewhere/mine", "../../elsewhere/mine/"):
        assert find_artifact(path).name == "mine"
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setenv("USERPROFILE", str(home.parent))
    assert find_artifact("~/elsewhere/mine").folder == folder
    monkeypatch.chdir(folder)
    assert find_artifact(".").name == "mine"


def test_a_folder_of_something_else_does_not_hide_a_name(home):
    linked_demo(home / "mine")
    for name in ("demo", "mine", "other"):
        Path(name).mkdir()
    assert find_artifact("demo").manifest.dtype == "int8"
    assert find_artifact("mine").folder == home / "mine"
    with pytest.raises(ArtifactNotFoundError, match="other is no exported model: it has no manif"):
        find_artifact("other")


def test_broken_models_are_not_listed_but_say_why(home):
    linked_demo(home / "newer")
    with edit_manifest(home / "newer") as manifest:
        manifest["version"] = VERSION + 1
    (home / "empty").mkdir()
    linked_demo(home / ".hidden.x1y2.partial")
    linked_demo(home / ".hidden.x1y2.old")
    (home / "dangling").symlink_to(home / "nowhere")
    assert [artifact.name for artifact in list_artifacts()] == ["demo"]
    with pytest.raises(
        UnsupportedVersionError, match=f"newer.manifest.json has format version {VERSION + 1}"
    ):
        find_artifact("newer")
    with pytest.warns(UserWarning, match=f"newer.manifest.json has format version {VERSION + 1}"):
        assert find_artifact().name == "demo"
    with pytest.raises(ArtifactNotFoundError, match="empty is no exported model"):
        find_artifact("empty")
    with pytest.raises(ArtifactNotFoundError, match=r"there is no model '.hidden.x1y2.old'"):
        find_artifact(".hidden.x1y2.old")


@pytest.mark.parametrize("removed", [False, True])
def test_a_model_that_was_exported_again_is_not_mixed(home, removed):
    """Some files are opened when they are needed."""
    linked_demo(home / "mine")
    dia = Dia.load("mine", provider="cpu")
    dia.generate_codes("[S1] yes.", GenerationConfig(max_tokens=20))
    if removed:
        shutil.rmtree(home / "mine")
    else:
        with edit_manifest(home / "mine") as manifest:
            manifest["sources"]["model"]["name"] = "another"
    for late in (
        lambda: dia.generate_codes("[S1] yes."),
        lambda: dia.encode_audio(np.zeros(44100), 44100),
    ):
        with pytest.raises(ArtifactError, match=r"mine was exported again, .*: load it again"):
            late()


def test_a_revision_of_a_model_that_is_here():
    with pytest.raises(ArtifactNotFoundError, match=r"revision is 'main', and 'demo' .* here"):
        find_artifact("demo", "main")
    with pytest.raises(ArtifactNotFoundError, match=r"revision is 'main', of no model"):
        find_artifact(None, "main")


@pytest.mark.parametrize(
    "name",
    ["nobody", "", "Demo", "../secret", "..", "/secret", "a" * 300, "demo\0", "~nobody/x", "a/b/c"],
)
def test_what_is_no_model(home, name):
    linked_demo(home.parent / "secret")  # beside the folder of models, not in it
    linked_demo(home / "mine")
    with pytest.raises(ArtifactNotFoundError) as error:
        find_artifact(name)
    if name not in {"", ".."}:  # those are folders
        assert repr(name) in str(error.value)
        assert "the models here are mine, demo. Make one with `dia-export`" in str(error.value)


def test_no_model_at_all(home, monkeypatch):
    monkeypatch.setattr("dia_ort.artifacts._demo_folder", lambda: home / "demo")
    with pytest.raises(ArtifactNotFoundError, match="install dia-ort again, or make one with"):
        find_artifact()


# Models on the hub


@pytest.fixture
def hub(home, monkeypatch):
    """A stand-in for huggingface_hub that serves the demo and keeps the calls."""

    def snapshot_download(repo, **options):
        hub.calls.append((repo, options))
        if hub.error is not None:
            raise hub.error
        return str(hub.folder)

    hub = SimpleNamespace(
        calls=[],
        error=None,
        folder=find_artifact("demo").folder,
        snapshot_download=snapshot_download,
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


def test_a_hub_id(hub):
    artifact = find_artifact("someone/dia-int8", revision="v2")
    assert (artifact.name, artifact.folder) == ("someone/dia-int8", hub.folder)
    ((repo, options),) = hub.calls
    assert (repo, options["revision"]) == ("someone/dia-int8", "v2")
    assert set(options["allow_patterns"]) == {"manifest.json", "*.onnx", "*.onnx.data"}


def test_a_hub_id_of_something_else(hub, tmp_path):
    hub.folder = tmp_path
    with pytest.raises(ArtifactNotFoundError, match=r"it has no manifest.json"):
        find_artifact("nari-labs/Dia-1.6B")


@pytest.mark.parametrize("error", [OSError("you are offline"), RuntimeError("you are offline")])
def test_the_hub_fails(hub, error):
    hub.error = error
    with pytest.raises(
        ArtifactNotFoundError, match=r"'a/b' is no folder here, .*: you are offline"
    ):
        find_artifact("a/b")


def test_without_huggingface_hub_the_extra_is_named(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ArtifactNotFoundError, match=r"pip install 'dia-ort\[hub\]'"):
        find_artifact("someone/dia-int8")


def test_the_layout_of_the_hubs_cache(tmp_path):
    """Snapshots are links to blobs in another folder, and a graph must find its weights there."""
    snapshot, blobs = tmp_path / "snapshots" / "0123abcd", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    copy_demo(blobs)
    for file in [path for path in blobs.iterdir() if path.is_file()]:
        blob = file.rename(blobs / hash_file(file))
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    check_hashes(find_artifact(snapshot))
    Dia.load(snapshot, provider="cpu")
    shutil.rmtree(blobs)


# Damage


def test_an_undamaged_copy(model):
    check_hashes(find_artifact("model"))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(home, name):
    (linked_demo(home / "model") / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing; export the model again"):
        find_artifact("model")


@pytest.mark.parametrize("change", [-1, 1, -1000])
def test_a_file_of_another_size(model, change):
    path = model / "decoder.onnx.data"
    size = path.stat().st_size
    os.truncate(path, size + change)
    with pytest.raises(ArtifactError, match=f"has {size + change} bytes, not {size}: it was cut"):
        Dia.load("model", provider="cpu")


def test_a_folder_in_place_of_a_file(home):
    model = linked_demo(home / "model")
    (model / "decoder.onnx").unlink()
    (model / "decoder.onnx").mkdir()
    with pytest.raises(ArtifactError, match=r"decoder.onnx is missing"):
        find_artifact("model")


def test_a_name_too_long_for_the_disk(home):
    with edit_manifest(linked_demo(home / "model")) as manifest:
        manifest["graphs"][0]["file"] = name = "x" * 300
        manifest["files"][name] = manifest["files"].pop("encoder.onnx")
    with pytest.raises(ArtifactError):
        find_artifact("model")


@pytest.mark.parametrize("name", FILES)
def test_an_edited_file_of_the_same_size(model, name):
    with (model / name).open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        byte = file.read(1)
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    artifact = find_artifact("model")  # that is for `dia-ort verify` to find
    with pytest.raises(ArtifactError, match=f"{name} was changed: its SHA-256 is not the manifest"):
        check_hashes(artifact)


def test_a_file_that_cannot_be_read(home, monkeypatch):
    linked_demo(home / "model")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    artifact = find_artifact("model")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ArtifactError, match=r"cannot be read: .* Permission denied"):
        check_hashes(artifact)


@pytest.mark.parametrize(
    ("one", "other"),
    [("encoder", "decoder"), ("dac_encoder", "dac_decoder"), ("decoder", "dac_decoder")],
)
def test_swapped_graphs(model, one, other):
    """Even under sizes and hashes that fit: each graph's interface is held against its own."""
    first, second, aside = (model / f"{name}.onnx" for name in (one, other, "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    list_again(model, first.name, second.name)
    with pytest.raises(ArtifactError, match="is not the graph of its manifest"):
        # The DAC encoder is loaded when it is needed.
        Dia.load("model", provider="cpu").encode_audio(np.zeros(44100), 44100)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_layers", 3), ("num_layers", 5), ("num_kv_heads", 4), ("vocab_size", 1029)],
)
def test_a_manifest_of_another_model(home, key, value):
    with edit_manifest(linked_demo(home / "model")) as manifest:
        manifest["model"][key] = value
    with pytest.raises(ArtifactError, match="is not the graph of its manifest"):
        Dia.load("model", provider="cpu")


def test_a_manifest_of_another_dtype(home):
    with edit_manifest(linked_demo(home / "model")) as manifest:
        swapped = {"float16": "float32", "float32": "float16"}
        for graph in manifest["graphs"]:
            if graph["graph"] == "decoder" and not graph["provider"]:
                graph["compute"] = swapped[graph["compute"]]
    with pytest.raises(
        ArtifactError, match=r"input is .*tensor\(float16\).* not .*tensor\(float\)"
    ):
        Dia.load("model", provider="cpu")


@pytest.mark.parametrize("content", [b"\0", b"\xff", b"{}\n", b"onnx "])
def test_garbage_of_the_right_size(model, content):
    path = model / "encoder.onnx"
    size = path.stat().st_size
    path.write_bytes((content * size)[:size])
    with pytest.raises(ArtifactError, match=r"encoder.onnx does not load: .* `dia-ort verify`"):
        Dia.load("model", provider="cpu")


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.onnx.data", "decoder.onnx.data"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_truncated_file_under_its_own_size(model, name, share):
    os.truncate(model / name, int((model / name).stat().st_size * share))
    list_again(model, name)
    with pytest.raises(ArtifactError, match=r"does not load|is not within its weight file"):
        Dia.load("model", provider="cpu")


@pytest.mark.parametrize("place", ["../weights.secret", "/weights.external", "a/../../outside.x"])
def test_weights_outside_the_folder(model, place):
    """A graph names its file of weights by itself; onnxruntime must refuse to follow it out."""
    name = b"encoder.onnx.data"
    assert len(name) == len(place)  # so that the protobuf around it holds
    graph = model / "encoder.onnx"
    assert name in graph.read_bytes()
    graph.write_bytes(graph.read_bytes().replace(name, place.encode()))
    list_again(model, graph.name)
    (model / "a").mkdir()
    if not place.startswith("/"):
        shutil.copy(model / name.decode(), model / place)
    with pytest.raises(ArtifactError, match="does not load"):
        Dia.load("model", provider="cpu")


def test_every_error_is_a_dia_error():
    assert issubclass(ArtifactError, DiaError)
    assert issubclass(ArtifactNotFoundError, FileNotFoundError)
    assert issubclass(UnsupportedVersionError, ArtifactError)
