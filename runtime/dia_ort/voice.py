"""A voice to speak with: the codes of a recording, and what is said in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dia_ort.errors import InvalidAudioError, InvalidTextError


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A recording that generation goes on from, in the same voices.

    Attributes:
        codes: The codec's codes of the recording, integers of shape ``(frames, channels)``; kept
            as a read-only copy.
        transcript: What the recording says, with its speaker tags; it goes before the text.

    Raises:
        InvalidAudioError: The codes have another shape or type, no frames, or negative values.
        InvalidTextError: The transcript is not a str.
    """

    codes: NDArray[np.integer]
    transcript: str = ""

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if not np.issubdtype(codes.dtype, np.integer):
            raise InvalidAudioError(f"a voice's codes are {codes.dtype}: give integers")
        if codes.ndim != 2 or not codes.size:
            raise InvalidAudioError(
                f"a voice's codes have shape {codes.shape}: give (frames, channels), and at least "
                "one frame"
            )
        if codes.min() < 0:
            raise InvalidAudioError(
                f"a voice's codes go down to {codes.min()}: give codes of the codec, 0 or more"
            )
        if not isinstance(self.transcript, str):
            raise InvalidTextError(
                f"a voice's transcript is {type(self.transcript).__name__}: give a str"
            )
        codes = codes.astype(np.int64)
        codes.flags.writeable = False
        object.__setattr__(self, "codes", codes)

    def script(self, text: str) -> str:
        """The whole script: the transcript, then the text to be spoken."""
        transcript = self.transcript.strip()
        return f"{transcript} {text}" if transcript else text
