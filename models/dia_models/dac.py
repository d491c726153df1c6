"""The descript audio codec in PyTorch, for inference: audio to codes and codes to audio.

Semantics follow descript-audio-codec 1.0.0 and transformers' `DacModel`; weight norm is folded
into plain convolutions. All strides are even (see `DacConfig`), so n frames are exactly
n * hop_length samples, in both directions.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from dia_models.config import DacConfig
from dia_models.kernels import Kernels

_DILATIONS = (1, 3, 9)
_UNITS_REACH = 3 * sum(_DILATIONS)
"""Of a block's residual units, on either side."""


class Snake(nn.Module):
    """The periodic activation x + sin(alpha x)^2 / alpha, with one alpha per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time) to the same."""
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


class ResidualUnit(nn.Module):
    """A dilated and a pointwise convolution around a skip connection."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = Snake(channels)
        self.conv1 = nn.Conv1d(
            channels, channels, kernel_size=7, dilation=dilation, padding=3 * dilation
        )
        self.snake2 = Snake(channels)
        self.conv2 = nn.Conv1d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time) to the same."""
        y: Tensor = self.conv2(self.snake2(self.conv1(self.snake1(x))))
        return x + y


class EncoderBlock(nn.Module):
    """Doubles the channels and shortens time by `stride`."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            ResidualUnit(channels, dilation) for dilation in _DILATIONS
        )
        self.snake1 = Snake(channels)
        self.conv1 = nn.Conv1d(
            channels, 2 * channels, kernel_size=2 * stride, stride=stride, padding=stride // 2
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time) to (batch, 2 * channels, time / stride)."""
        x = self.res_unit3(self.res_unit2(self.res_unit1(x)))
        y: Tensor = self.conv1(self.snake1(x))
        return y


class DecoderBlock(nn.Module):
    """Halves the channels and stretches time by `stride`."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.snake1 = Snake(channels)
        self.conv_t1 = nn.ConvTranspose1d(
            channels, channels // 2, kernel_size=2 * stride, stride=stride, padding=stride // 2
        )
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            ResidualUnit(channels // 2, dilation) for dilation in _DILATIONS
        )

    def stretch(self, x: Tensor) -> Tensor:
        """(batch, channels, time) to (batch, channels / 2, time * stride)."""
        y: Tensor = self.conv_t1(self.snake1(x))
        return y

    def refine(self, x: Tensor) -> Tensor:
        """What :meth:`stretch` gave to the same shape."""
        y: Tensor = self.res_unit3(self.res_unit2(self.res_unit1(x)))
        return y


class WaveEncoder(nn.Module):
    """Audio to latents."""

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        widths = [config.encoder_dim * 2**i for i in range(len(config.encoder_rates) + 1)]
        self.conv1 = nn.Conv1d(1, widths[0], kernel_size=7, padding=3)
        self.block = nn.Sequential(*map(EncoderBlock, widths, config.encoder_rates))
        self.snake1 = Snake(widths[-1])
        self.conv2 = nn.Conv1d(widths[-1], config.latent_dim, kernel_size=3, padding=1)

    def forward(self, audio: Tensor) -> Tensor:
        """(batch, 1, samples) to (batch, latent_dim, frames)."""
        latents: Tensor = self.conv2(self.snake1(self.block(self.conv1(audio))))
        return latents


class WaveDecoder(nn.Module):
    """Latents to audio."""

    def __init__(self, config: DacConfig, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.rates = config.decoder_rates
        self.reaches = _decoder_reaches(config)[1:]
        widths = [config.decoder_dim // 2**i for i in range(len(config.decoder_rates) + 1)]
        self.conv1 = nn.Conv1d(config.latent_dim, widths[0], kernel_size=7, padding=3)
        self.block = nn.Sequential(*map(DecoderBlock, widths, config.decoder_rates))
        self.snake1 = Snake(widths[-1])
        self.conv2 = nn.Conv1d(widths[-1], 1, kernel_size=7, padding=3)

    def forward(self, latents: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Compute audio, and in each block no more of its context than it depends on.

        Args:
            latents: (batch, latent_dim, before + frames + after) of float.
            before: int64, (1,): how many frames at the beginning are context.
            after: int64, (1,): and at the end.

        Returns:
            (batch, 1, frames * hop_length) of float in -1..1.
        """
        x = self.conv1(latents)
        blocks = cast("Iterable[DecoderBlock]", self.block)
        for block, rate, reach in zip(blocks, self.rates, self.reaches, strict=True):
            x, before, after = block.stretch(x), before * rate, after * rate
            kept_before, kept_after = before.clamp_max(reach), after.clamp_max(reach)
            x = block.refine(self.kernels.crop(x, before - kept_before, after - kept_after))
            before, after = kept_before, kept_after
        audio = torch.tanh(self.conv2(self.snake1(x)))
        return self.kernels.crop(audio, before, after)


