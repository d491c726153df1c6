"""Exported models to damage: copies of the demo, and edits of their manifests."""

import contextlib
import json
import shutil

from dia_ort.artifacts import find_artifact, hash_file
from dia_ort.manifest import MANIFEST_NAME


def copy_demo(folder):
    """A copy of the demo in `folder`, which may exist."""
    shutil.copytree(find_artifact("demo").folder, folder, dirs_exist_ok=True)
    return folder


@contextlib.contextmanager
def edit_manifest(folder):
    """The manifest as JSON; written back at the end."""
    path = folder / MANIFEST_NAME
    manifest = json.loads(path.read_text("utf-8"))
    yield manifest
    path.write_text(json.dumps(manifest), "utf-8")


def list_again(folder, *names):
    """Put the sizes and hashes that files have now into the manifest, as a forger would."""
    with edit_manifest(folder) as manifest:
        for name in names:
            path = folder / name
            manifest["files"][name] = {"size": path.stat().st_size, "sha256": hash_file(path)}
