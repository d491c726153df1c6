"""Training of the codec: spectra and waves, no adversary."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo_voice.clips import HOP_LENGTH, Clips
from demo_voice.codec import NUM_CODEBOOKS, fit_codebooks, make_codec, quantize
from demo_voice.codec_loss import ReconstructionLoss
from demo_voice.espeak import SAMPLE_RATE
from demo_voice.training import learning_rate


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """How the codec is trained.

    Attributes:
        encoder_width: Channels of the encoder's first layer.
        decoder_width: Channels of the decoder's first layer.
        steps: In all.
        batch: Excerpts of a step.
        frames: Of an excerpt.
        learning_rate: The highest.
        fits: The parts of the training after which the codebooks are fitted to the latents. Before
            the first one the latents are not quantised.
        fit_batches: So many batches are what they are fitted to.
        shallow: Part of the excerpts that are quantised with fewer codebooks, so that the first
            ones carry the most.
        seed: Of all chance.
    """

    encoder_width: int = 16
    decoder_width: int = 256
    steps: int = 1500
    batch: int = 8
    frames: int = 32
    learning_rate: float = 1.5e-3
    fits: tuple[float, ...] = (0.15, 0.4, 0.65)
    fit_batches: int = 80
    shallow: float = 0.375
    seed: int = 0


class CodecTraining:
    """See `demo_voice.training.Training`."""

    def __init__(self, clips: Clips, settings: CodecSettings, device: str = "cpu") -> None:
        torch.manual_seed(settings.seed)
        self.codec = make_codec(settings.encoder_width, settings.decoder_width).to(device)
        self.steps = settings.steps
        self._clips, self._settings, self._device = clips, settings, device
        self._loss = ReconstructionLoss(SAMPLE_RATE).to(device)
        self._trained = [weight for weight in self.codec.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, betas=(0.8, 0.98), weight_decay=0)
        self._fits = [round(part * settings.steps) for part in settings.fits]

    def step(self, number: int) -> dict[str, float]:  # noqa: D102
        random = np.random.default_rng([self._settings.seed, number])
        if number in self._fits:
            self._fit(random, first=number == self._fits[0])
        original = self._excerpts(random)
        latents = self.codec.encoder(original[:, None])
        pull = original.new_zeros(())
        if number >= self._fits[0]:
            latents, pull = quantize(self.codec, latents, self._depths(random))
        distance, log_mel = self._loss(*_same_length(self.codec.decoder(latents)[:, 0], original))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(number, self.steps, self._settings.learning_rate)
        self._optimizer.zero_grad()
        (distance + pull).backward()
        torch.nn.utils.clip_grad_norm_(self._trained, 2.0)
        self._optimizer.step()
        return {"loss": distance.item(), "log_mel": log_mel.item(), "quantizer": pull.item()}

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"codec": self.codec.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.codec.load_state_dict(state["codec"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _excerpts(self, random: np.random.Generator) -> Tensor:
        """From anywhere in the recordings, float32, (batch, frames * HOP_LENGTH)."""
        samples, length = self._clips.samples, self._settings.frames * HOP_LENGTH
        starts = random.integers(0, len(samples) - length, self._settings.batch)
        rows = np.stack([samples[start : start + length] for start in starts])
        return torch.from_numpy(rows.astype(np.float32) / 32768).to(self._device)

    def _depths(self, random: np.random.Generator) -> Tensor:
        """How many codebooks each excerpt has, int64, (batch,)."""
        depths = np.full(self._settings.batch, NUM_CODEBOOKS)
        shallow = round(self._settings.batch * self._settings.shallow)
        depths[:shallow] = random.integers(1, NUM_CODEBOOKS, shallow)
        return torch.from_numpy(depths).to(self._device)

    @torch.no_grad()
    def _fit(self, random: np.random.Generator, *, first: bool) -> None:
        latents = [
            self.codec.encoder(self._excerpts(random)[:, None])
            for _ in range(self._settings.fit_batches)
        ]
        generator = torch.Generator().manual_seed(int(random.integers(2**31)))
        points = torch.cat(latents).transpose(1, 2).flatten(0, 1)
        fit_codebooks(self.codec, points, generator, first=first)


def _same_length(made: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """The codec's convolutions lose some samples at the end."""
    length = min(made.shape[1], original.shape[1])
    return made[:, :length], original[:, :length]