class Codebook(nn.Module):
    """One stage of the residual quantiser, read backwards: codes to latents."""

    def __init__(self, config: DacConfig, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)
        self.out_proj = nn.Conv1d(config.codebook_dim, config.latent_dim, kernel_size=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (batch, frames), as the kernels' lookup takes them, to latents.

        Returns:
            (batch, latent_dim, frames).
        """
        vectors = self.kernels.lookup(codes, self.codebook.weight)
        latents: Tensor = self.out_proj(vectors.transpose(1, 2))
        return latents


class SearchableCodebook(Codebook):
    """One stage of the residual quantiser, in both directions."""

    def __init__(self, config: DacConfig, kernels: Kernels) -> None:
        super().__init__(config, kernels)
        self.in_proj = nn.Conv1d(config.latent_dim, config.codebook_dim, kernel_size=1)

    def nearest(self, latents: Tensor) -> Tensor:
        """The codes whose vectors point most nearly the way of the projected latents.

        Args:
            latents: (batch, latent_dim, frames)

        Returns:
            (batch, frames), as :meth:`forward` takes them; the lower code wins a tie.
        """
        return self.kernels.nearest(self.in_proj(latents).transpose(1, 2), self.codebook.weight)


class DacEncoder(nn.Module):
    """Audio to codes."""

    def __init__(self, config: DacConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        kernels = kernels or Kernels()
        self.encoder = WaveEncoder(config)
        self.quantizer = nn.ModuleList(
            SearchableCodebook(config, kernels) for _ in range(config.num_codebooks)
        )

    def forward(self, audio: Tensor) -> Tensor:
        """Encode audio.

        Args:
            audio: (batch, 1, samples) of float. Pad on the right with zeros to a multiple of
                `hop_length` first, as descript's `preprocess` does: samples past the last whole
                frame would be lost.

        Returns:
            (batch, num_codebooks, samples / hop_length) of int64.
        """
        residual = self.encoder(audio)
        codes = []
        for stage in cast("Iterable[SearchableCodebook]", self.quantizer):
            nearest = stage.nearest(residual)
            residual = residual - stage(nearest)
            codes.append(nearest)
        return torch.stack(codes, dim=1).long()


class DacDecoder(nn.Module):
    """Codes to audio."""

    def __init__(self, config: DacConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        self.kernels = kernels or Kernels()
        self.quantizer = nn.ModuleList(
            Codebook(config, self.kernels) for _ in range(config.num_codebooks)
        )
        self.decoder = WaveDecoder(config, self.kernels)

    def forward(self, before: Tensor, codes: Tensor, after: Tensor) -> Tensor:
        """Decode codes in the context of their neighbours.

        `context_frames` of them on either side make the audio what it is in the whole, and where
        there are fewer, the whole begins or ends.

        Args:
            before: (batch, num_codebooks, frames) of int64 in 0..codebook_size - 1: the codes
                before those to decode, 0 or more.
            codes: The same shape, but for its frames.
            after: Again.

        Returns:
            (batch, 1, frames of `codes` * hop_length) of float in -1..1.
        """
        index = torch.cat([*map(self.kernels.as_index, (before, codes, after))], dim=-1)
        stages = zip(self.quantizer, index.unbind(1), strict=True)
        latents, *others = [stage(part) for stage, part in stages]
        for other in others:
            latents = latents + other
        length = self.kernels.length
        audio: Tensor = self.decoder(latents, length(before), length(after))
        return audio

    def whole(self, codes: Tensor) -> Tensor:
        """Decode codes that have no neighbours."""
        nothing = codes[..., :0]
        return self.forward(nothing, codes, nothing)


def context_frames(config: DacConfig) -> int:
    """Frames on either side of a frame that its audio and its codes depend on.

    A window of codes, or of whole frames of audio, with so many neighbours on each side decodes, or
    encodes, to the same as the whole.
    """
    return max(_decoder_reaches(config)[0], _encoder_reach(config))


def _decoder_reaches(config: DacConfig) -> list[int]:
    """What audio depends on, on either side: steps of latents, and of what each block stretched."""
    reaches, reach = [], 3  # of the last convolution
    for stride in reversed(config.decoder_rates):
        reach += _UNITS_REACH
        reaches.append(reach)
        reach = (reach + stride // 2 - 1) // stride + 1
    return [reach + 3, *reversed(reaches)]


def _encoder_reach(config: DacConfig) -> int:
    """The same of `WaveEncoder`, in frames."""
    first, last = -1, 1  # the steps that one frame of latents is made of
    for stride in reversed(config.encoder_rates):
        padding, kernel = stride // 2, 2 * stride
        first, last = first * stride - padding, last * stride - padding + kernel - 1
        first, last = first - _UNITS_REACH, last + _UNITS_REACH
    first, last = (first - 3) // config.hop_length, (last + 3) // config.hop_length
    return max(-first, last)
