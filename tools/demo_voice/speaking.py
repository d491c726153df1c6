"""Scripts through what is judged: the codec alone, and exported models."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from demo_voice.clips import Script
from demo_voice.espeak import SAMPLE_RATE
from demo_voice.evaluation import Speak, Speech, say
from demo_voice.vocabulary import Sentence, text_of
from dia_ort import Dia, GenerationConfig, Voice

VOICE = "hello world. this is dia."
"""What the demonstration voices say."""


def by_espeak(script: Script, _seed: int) -> Speech:
    """The original."""
    return Speech(np.concatenate(say(script)))


def through_codec(artifact: Path) -> Speak:
    """The original, encoded and decoded: a model that uses this codec cannot do better."""
    dia = Dia.load(artifact, provider="cpu")

    def speak(script: Script, _seed: int) -> Speech:
        codes = dia.encode_audio(np.concatenate(say(script)), SAMPLE_RATE)
        return Speech(dia.decode_codes(codes))

    return speak


def by_model(artifact: Path, *, exchanged: bool = False, **settings: float) -> Speak:
    """The model with the default settings but those given; the script's number is its seed.

    With ``exchanged``, in the voice of the other speaker: the tags are exchanged, and a voice is
    given that says so.
    """
    dia = Dia.load(artifact, provider="cpu", threads=1)  # the other one listens
    voices: dict[tuple[int, ...], Voice] = {}

    def speak(script: Script, seed: int) -> Speech:
        config = GenerationConfig(seed=seed, **settings)  # type: ignore[arg-type]
        voice = None
        if exchanged:
            speakers = tuple(dict.fromkeys(part.speaker for part in script))
            if speakers not in voices:
                voices[speakers] = make_voice(dia, {3 - speaker: speaker for speaker in speakers})
            voice = voices[speakers]
            script = tuple(Sentence(3 - part.speaker, part.words) for part in script)
        audio = dia.generate(text_of(script), config, voice)
        return Speech(audio.samples, audio.finish_reason == "eos")

    return speak


def make_voice(dia: Dia, speakers: Mapping[int, int]) -> Voice:
    """A voice.

    Args:
        dia: Whose codec encodes it.
        speakers: As whom each tag speaks, in order.
    """
    words = [tuple(part.split()) for part in VOICE.rstrip(".").split(". ")]
    script = tuple(Sentence(speaker, part) for speaker in speakers.values() for part in words)
    text = " ".join(f"[S{tag}] {VOICE}" for tag in speakers)
    return Voice.from_audio(dia, np.concatenate(say(script)), text, sample_rate=SAMPLE_RATE)
