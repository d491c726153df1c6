"""Dia text-to-speech on ONNX Runtime, without torch.

from dia_ort import Dia
Dia.load("demo").generate("[S1] hello world.").save("hello.wav")
"""

from dia_ort._version import __version__
from dia_ort.audio import Audio, AudioChunk, read_audio, write_audio
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.engine import Engine, EngineStats, GenerationHandle
from dia_ort.errors import DiaError
from dia_ort.live import LiveNarrator, LiveSpeech
from dia_ort.narration import (
    Attempt,
    NarratedChunk,
    Narration,
    NarrationOptions,
    Narrator,
    narrate,
)
from dia_ort.plan import Plan, PlanLimits, PlannedChunk
from dia_ort.script import Pause, Script, Turn, parse_script
from dia_ort.streams import Generation, Stream
from dia_ort.subtitles import Cue, make_cues, to_srt, to_vtt
from dia_ort.voice import Voice

__all__ = [
    "Attempt",
    "Audio",
    "AudioChunk",
    "Cue",
    "Dia",
    "DiaError",
    "Engine",
    "EngineStats",
    "Generation",
    "GenerationConfig",
    "GenerationHandle",
    "LiveNarrator",
    "LiveSpeech",
    "NarratedChunk",
    "Narration",
    "NarrationOptions",
    "Narrator",
    "Pause",
    "Plan",
    "PlanLimits",
    "PlannedChunk",
    "Script",
    "Stream",
    "Turn",
    "Voice",
    "__version__",
    "make_cues",
    "narrate",
    "parse_script",
    "read_audio",
    "to_srt",
    "to_vtt",
    "write_audio",
]
