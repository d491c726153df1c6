"""The stages, each a function from the folders of the earlier ones to its own.

A stage whose outcome is there is not run again: delete its folder to have it anew.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from demo_voice.acoustics import features
from demo_voice.clips import Script, Split, make_split, open_clips, record
from demo_voice.codec import encode, make_codec
from demo_voice.codec_training import CodecSettings, CodecTraining
from demo_voice.dia_training import DiaSettings, DiaTraining, scale_logits
from demo_voice.espeak import SAMPLE_RATE
from demo_voice.evaluation import Judge, Speak, as_records, say, summarize, table
from demo_voice.examples import BOS, EOS, PAD
from demo_voice.speaking import by_espeak, by_model, make_voice, through_codec
from demo_voice.training import Report, run
from demo_voice.vocabulary import MORE_WORDS, Sentence, text_of
from dia_ort import Dia
from dia_ort.audio import write_audio
from dia_ort.demo_words import DEMO_WORDS

DTYPES = ("fp32", "int8", "int4")

_ENCODE_BATCH = 4
_SAMPLES = (0, 1, 3)
"""Of the test scripts, those to hear: two of one turn and one of two."""

_GOLDEN = tuple(
    (Sentence(speaker, words),)
    for speaker in (1, 2)
    for words in product(("hello", "good"), ("world", "morning", "dia"))
)
_FIGURES = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that makes the demonstration model; as it is, the one in the package.

    Attributes:
        words: What it shall say.
        seed: Of the sentences.
        train: Sentences to learn from.
        validation: Scripts that settings were chosen on.
        test: Scripts that are looked at once, at the end.
        codec: How the codec is trained.
        dia: How the model is trained.
        sharpness: Factor of the logits: the default temperature of 1.2 is much for a small model.
    """

    words: tuple[str, ...] = DEMO_WORDS
    seed: int = 0
    train: int = 10_000
    validation: int = 60
    test: int = 100
    codec: CodecSettings = field(default_factory=CodecSettings)
    dia: DiaSettings = field(default_factory=DiaSettings)
    sharpness: float = 2.4

    def split(self) -> Split:
        """What is said in training, validation and test."""
        return make_split(self.words, self.seed, self.train, self.validation, self.test)

    @classmethod
    def quick(cls) -> "Recipe":
        """For a CPU: the same codec, and a sixth of the examples for the model."""
        return cls(dia=DiaSettings(steps=2900, frames=2400, fine_stride=3))

    @classmethod
    def large(cls) -> "Recipe":
        """Ten times the words, and wider networks that see over ten times as much."""
        return cls(
            words=(*DEMO_WORDS, *MORE_WORDS),
            train=30_000,
            codec=CodecSettings(encoder_width=32, decoder_width=512, steps=6000, batch=16),
            dia=DiaSettings(
                encoder_width=256,
                encoder_layers=4,
                width=384,
                layers=6,
                steps=12_000,
                learning_rate=1e-3,
            ),
        )


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the stages leave what they made, and where they compute.

    Attributes:
        root: The folder.
        device: That of PyTorch which trains, such as ``cuda``.
    """

    root: Path
    device: str = "cpu"

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

    @property
    def figures(self) -> Path:
        """How well it speaks, and samples."""
        return self.root / "figures"

    def artifact(self, dtype: str) -> Path:
        """What dia-ort runs."""
        return self.root / dtype


def claim(folders: Folders, recipe: Recipe) -> str:
    """Write the recipe into the folder; returns what is wrong if another one is there."""
    file, text = folders.root / "recipe.json", json.dumps(asdict(recipe), indent=1) + "\n"
    if not file.exists():
        folders.root.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != text:
        return f"{folders.root} was begun with another recipe (recipe.json): take another --folder"
    return ""


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
    training = CodecTraining(open_clips(folders.clips), recipe.codec, folders.device)
    run(training, folders.training("codec"), report)
    _save(training.codec, folders.codec)


def encode_clips(recipe: Recipe, folders: Folders, report: Report) -> None:
    if folders.codes.exists():
        return
    clips = open_clips(folders.clips)
    codec = make_codec(recipe.codec.encoder_width, recipe.codec.decoder_width)
    codec.load_state_dict(type(codec).from_pretrained(folders.codec).float().state_dict())
    codec.to(folders.device)
    frames = clips.clips[-1].span.stop
    codes: NDArray[np.int16] = np.zeros((codec.config.n_codebooks, frames), np.int16)
    by_length = sorted(clips.clips, key=lambda clip: clip.frames)
    for start in range(0, len(by_length), _ENCODE_BATCH):
        some = by_length[start : start + _ENCODE_BATCH]
        rows = [torch.from_numpy(clips.audio(clip)) for clip in some]
        batch = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(folders.device)
        for clip, row in zip(some, encode(codec, batch).cpu().numpy(), strict=True):
            codes[:, clip.span] = row[:, : clip.frames]
        report(start + len(some), len(by_length))
    partial = folders.codes.with_suffix(".partial.npy")
    np.save(partial, codes)
    partial.rename(folders.codes)


def train_dia(recipe: Recipe, folders: Folders, report: Report) -> None:
    if folders.dia.exists():
        return
    clips = open_clips(folders.clips).clips
    training = DiaTraining(clips, np.load(folders.codes), recipe.dia, folders.device)
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


def evaluate_all(recipe: Recipe, folders: Folders, report: Report) -> None:
    """Figures, a table, curves, and three scripts to hear and to see."""
    if folders.figures.exists():
        return
    from demo_voice.pictures import draw_curves

    scripts = recipe.split().test
    judge = Judge(open_clips(folders.clips), scripts)
    fp32, int8, int4 = (folders.artifact(dtype) for dtype in DTYPES)
    every = range(len(scripts))
    alone = [number for number in every if len(scripts[number]) == 1]
    together = [number for number in every if len(scripts[number]) > 1]
    rows: dict[str, tuple[Sequence[int], Callable[[], Speak]]] = {
        "espeak-ng itself": (every, lambda: by_espeak),
        "through the codec": (every, lambda: through_codec(fp32)),
        "fp32": (every, lambda: by_model(fp32)),
        "int8 (`demo`)": (every, lambda: by_model(int8)),
        "int4": (every, lambda: by_model(int4)),
        "fp32, `cfg_scale` 1": (every, lambda: by_model(fp32, cfg_scale=1)),
        "fp32, the other's voice": (alone, lambda: by_model(fp32, exchanged=True)),
        "fp32, both voices exchanged": (together, lambda: by_model(fp32, exchanged=True)),
    }
    scores = {}
    spoken, in_all = 0, sum(len(numbers) for numbers, _ in rows.values())
    for name, (numbers, speak) in rows.items():
        scores[name] = judge.score(
            numbers, speak(), lambda done, _, before=spoken: report(before + done, in_all)
        )
        spoken += len(numbers)
    partial = folders.figures.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    records = {name: {**summarize(row), "scripts": as_records(row)} for name, row in scores.items()}
    (partial / "figures.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    (partial / "table.md").write_text(table(scores), encoding="utf-8")
    trainings = {name: folders.training(name) / "curve.json" for name in ("codec", "dia")}
    curves = {name: json.loads(file.read_text()) for name, file in trainings.items()}
    draw_curves(curves, partial / "training.png")
    _keep_samples(judge, scripts, int8, partial)
    partial.rename(folders.figures)


def _keep_samples(judge: Judge, scripts: Sequence[Script], artifact: Path, folder: Path) -> None:
    """Some scripts as wav files, and their spectrograms below espeak-ng's."""
    from demo_voice.pictures import draw_spectrograms

    speak = by_model(artifact)
    for number in _SAMPLES:
        samples = speak(scripts[number], number).samples
        text = text_of(scripts[number])
        write_audio(folder / f"{number:02}.wav", samples, SAMPLE_RATE)
        draw_spectrograms(
            {f"espeak-ng: {text}": judge.reference(number), f"demo: {text}": samples},
            folder / f"{number:02}.png",
        )


