"""Where voices are kept by name.

A voice's name is the name of its file in :func:`voices_folder`, or of one that comes with the demo,
and can lead nowhere else.
"""

import os
import re
from pathlib import Path

from dia_ort.errors import InvalidConfigError, VoiceFileError
from dia_ort.files import is_reserved

SUFFIX = ".voice"

_BUILT_IN = Path(__file__).parent / "demo" / "voices"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def voices_folder() -> Path:
    """Where voices are kept by name.

    ``voices`` in ``$DIA_ORT_HOME``, else in ``dia-ort`` in the user's data folder: unlike models,
    they may be impossible to make again, so they are in no cache.
    """
    if home := os.environ.get("DIA_ORT_HOME"):
        return Path(home).expanduser() / "voices"
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "dia-ort" / "voices"


def voice_file(name: str) -> Path:
    """The file of a voice that is kept (or to be kept) by name.

    Raises:
        InvalidConfigError: It is no such name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidConfigError(
            f"{name!r} is no name for a voice: take up to 64 letters (a to z), digits, - and _, "
            "the first of them a letter or digit"
        )
    if is_reserved(name):
        raise InvalidConfigError(
            f"{name!r} is no name for a voice: on Windows it is a device's. Take another"
        )
    return voices_folder() / f"{name}{SUFFIX}"


def locate_voice(voice: str | os.PathLike[str]) -> Path:
    """The file of a voice: a text that is a valid name is one, and all else is a path.

    Raises:
        InvalidConfigError: It would be a name, but is a device's on Windows.
    """
    if isinstance(voice, str) and _NAME.fullmatch(voice):
        return voice_file(voice)
    return Path(voice)


def find_voice(voice: str | os.PathLike[str]) -> Path:
    """The file to read a voice from: that of :func:`locate_voice`, else the built-in one.

    It may not be there.

    Raises:
        InvalidConfigError: As in :func:`locate_voice`.
    """
    path = locate_voice(voice)
    built_in = _BUILT_IN / path.name
    if path.parent == voices_folder() and not path.exists() and built_in.is_file():
        return built_in
    return path


def list_built_in_voices() -> list[Path]:
    """The files of the demo's voices, by name, but for those whose name is taken."""
    return [path for path in sorted(_BUILT_IN.glob(f"*{SUFFIX}")) if find_voice(path.stem) == path]


def list_voice_files() -> list[Path]:
    """All files of the folder that end as voices do, by name, whether they read or not."""
    return sorted(voices_folder().glob(f"[!.]*{SUFFIX}"))


def remove_voice(name: str) -> Path:
    """Delete a voice that is kept by name; returns the file that is gone.

    Raises:
        InvalidConfigError: It is no name.
        VoiceFileError: There is no such voice, or its file cannot be deleted.
    """
    path = voice_file(name)
    try:
        path.unlink()
    except FileNotFoundError:
        if find_voice(name) != path:
            raise VoiceFileError(f"the voice {name!r} comes with dia-ort, and stays") from None
        raise missing_voice(path) from None
    except OSError as error:
        raise VoiceFileError(f"cannot delete {path}: {error.strerror}") from error
    return path


def missing_voice(path: Path) -> VoiceFileError:
    """The error for a voice whose file is not there."""
    if path.parent != voices_folder():
        return VoiceFileError(f"there is no voice file {path}")
    names = ", ".join(file.stem for file in [*list_voice_files(), *list_built_in_voices()])
    return VoiceFileError(
        f"there is no voice {path.stem!r} in {path.parent}; there are: {names}. Add it with "
        f"`dia-ort voice add`, or give a file with its folder (./{path.stem})"
    )
