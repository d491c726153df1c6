"""Finding a checkpoint's files: a local folder, a local file, or a Hugging Face hub id."""

import re
from pathlib import Path
from typing import Any

from dia_models.weight_files import CheckpointError, CheckpointNotFoundError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SAFETENSORS = ("config.json", "*.safetensors", "*.safetensors.index.json")
_PICKLES = ("config.json", "pytorch_model.bin", "*.pth")
# In the order of preference: what can be mapped first.
_WEIGHTS = ("*.safetensors.index.json", "*.safetensors", "pytorch_model.bin", "*.pth")
_USUAL_NAME = "model.safetensors"


def locate(source: str | Path, revision: str | None) -> tuple[Path, str | None]:
    """Find the weights (a file, or an index of shards) of a checkpoint, downloading if need be.

    A hub checkpoint that is in the local cache is found without a network.

    Args:
        source: A folder, a file, or a hub id such as "nari-labs/Dia-1.6B-0626".
        revision: Branch, tag or commit; for hub ids only.

    Returns:
        The file, and the commit that a hub id and revision stand for (None for local sources).

    Raises:
        CheckpointNotFoundError: Nothing is there; the message says what to do.
        CheckpointError: The source is ambiguous, or the hub refused.
    """
    path = Path(source).expanduser()
    is_local = path.exists()
    if is_local and revision is not None:
        raise CheckpointError(f"{path} is local: a revision ({revision}) applies to hub ids only")
    if path.is_dir():
        return _in_folder(path), None
    if is_local:
        return path, None
    if not _HUB_ID.fullmatch(str(source)):
        raise CheckpointNotFoundError(
            f"{source} is no folder and no file here, and no hub id (OWNER/NAME)"
        )
    folder = _download(str(source), revision, _SAFETENSORS)
    if _candidates(folder) is None:
        folder = _download(str(source), revision, _PICKLES)
    return _in_folder(folder), folder.name


def _candidates(folder: Path) -> list[Path] | None:
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            return files
    return None


def _in_folder(folder: Path) -> Path:
    """The weights of a folder: the usual name, or the only file there is."""
    files = _candidates(folder)
    if files is None:
        raise CheckpointNotFoundError(
            f"{folder} holds no weights: expected *.safetensors, pytorch_model.bin or *.pth"
        )
    usual = [file for file in files if file.name.startswith(_USUAL_NAME)]
    if len(usual or files) > 1:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(f"{folder} holds several checkpoints ({names}): name one file")
    return (usual or files)[0]


def _download(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Download the matching top-level files, or find them in the cache without a network."""
    try:
        from huggingface_hub import errors, snapshot_download  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise CheckpointError(
            f"{repo} is no folder here, and to download it huggingface_hub is needed: "
            "pip install 'dia-ort[export]'"
        ) from error
    try:
        folder: Any = snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
        )
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated: accept its terms at https://huggingface.co/{repo}, then run "
            "`hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{repo} is no folder here and not on the hub, or private: check the spelling, or run "
            "`hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointNotFoundError(f"{repo} has no revision {revision}") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{repo} is no folder here, not wholly in the local cache, and the hub can't be "
            "reached: connect to the network (and unset HF_HUB_OFFLINE), or pass a folder"
        ) from error
    except Exception as error:
        # The kinds of HTTP errors differ from one version of huggingface_hub to the next.
        raise CheckpointError(f"{repo} could not be downloaded: {error}") from error
    return Path(folder)