def install(folders: Folders, repository: Path) -> None:
    """Put the int8 model and its voices into the package, figures into the docs, and a golden."""
    package = repository / "runtime/dia_ort/demo"
    docs = repository / "docs/demo-voice"
    for source, target in ((folders.artifact("int8"), package), (folders.figures, docs)):
        for file in source.iterdir():
            shutil.copy2(file, target)
    dia = Dia.load(package, provider="cpu")
    for name, speaker in (("low", 1), ("high", 2)):
        make_voice(dia, {1: speaker}).save(package / "voices" / f"{name}.voice")
    card = docs / "README.md"
    rows = (docs / "table.md").read_text(encoding="utf-8")
    text = _FIGURES.sub(lambda place: place[1] + rows + place[2], card.read_text(encoding="utf-8"))
    card.write_text(text, encoding="utf-8")
    (docs / "table.md").unlink()
    write_golden(repository / "tests/goldens/demo_voice.npz")


def write_golden(file: Path) -> None:
    """What some sentences sound like, and others that they could be taken for, for a test."""
    spectra = {
        text_of(script): features(np.concatenate(say(script))).astype(np.float16)
        for script in _GOLDEN
    }
    np.savez_compressed(file, **spectra)


def _save(model: nn.Module, folder: Path) -> None:
    """In float16, whole or not at all."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.half().cpu().save_pretrained(partial)
    partial.rename(folder)
