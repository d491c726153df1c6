"""From a script to the byte tokens that the text encoder reads.

Dia has no tokenizer: a token is a UTF-8 byte, and the speaker tags ``[S1]`` and ``[S2]`` are the
bytes 1 and 2. Nothing marks the beginning or the end.
"""

import numpy as np
from numpy.typing import NDArray

from dia_ort.errors import InvalidTextError

SPEAKER_TAGS = {"[S1]": "\x01", "[S2]": "\x02"}


def encode_text(
    text: str, max_bytes: int, vocab_size: int = 256, *, name: str = "script"
) -> NDArray[np.int64]:
    """Encode a script as byte tokens. A script is never cut.

    Args:
        text: The script, with its speaker tags.
        max_bytes: The most tokens that the model takes; a speaker tag counts as one.
        vocab_size: The size of the model's text vocabulary.
        name: What errors call it.

    Returns:
        The tokens, shape ``(bytes,)``, each from 1 to ``vocab_size - 1``.

    Raises:
        InvalidTextError: The script has no words, is too long, or holds characters that the
            model cannot read.
    """
    if not isinstance(text, str):
        raise InvalidTextError(
            f"the {name} is {type(text).__name__}, not str: decode bytes, and give one script"
        )
    _refuse_reserved_characters(text, name)
    for tag, byte in SPEAKER_TAGS.items():
        text = text.replace(tag, byte)
    if not text.translate(dict.fromkeys((1, 2))).strip():
        raise InvalidTextError(
            f"the {name} has no words: write something like '[S1] Hello. [S2] Hi!'"
        )
    tokens = np.frombuffer(_encode_utf8(text, name), np.uint8).astype(np.int64)
    if tokens.size > max_bytes:
        raise InvalidTextError(
            f"the {name} is {tokens.size} bytes long (a speaker tag counts as one), and this "
            f"model takes {max_bytes}: split it into several scripts"
        )
    if tokens.max() >= vocab_size:
        unknown = sorted({char for char in text if max(char.encode()) >= vocab_size})
        raise InvalidTextError(
            f"this model's text vocabulary ends at byte {vocab_size - 1}, and the {name} has "
            f"{', '.join(map(repr, unknown[:10]))}: replace or remove these characters"
        )
    return tokens


def has_speaker_tag(text: str) -> bool:
    """Whether the script says who speaks: without a tag Dia picks a voice, often a poor one."""
    return any(tag in text for tag in SPEAKER_TAGS)


def _refuse_reserved_characters(text: str, name: str) -> None:
    if "\0" in text:
        raise InvalidTextError(
            f"the {name} has a NUL character at position {text.index(chr(0))}, which the model "
            "reads as padding: remove it"
        )
    for tag, byte in SPEAKER_TAGS.items():
        if byte in text:
            raise InvalidTextError(
                f"the {name} has the control character {byte!r} at position {text.index(byte)}: "
                f"if a speaker tag is meant, write {tag}, else remove it"
            )


def _encode_utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(
            f"the {name} has the lone surrogate {text[error.start]!r}, which is not a character: "
            "the text was decoded wrongly; read it as UTF-8"
        ) from error
