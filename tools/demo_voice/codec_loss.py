"""How far the codec's audio is from the original: spectra at four resolutions, and the wave."""

import math

import torch
from torch import Tensor, nn

_RESOLUTIONS = {2048: 80, 1024: 64, 512: 40, 256: 20}
"""Mel bands by window."""

_FLOOR = 1e-3
_WAVE_LEVEL = 0.06  # about the mean amplitude of speech here
_LOG_MEL, _LINEAR, _WAVE = 3.0, 1.0, 0.7


def mel_filters(window: int, bands: int, sample_rate: int, highest: float) -> Tensor:
    """Triangles on the mel scale, each of sum 1: (bands, window / 2 + 1)."""
    frequencies = torch.linspace(0, sample_rate / 2, window // 2 + 1)
    top = 2595 * math.log10(1 + highest / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    nearest = (frequencies - edges[1:-1, None]).abs().argmin(1)  # a narrow band may have no bin
    empty = filters.sum(1) == 0
    filters[empty, nearest[empty]] = 1
    return filters / filters.sum(1, keepdim=True)


class ReconstructionLoss(nn.Module):
    """The loss of `forward`; ``log_mel`` of it is what figures are given in."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        for window, bands in _RESOLUTIONS.items():
            filters = mel_filters(window, bands, sample_rate, sample_rate / 2)
            self.register_buffer(f"mel_{window}", filters)
            self.register_buffer(f"hann_{window}", torch.hann_window(window))

    def forward(self, made: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) each, to the loss and its part in log-mel spectra, scalars."""
        log_mel = linear = made.new_zeros(())
        for window in _RESOLUTIONS:
            spectrum, mel = self._spectrum(made, window)
            with torch.no_grad():
                target, target_mel = self._spectrum(original, window)
            log_mel = log_mel + (mel - target_mel).abs().mean()
            linear = linear + (spectrum - target).abs().mean() / (target.mean() + _FLOOR)
        log_mel, linear = log_mel / len(_RESOLUTIONS), linear / len(_RESOLUTIONS)
        wave = (made - original).abs().mean() / _WAVE_LEVEL
        return _LOG_MEL * log_mel + _LINEAR * linear + _WAVE * wave, log_mel

    def _spectrum(self, audio: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Magnitudes, and the logarithm of their mel bands."""
        hann, mel = self.get_buffer(f"hann_{window}"), self.get_buffer(f"mel_{window}")
        complex_ = torch.stft(audio, window, window // 4, window=hann, return_complex=True)
        power = complex_.real.square() + complex_.imag.square()
        magnitude = (power + 1e-8).sqrt() / math.sqrt(window)
        return magnitude, (mel @ magnitude + _FLOOR).log10()
