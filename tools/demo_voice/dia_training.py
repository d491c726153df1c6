"""Training of the model: the codes of scripts, with its cross-attention shown the way."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from demo_voice.clips import Clip
from demo_voice.dia import GUIDED_HEADS, guided_attentions, make_dia
from demo_voice.examples import EOS, Batch, Example, collate, join
from demo_voice.muon import Muon
from demo_voice.training import learning_rate
from demo_voice.vocabulary import PHRASES

_CHANNEL_WEIGHTS = (6.0, 3.0, 1.5, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4)
"""What is said is in the first channels."""

_FINE_CHANNELS = 3
"""From this one on, a part of the frames can be left out: the heads are half of the work."""

_NEWTON_SCHULZ_ROUNDS = 3  # 5 are usual


@dataclass(frozen=True, slots=True)
class DiaSettings:
    """How the model is trained.

    Attributes:
        encoder_width: Of the text encoder.
        encoder_layers: Of it.
        width: Of the decoder.
        layers: Of it.
        steps: In all.
        frames: About so many frames are in a batch.
        fine_stride: Channels 3 and up learn from one frame in so many, which saves time.
        lengths: How often an example is of one recording, of two, and so on.
        learning_rate: The highest.
        text_dropout: See `demo_voice.examples.collate`.
        corruption: See there.
        guided: The part of the training in which cross-attention is shown where in the text the
            speech is, with full weight; then less and less, until 20% of the training later.
        seed: Of all chance.
    """

    encoder_width: int = 128
    encoder_layers: int = 3
    width: int = 192
    layers: int = 4
    steps: int = 4500
    frames: int = 9600
    fine_stride: int = 1
    lengths: tuple[float, ...] = (0.45, 0.28, 0.12, 0.07, 0.04, 0.04)
    learning_rate: float = 2e-3
    text_dropout: float = 0.12
    corruption: float = 0.45
    guided: float = 0.6
    seed: int = 0


class Batches(Dataset[Batch]):
    """What each step learns from; all chance is that of the step's number.

    Args:
        clips: Recordings.
        codes: int16, (codebooks, frames) of all of them.
        settings: Of the training.
    """

    def __init__(
        self, clips: tuple[Clip, ...], codes: NDArray[np.int16], settings: DiaSettings
    ) -> None:
        self._settings, self._codes = settings, codes
        often = [clip for clip in clips for _ in range(_times(clip))]
        self._clips = sorted(often, key=lambda clip: clip.frames)

    def __getitem__(self, number: int) -> Batch:
        """Examples of about the same length; in the first steps of single short recordings."""
        settings = self._settings
        random = np.random.default_rng([settings.seed, number])
        easy = number < 0.03 * settings.steps
        count = 1 if easy else 1 + int(random.choice(len(settings.lengths), p=settings.lengths))
        known = self._clips[: len(self._clips) // 3] if easy else self._clips
        width = max(1, len(known) // 8)
        start = int(random.integers(0, len(known) - width + 1))
        near = known[start : start + width]
        size = max(1, settings.frames // (count * near[-1].frames))
        examples = [self._example(near, count, random) for _ in range(size)]
        return collate(
            examples,
            random,
            text_dropout=settings.text_dropout,
            corruption=settings.corruption,
        )

    def _example(self, clips: list[Clip], count: int, random: np.random.Generator) -> Example:
        chosen = [clips[int(index)] for index in random.integers(0, len(clips), count)]
        return join(chosen, self._codes, random)


class DiaTraining:
    """See `demo_voice.training.Training`."""

    def __init__(
        self,
        clips: tuple[Clip, ...],
        codes: NDArray[np.int16],
        settings: DiaSettings,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(settings.seed)
        self.dia = make_dia(
            settings.encoder_width, settings.encoder_layers, settings.width, settings.layers
        ).to(device)
        self.steps = settings.steps
        self._batches = Batches(clips, codes, settings)
        self._settings, self._device = settings, device
        self._coming: Iterator[Batch] | None = None
        self._attentions: list[Tensor] = []
        for attention in guided_attentions(self.dia):
            attention.register_forward_hook(lambda _, __, out: self._attentions.append(out[1]))
        weights = torch.tensor(_CHANNEL_WEIGHTS, device=device)
        self._channel_weights = weights / weights.sum()
        matrices, others = [], []
        for name, weight in self.dia.named_parameters():
            inner = weight.ndim == 2 and "embed" not in name and "logits" not in name
            (matrices if inner else others).append(weight)
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, rounds=_NEWTON_SCHULZ_ROUNDS, weight_decay=0.05),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0),
        )

    def step(self, number: int) -> dict[str, float]:  # noqa: D102
        if self._coming is None:  # the first step; the others follow it in order
            self._coming = self._load(number)
        guidance = self._guidance(number / self.steps)
        losses, astray = self.losses(next(self._coming).to(self._device))
        loss = losses @ self._channel_weights
        for optimizer in self._optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(number, self.steps, self._settings.learning_rate)
        (loss + 0.5 * guidance * astray).backward()
        torch.nn.utils.clip_grad_norm_(self.dia.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        figures = {"loss": loss.item(), "attention": astray.item()}
        return figures | {f"channel_{i}": losses[i].item() for i in (0, 1, 8)}

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        return {"dia": self.dia.state_dict(), "optimizers": optimizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.dia.load_state_dict(state["dia"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _load(self, start: int) -> Iterator[Batch]:
        """The batches from this step on; for a GPU, which would wait, other processes make them."""
        workers = 0 if self._device == "cpu" else min(8, os.cpu_count() or 1)
        steps = range(start, self.steps)
        return iter(DataLoader(self._batches, None, sampler=steps, num_workers=workers))

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each channel, (channels,), and of the guided attention, a scalar."""
        self._attentions.clear()
        hidden = self.dia.model(
            input_ids=batch.text,
            attention_mask=batch.text_mask,
            decoder_input_ids=batch.inputs,
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)
        channels = batch.targets.shape[-1]
        heads = self.dia.logits_dense.weight.unflatten(0, (channels, -1)).unbind()
        losses = []
        for channel, head in enumerate(heads):
            target = batch.targets[:, :, channel].flatten()
            learned = torch.nonzero(target <= EOS)[:, 0]
            if channel >= _FINE_CHANNELS:
                stride = self._settings.fine_stride
                learned = learned[channel % stride :: stride]
            logits = functional.linear(hidden[learned], head)
            losses.append(functional.cross_entropy(logits, target[learned]))
        return torch.stack(losses), self._astray(batch.guide)

    def _astray(self, guide: Tensor) -> Tensor:
        """How little of the guided heads' attention is where it should be."""
        shown = guide.sum(-1) > 0  # nothing is, if all texts of the batch are dropped
        there = [
            (attention[:, :GUIDED_HEADS] * guide[:, None]).sum(-1) for attention in self._attentions
        ]
        missed = -torch.stack(there).clamp_min(1e-4).log().mean((0, 2))
        return (missed * shown).sum() / shown.sum().clamp_min(1)

    def _guidance(self, done: float) -> float:
        fading = 1 - (done - self._settings.guided) / 0.2
        return min(1.0, max(0.1, fading))


def _times(clip: Clip) -> int:
    """How often a recording counts: there are few of single words and of what people try first."""
    words = clip.sentence.words
    return 8 if len(words) == 1 or " ".join(words) in PHRASES else 1


def scale_logits(dia: nn.Module, factor: float) -> None:
    """So that a temperature t of the scaled model is t / factor of the one that was trained."""
    with torch.no_grad():
        dia.logits_dense.weight.mul_(factor)
