"""Dia text-to-speech on ONNX Runtime, without torch.

from dia_ort import Dia
Dia.load("demo").generate("[S1] hello world.").save("hello.wav")
"""

from dia_ort._version import __version__
from dia_ort.audio import Audio, AudioChunk
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia, Generation
from dia_ort.engine import Engine, GenerationHandle
from dia_ort.errors import DiaError
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
    "Voice",
    "__version__",
]
