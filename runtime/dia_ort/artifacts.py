"""Where exported models stand, and whether their files are what they should be."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dia_ort.errors import ArtifactError, ArtifactNotFoundError, warn_caller
from dia_ort.manifest import MANIFEST_NAME, Manifest, read_manifest

DEMO = "demo"
"""The built-in model: a tiny Dia of 32 words."""

_READ_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """An exported model on disk.

    Attributes:
        name: As ``Dia.load`` and ``--model`` take it.
        folder: Where its files are.
        manifest: What it says of itself.
    """

    name: str
    folder: Path
    manifest: Manifest

    @property
    def is_demo(self) -> bool:
        """Whether it is the built-in model."""
        return self.folder == _demo_folder()


def models_folder() -> Path:
    """Where ``dia-export`` writes by default and dia-ort looks first.

    ``$DIA_ORT_HOME``, else ``dia-ort`` in the user's cache folder.
    """
    if home := os.environ.get("DIA_ORT_HOME"):
        return Path(home).expanduser()
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dia-ort"


def list_artifacts() -> list[Artifact]:
    """All models that can be loaded by name: the exported ones, the newest first, then the demo.

    Folders whose manifest does not read are left out; loading them by name says why.
    """
    # Hidden folders are exports that were never finished, or replaced.
    folders = [f.parent for f in models_folder().glob(f"[!.]*/{MANIFEST_NAME}")]
    folders.sort(key=lambda f: (f / MANIFEST_NAME).stat().st_mtime, reverse=True)
    artifacts = []
    for name, folder in [*((f.name, f) for f in folders), (DEMO, _demo_folder())]:
        try:
            artifacts.append(Artifact(name, folder, read_manifest(folder)))
        except (ArtifactError, ArtifactNotFoundError):
            continue
    return artifacts


def broken_models() -> Iterator[str]:
    """What is wrong with the models that :func:`list_artifacts` leaves out."""
    for path in sorted(models_folder().glob(f"[!.]*/{MANIFEST_NAME}")):
        try:
            read_manifest(path.parent)
        except ArtifactError as error:
            yield str(error)


def find_artifact(
    model: str | os.PathLike[str] | None = None, revision: str | None = None
) -> Artifact:
    """Find a model and check that its files are there, in their right sizes.

    Args:
        model: A folder; a name under :func:`models_folder`; ``"demo"``; a Hugging Face Hub id of
            an exported model; or None for the newest exported model, the demo if there is none,
            with a warning of each whose manifest does not read.
        revision: Of a hub id.

    Raises:
        ArtifactNotFoundError: There is no such model (the message lists those there are), or a
            revision is given for another than a hub id.
        ArtifactError: Its manifest or its files are not what they must be.
    """
    if model is None:
        if revision is not None:
            raise ArtifactNotFoundError(f"revision is {revision!r}, of no model: name one.")
        for message in broken_models():
            warn_caller(message)
        artifact = next(iter(list_artifacts()), None)
        if artifact is None:
            raise ArtifactNotFoundError(
                f"there is no model in {models_folder()}, nor the demo that dia-ort brings: "
                "install dia-ort again, or make one with `dia-export`."
            )
    else:
        name, folder = _locate(model, revision)
        artifact = Artifact(name, folder, read_manifest(folder))
    check_sizes(artifact)
    return artifact


def check_sizes(artifact: Artifact) -> None:
    """Hold each file's size against the manifest.

    Raises:
        ArtifactError: A file is missing or has another size.
    """
    for name, info in artifact.manifest.files.items():
        path = artifact.folder / name
        try:
            size = path.stat().st_size if path.is_file() else None
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        if size is None:
            raise ArtifactError(f"{path} is missing; export the model again.")
        if size != info.size:
            raise ArtifactError(
                f"{path} has {size} bytes, not {info.size}: it was cut short or replaced. Export "
                "(or download) the model again."
            )


def check_unchanged(artifact: Artifact) -> None:
    """Hold a model that was loaded against what is in its folder now.

    Raises:
        ArtifactError: It was exported again, or removed.
    """
    try:
        if read_manifest(artifact.folder) == artifact.manifest:
            return
    except (ArtifactError, ArtifactNotFoundError):
        pass
    raise ArtifactError(
        f"the model in {artifact.folder} was exported again, or removed, since it was loaded: load "
        "it again."
    )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        ArtifactError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


def check_hashes(artifact: Artifact) -> None:
    """Hold each file's content against the manifest.

    Raises:
        ArtifactError: A file's SHA-256 is another one.
    """
    check_sizes(artifact)
    for name, info in artifact.manifest.files.items():
        if hash_file(artifact.folder / name) != info.sha256:
            raise ArtifactError(
                f"{artifact.folder / name} was changed: its SHA-256 is not the manifest's. Export "
                "(or download) the model again."
            )


def _demo_folder() -> Path:
    return Path(__file__).parent / DEMO


def _locate(model: str | os.PathLike[str], revision: str | None) -> tuple[str, Path]:
    text = os.fspath(model)
    if found := _locate_here(text):
        if revision is not None:
            raise ArtifactNotFoundError(
                f"revision is {revision!r}, and {text!r} is a model here: only those on the "
                "Hugging Face Hub have revisions. Leave it out."
            )
        return found
    if text.count("/") == 1 and not Path(text).is_absolute() and not text.startswith((".", "~")):
        return text, _download(text, revision)
    names = ", ".join(a.name for a in list_artifacts())
    raise ArtifactNotFoundError(
        f"there is no model {text!r}: it is no folder, and the models here are {names}. "
        "Make one with `dia-export`."
    )


def _locate_here(text: str) -> tuple[str, Path] | None:
    folder = _folder(text)
    if folder is not None and (folder / MANIFEST_NAME).is_file():
        return folder.resolve().name, folder
    if text == DEMO:
        return DEMO, _demo_folder()
    is_name = Path(text).name == text and not text.startswith(".")
    if is_name and (named := _folder(models_folder() / text)):
        return text, named
    if folder is not None:  # of no model, which reading it will say
        return folder.resolve().name, folder
    return None


def _folder(path: str | Path) -> Path | None:
    """The folder at a path; None where there is none, or none can be."""
    try:
        folder = Path(path).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, the home of nobody, a NUL
        return None


def _download(repo: str, revision: str | None) -> Path:
    """Fetch an exported model from the Hugging Face Hub, or find it in the hub's cache."""
    try:
        import huggingface_hub  # noqa: PLC0415 - the optional extra `hub`
    except ImportError:
        raise ArtifactNotFoundError(
            f"{repo!r} is no folder here. To load it from the Hugging Face Hub: "
            "pip install 'dia-ort[hub]'."
        ) from None
    patterns = [MANIFEST_NAME, "*.onnx", "*.onnx.data"]
    try:
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
        )
    except Exception as error:  # the hub's errors share no base, and some are OSError
        raise ArtifactNotFoundError(
            f"{repo!r} is no folder here, and the Hugging Face Hub does not give it: {error}"
        ) from error
