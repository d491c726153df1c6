"""Uploads an exported model to the Hugging Face Hub."""

from pathlib import Path

import huggingface_hub

from dia_export.errors import ExportError
from dia_ort.artifacts import Artifact, check_hashes
from dia_ort.manifest import MANIFEST_NAME, read_manifest


def push_to_hub(folder: Path, repo: str) -> str:
    """Upload an artifact folder, after a check of its hashes.

    Args:
        folder: An exported model.
        repo: ``"user/name"``; made, private to begin with, if it does not exist.

    Returns:
        The address of the upload.

    Raises:
        ArtifactError: The folder is not what its manifest says.
        ExportError: The hub refuses; the message has its reason.
    """
    manifest = read_manifest(folder)
    check_hashes(Artifact(folder.name, folder, manifest))
    try:
        huggingface_hub.create_repo(repo, private=True, exist_ok=True)
        commit = huggingface_hub.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[MANIFEST_NAME, *manifest.files],
            commit_message=f"dia-ort artifact, {manifest.dtype}",
        )
    except Exception as error:  # the hub's errors share no base of their own
        raise ExportError(
            f"{repo} was not uploaded: {error}. Log in with `hf auth login`, and check the name."
        ) from error
    return str(commit.commit_url)
