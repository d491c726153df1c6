"""Everything that dia_ort raises on purpose, and how it warns.

Each class has the package base :class:`DiaError` and the builtin that a caller would expect,
so ``except DiaError`` catches them all and ``except ValueError`` keeps its usual meaning.
The message always says what to do next.
"""

import inspect
import warnings


class DiaError(Exception):
    """The base of every error that dia_ort and dia_export raise on purpose."""


class InvalidTextError(DiaError, ValueError):
    """The script cannot be encoded: empty, too long, or with characters that the model lacks."""


class InvalidConfigError(DiaError, ValueError):
    """A generation setting is out of its range, or settings contradict each other."""


class InvalidAudioError(DiaError, ValueError):
    """Audio (or codes) given as a voice, or to be decoded, has the wrong shape, rate or content."""


class AudioFileError(DiaError, OSError):
    """An audio file cannot be read or written."""


class VoiceFileError(DiaError, OSError):
    """A voice is not there, its file cannot be read or written, or is no voice's."""


class ArtifactNotFoundError(DiaError, FileNotFoundError):
    """No exported model stands under that name or path."""


class ArtifactError(DiaError, ValueError):
    """An exported model is damaged, incomplete, or not what its manifest says."""


class UnsupportedVersionError(ArtifactError):
    """The manifest was written by a version of dia-ort that this one does not know."""


class ProviderError(DiaError, RuntimeError):
    """ONNX Runtime, or the execution provider that was asked for, is not to be had here."""


class MissingExtraError(DiaError, ImportError):
    """A part of dia-ort is asked for whose packages are not installed."""


class NumericalError(DiaError, FloatingPointError):
    """The model computed NaN or infinity."""


class GenerationCancelledError(DiaError, RuntimeError):
    """The generation was cancelled before its end."""


class QueueFullError(DiaError, RuntimeError):
    """The engine has as many requests as it may hold; take this one elsewhere, or later."""


class EngineClosedError(DiaError, RuntimeError):
    """The engine was closed: it takes no more requests, or gave this one up."""


class EngineDiedError(DiaError, RuntimeError):
    """The engine's thread ended by an error that was no single request's; open another engine."""


def warn_caller(message: str) -> None:
    """Warn of a line that called into this package, however deep inside it is noticed."""
    frame, level = inspect.currentframe(), 1
    package = __name__.partition(".")[0]
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
