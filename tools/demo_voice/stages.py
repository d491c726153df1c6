"""The stages, each a function from the folders of the earlier ones to its own.

A stage whose outcome is there is not run again: delete its folder to have it anew.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from demo_voice.clips import Split, make_split, open_clips, record
from demo_voice.codec import encode, make_codec
from demo_voice.codec_training import CodecSettings, CodecTraining
from demo_voice.dia_training import DiaSettings, DiaTraining, scale_logits
from demo_voice.examples import BOS, EOS, PAD
from demo_voice.training import Report, run

DTYPES = ("fp32", "int8", "int4")

_ENCODE_BATCH = 16


@dataclass(frozen=True, slots=True)
class Recipe:
    """All the numbers that make the demonstration model.

    Attributes:
        seed: Of the sentences.
        train: Sentences to learn from.
        validation: Scripts that settings were chosen on.
        test: Scripts that are looked at once, at the end.
        codec: How the codec is trained.
        dia: How the model is trained.
        sharpness: Factor of the logits: the default temperature of 1.2 is much for a small model.
    """

    seed: int = 0
    train: int = 10_000
    validation: int = 60
    test: int = 100
    codec: CodecSettings = field(default_factory=CodecSettings)
    dia: DiaSettings = field(default_factory=DiaSettings)
    sharpness: float = 2.4

    def split(self) -> Split:
        """What is said in training, validation and test."""
        return make_split(self.seed, self.train, self.validation, self.test)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the stages leave what they made."""

    root: Path

    @property
    def clips(self) -> Path:
        """Recordings, `demo_voice.clips.open_clips`."""
        return self.root / "clips"

    @property
    def codec(self) -> Path:
        """A checkpoint in transformers' layout."""
        return self.root / "codec"

    @property
    def codes(self) -> Path:
        """int16, (codebooks, frames) of all recordings."""
        return self.root / "codes.npy"

    @property
    def dia(self) -> Path:
        """A checkpoint in transformers' layout."""
        return self.root / "dia"

    def training(self, name: str) -> Path:
        """The state of a training, and its curve."""
        return self.root / f"{name}-training"

    def artifact(self, dtype: str) -> Path:
        """What dia-ort runs."""
        return self.root / dtype


def record_clips(recipe: Recipe, folders: Folders, report: Report) -> None:
    if folders.clips.exists():
        return
    partial = folders.clips.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    record(recipe.split().train, partial, report)
    partial.rename(folders.clips)


def train_codec(recipe: Recipe, folders: Folders, report: Report) -> None:
    if folders.codec.exists():
        return
    training = CodecTraining(open_clips(folders.clips), recipe.codec)
    run(training, folders.training("codec"), report)
    _save(training.codec, folders.codec)


def encode_clips(_recipe: Recipe, folders: Folders, report: Report) -> None:
    if folders.codes.exists():
        return
    clips = open_clips(folders.clips)
    codec = make_codec()
    codec.load_state_dict(type(codec).from_pretrained(folders.codec).float().state_dict())
    frames = clips.clips[-1].span.stop
    codes: NDArray[np.int16] = np.zeros((codec.config.n_codebooks, frames), np.int16)
    by_length = sorted(clips.clips, key=lambda clip: clip.frames)
    for start in range(0, len(by_length), _ENCODE_BATCH):
        some = by_length[start : start + _ENCODE_BATCH]
        rows = [torch.from_numpy(clips.audio(clip)) for clip in some]
        batch = encode(codec, nn.utils.rnn.pad_sequence(rows, batch_first=True))
        for clip, row in zip(some, batch.numpy(), strict=True):
            codes[:, clip.span] = row[:, : clip.frames]
        report(start + len(some), len(by_length))
    partial = folders.codes.with_suffix(".partial.npy")
    np.save(partial, codes)
    partial.rename(folders.codes)


def train_dia(recipe: Recipe, folders: Folders, report: Report) -> None:
    if folders.dia.exists():
        return
    clips = open_clips(folders.clips).clips
    training = DiaTraining(clips, np.load(folders.codes), recipe.dia)
    run(training, folders.training("dia"), report)
    scale_logits(training.dia, recipe.sharpness)
    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": BOS}
    training.dia.generation_config.update(**ids)
    _save(training.dia, folders.dia)


def export_all(_recipe: Recipe, folders: Folders, report: Report) -> None:
    from dia_export import export

    for number, dtype in enumerate(DTYPES):
        if not folders.artifact(dtype).exists():
            export(
                str(folders.dia),
                str(folders.codec),
                dtype=dtype,
                output=folders.artifact(dtype),
            )
        report(number + 1, len(DTYPES))


def _save(model: nn.Module, folder: Path) -> None:
    """In float16, whole or not at all."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.half().save_pretrained(partial)
    partial.rename(folder)
