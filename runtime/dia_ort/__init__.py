"""Dia text-to-speech on ONNX Runtime, without torch.

from dia_ort import Dia
Dia.load("demo").generate("[S1] hello world.").save("hello.wav")
"""

from dia_ort._version import __version__
from dia_ort.audio import Audio, AudioChunk
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.engine import Engine, GenerationHandle
from dia_ort.errors import DiaError
from dia_ort.live import LiveNarrator, LiveSpeech
from dia_ort.narration import NarratedChunk, Narration, NarrationOptions, Narrator, narrate
from dia_ort.plan import PlanLimits
from dia_ort.script import parse_script
from dia_ort.streams import Generation
from dia_ort.voice import Voice

__all__ = [
    "Audio",
    "AudioChunk",
    "Dia",
    "DiaError",
    "Engine",
    "Generation",
    "GenerationConfig",
    "GenerationHandle",
    "LiveNarrator",
    "LiveSpeech",
    "NarratedChunk",
    "Narration",
    "NarrationOptions",
    "Narrator",
    "PlanLimits",
    "Voice",
    "__version__",
    "narrate",
    "parse_script",
]
