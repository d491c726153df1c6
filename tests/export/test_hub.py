"""Uploading exported models, against a stand-in for the hub."""

from types import SimpleNamespace

import pytest
from huggingface_hub.utils import filter_repo_objects

from dia_export import hub
from dia_export.errors import ExportError
from dia_export.hub import push_to_hub
from dia_ort.errors import ArtifactError, ArtifactNotFoundError
from dia_ort.manifest import MANIFEST_NAME, read_manifest
from support.artifacts import copy_demo


@pytest.fixture
def remote(monkeypatch):
    """Keeps the repositories that are made and the files that are uploaded; may refuse."""
    remote = SimpleNamespace(repos=[], uploads=[], error={})

    def create_repo(repo, **options):
        if "create" in remote.error:
            raise remote.error["create"]
        remote.repos.append((repo, options))

    def upload_folder(*, repo_id, folder_path, allow_patterns, commit_message):
        if "upload" in remote.error:
            raise remote.error["upload"]
        paths = [str(p.relative_to(folder_path)) for p in folder_path.rglob("*") if p.is_file()]
        files = set(filter_repo_objects(paths, allow_patterns=allow_patterns))
        remote.uploads.append((repo_id, files, commit_message))
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/0123")

    monkeypatch.setattr(hub.huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(hub.huggingface_hub, "upload_folder", upload_folder)
    return remote


@pytest.fixture
def folder(tmp_path):
    return copy_demo(tmp_path / "model")


def test_the_manifest_and_its_files_are_uploaded_and_nothing_else(remote, folder):
    (folder / "notes.txt").write_text("private")
    (folder / "old.onnx.data").write_text("of another export")
    (folder / "sub").mkdir()
    (folder / "sub" / MANIFEST_NAME).write_text("{}")
    (folder / "sub" / "decoder.onnx").write_text("another")
    address = push_to_hub(folder, "someone/dia")
    assert address == "https://huggingface.co/someone/dia/commit/0123"
    ((repo, files, message),) = remote.uploads
    assert repo == "someone/dia"
    assert files == {MANIFEST_NAME, *read_manifest(folder).files}
    assert "int8" in message


def test_new_repositories_are_private_and_old_ones_may_be_there(remote, folder):
    push_to_hub(folder, "someone/dia")
    assert remote.repos == [("someone/dia", {"private": True, "exist_ok": True})]


def test_damaged_models_are_refused(remote, folder):
    path = folder / "decoder.onnx.data"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"decoder.onnx.data was changed"):
        push_to_hub(folder, "someone/dia")
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="it was cut short"):
        push_to_hub(folder, "someone/dia")
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        push_to_hub(folder, "someone/dia")
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"has no manifest.json"):
        push_to_hub(folder, "someone/dia")
    assert remote.repos == remote.uploads == []


@pytest.mark.parametrize("step", ["create", "upload"])
@pytest.mark.parametrize(
    "error", [OSError("offline"), ValueError("offline"), RuntimeError("offline")]
)
def test_what_the_hub_refuses(remote, folder, step, error):
    remote.error[step] = error
    with pytest.raises(
        ExportError, match=r"someone/dia was not uploaded: offline. Log in with `hf a"
    ):
        push_to_hub(folder, "someone/dia")
    assert remote.uploads == []
