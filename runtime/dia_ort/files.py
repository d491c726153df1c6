"""Writing files."""

import re
import secrets
from pathlib import Path

_PART = ".part"
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9])(\..*)?", re.IGNORECASE)


def is_reserved(name: str) -> bool:
    """Whether a name is a device's on Windows, where no file or folder can have it."""
    return _DEVICE.fullmatch(name) is not None


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or none, through links; devices and pipes are written to directly.

    Raises:
        OSError: It cannot be written.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    unfinished = _unfinished(target.parent)
    try:
        unfinished.write_bytes(content)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Try whether files can be made in a folder.

    With one name: tempfile, up to Python 3.12, tries names for hours where Windows refuses all of
    them.

    Raises:
        OSError: They cannot.
    """
    unfinished = _unfinished(folder)
    unfinished.touch(exist_ok=False)
    unfinished.unlink()


def _unfinished(folder: Path) -> Path:
    return folder / f".{secrets.token_hex(8)}{_PART}"


def remove_unfinished(folder: Path) -> None:
    """Delete what :func:`write_file` left in a folder, and below, when it was killed."""
    for path in folder.rglob(f".*{_PART}"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
