"""Writing files."""

import re
import secrets
from pathlib import Path

_PART = ".part"
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.part")


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or none, through links; devices and pipes are written to directly.

    Raises:
        OSError: It cannot be written.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    unfinished = target.with_name(f".{secrets.token_hex(8)}{_PART}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what :func:`write_file` left in a folder, and below, when it was killed."""
    for path in folder.rglob(f".*{_PART}"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
