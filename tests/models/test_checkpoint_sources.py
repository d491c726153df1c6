"""Where checkpoints are looked for: folders, files, the hub and its cache."""

import sys
from unittest.mock import MagicMock

import pytest
import torch
from huggingface_hub import errors

from dia_models import CheckpointError, CheckpointNotFoundError, open_dac, open_dia
from support.nari_checkpoint import save_tiny_checkpoint


@pytest.fixture
def folder(tmp_path):
    save_tiny_checkpoint(tmp_path / "saved", "0626", seed=0)
    return tmp_path / "saved"


def test_nowhere(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no folder and no file"):
        open_dia(tmp_path / "nothing")
    with pytest.raises(CheckpointNotFoundError, match="holds no weights"):
        open_dia(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_dac("just-a-name")


def test_ambiguous_folder(tmp_path):
    for name in ("a.pth", "b.pth"):
        torch.save({}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"a.pth, b.pth"):
        open_dac(tmp_path)


def test_revision_of_a_folder(folder):
    with pytest.raises(CheckpointError, match="hub ids only"):
        open_dia(folder, revision="main")


def fake_download(monkeypatch, folder=None, error=None):
    """Let the hub give `folder`, or fail; returns the calls."""
    calls = []

    def snapshot_download(repo, **options):
        calls.append((repo, options))
        if error is not None:
            raise error
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


def test_hub_id(monkeypatch, folder):
    calls = fake_download(monkeypatch, folder)
    checkpoint = open_dia("someone/dia", revision="v2")
    assert (checkpoint.source, checkpoint.revision) == ("someone/dia", folder.name)
    ((repo, options),) = calls
    assert (repo, options["revision"]) == ("someone/dia", "v2")
    assert not any(pattern.endswith("pth") for pattern in options["allow_patterns"])


def test_pickles_are_downloaded_only_if_need_be(monkeypatch, tmp_path):
    save_tiny_checkpoint(tmp_path, "first", seed=0)
    (pth,) = tmp_path.glob("*.pth")
    remote = pth.rename(tmp_path / "remote")
    calls = []

    def snapshot_download(repo, **options):
        calls.append(repo)
        if "*.pth" in options["allow_patterns"]:
            remote.rename(pth)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert open_dia("someone/dia").layout == "nari"
    assert len(calls) == 2


def http_error(kind):
    """As the hub raises it; the HTTP library beneath differs from version to version."""
    return kind("x", response=MagicMock(headers={}))


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (errors.LocalEntryNotFoundError("x"), CheckpointNotFoundError, "pass a folder"),
        (http_error(errors.GatedRepoError), CheckpointError, "accept its terms"),
        (http_error(errors.RepositoryNotFoundError), CheckpointNotFoundError, "spelling"),
        (http_error(errors.RevisionNotFoundError), CheckpointNotFoundError, "no revision v9"),
        (RuntimeError("boom"), CheckpointError, "could not be downloaded: boom"),
    ],
)
def test_hub_errors_have_remedies(monkeypatch, error, kind, remedy):
    fake_download(monkeypatch, error=error)
    with pytest.raises(kind, match=remedy):
        open_dia("someone/dia", revision="v9")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"dia-ort\[export\]"):
        open_dia("someone/dia")


def cache(folder, root):
    """Lay `folder` out as the hub's cache does; returns the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = root / "models--someone--dia"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    folder.rename(repo / "snapshots" / commit)
    return commit


def test_cached_and_offline(monkeypatch, folder, tmp_path):
    commit = cache(folder, tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    checkpoint = open_dia("someone/dia")
    assert checkpoint.revision == commit
    assert all(weight.load().shape == weight.shape for weight in checkpoint.weights.values())
    with pytest.raises(CheckpointNotFoundError, match="HF_HUB_OFFLINE"):
        open_dia("someone/else")
    with pytest.raises(CheckpointNotFoundError, match="cache"):
        open_dia("someone/dia", revision="v3")
