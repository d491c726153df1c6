"""The codec: a narrow DAC, transformers' class, and how audio and codes pass through it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DacConfig, DacModel
from transformers.models.dac.modeling_dac import DacVectorQuantize, Snake1d

from demo_voice.clips import HOP_LENGTH
from demo_voice.espeak import SAMPLE_RATE
from demo_voice.faster import make_faster

NUM_CODEBOOKS = 9
CODEBOOK_SIZE = 1024


def make_codec(encoder_width: int = 16, decoder_width: int = 256) -> DacModel:
    """The published codec with fewer channels (it has 64 and 1536), freshly drawn.

    The weights hold the power steady from layer to layer, and the output is quiet at first.
    """
    codec = DacModel(
        DacConfig(
            encoder_hidden_size=encoder_width,
            decoder_hidden_size=decoder_width,
            sampling_rate=SAMPLE_RATE,
            n_codebooks=NUM_CODEBOOKS,
            codebook_size=CODEBOOK_SIZE,
            codebook_dim=8,
        )
    )
    for name, part in codec.named_modules():
        if isinstance(part, nn.Conv1d):
            gain = 0.4 if "res_unit" in name and name.endswith("conv2") else 1.0
            nn.init.normal_(part.weight, 0, gain / math.sqrt(part.weight[0].numel()))
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.ConvTranspose1d):
            nn.init.normal_(part.weight, 0, 1 / math.sqrt(2 * part.weight.shape[0]))
            nn.init.zeros_(part.bias)
        elif isinstance(part, Snake1d):
            nn.init.uniform_(part.alpha, math.log(0.5), math.log(3))
            part.alpha.data.exp_()
    codec.decoder.conv2.weight.data.mul_(0.1)
    make_faster(codec)
    return codec


def stages(codec: DacModel) -> list[DacVectorQuantize]:
    """The stages of the residual quantiser."""
    return list(codec.quantizer.quantizers)


def quantize(codec: DacModel, latents: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise with the first ``depths``, (batch,), codebooks of each row.

    Args:
        codec: The codec.
        latents: (batch, channels, frames) of the encoder.
        depths: (batch,), int64.

    Returns:
        The quantised latents, with the gradient of what went in, and the loss that draws the
        encoder and the codebooks to each other, a scalar.
    """
    total, residual, loss = torch.zeros_like(latents), latents, latents.new_zeros(())
    for number, stage in enumerate(stages(codec)):
        quantized, commitment, codebook, *_ = stage(residual)
        total = total + quantized * (depths > number)[:, None, None]
        residual = residual - quantized
        loss = loss + 0.25 * commitment + codebook
    return total, loss


@torch.no_grad()
def encode(codec: DacModel, audio: Tensor) -> Tensor:
    """(batch, samples) to codes, int64, (batch, codebooks, frames)."""
    padded = functional.pad(audio, (0, -audio.shape[1] % HOP_LENGTH))
    residual, codes = codec.encoder(padded[:, None]), []
    for stage in stages(codec):
        quantized, _, _, code, _ = stage(residual)
        residual = residual - quantized
        codes.append(code)
    return torch.stack(codes, 1)


@torch.no_grad()
def fit_codebooks(
    codec: DacModel, latents: Tensor, generator: torch.Generator, *, first: bool, rounds: int = 8
) -> None:
    """Move the codebooks to the latents by k-means, stage by stage.

    Args:
        codec: To be changed.
        latents: (points, channels) of the encoder.
        generator: Of the codes that are drawn from the points.
        first: Whether the projections are to be made as well, by principal components, and all
            codes to be drawn; else k-means goes on from the codes that there are.
        rounds: Of k-means.
    """
    residual = latents.clone()
    for stage in stages(codec):
        if first:
            _principal_projections(stage, residual)
        points = residual @ stage.in_proj.weight[:, :, 0].T + stage.in_proj.bias
        codes = stage.codebook.weight.clone()
        if first:
            codes = points[torch.randperm(len(points), generator=generator)[: len(codes)]]
        index = _nearest(points, codes)
        for _ in range(rounds):
            counts = torch.bincount(index, minlength=len(codes))
            sums = torch.zeros_like(codes).index_add_(0, index, points)
            strays = torch.randint(len(points), (len(codes),), generator=generator)
            used = (counts > 0)[:, None]
            codes = torch.where(used, sums / counts.clamp(min=1)[:, None], points[strays])
            index = _nearest(points, codes)
        stage.codebook.weight.copy_(codes)
        residual -= codes[index] @ stage.out_proj.weight[:, :, 0].T + stage.out_proj.bias


def _principal_projections(stage: DacVectorQuantize, points: Tensor) -> None:
    """To the directions of the most variance, and back from them."""
    mean = points.mean(0)
    covariance = (points - mean).T @ (points - mean) / len(points)
    vectors = torch.linalg.eigh(covariance)[1][:, -stage.codebook.embedding_dim :]
    stage.in_proj.weight.copy_(vectors.T[:, :, None])
    stage.in_proj.bias.copy_(-(vectors.T @ mean))
    stage.out_proj.weight.copy_(vectors[:, :, None])
    stage.out_proj.bias.copy_(mean)


def _nearest(points: Tensor, codes: Tensor) -> Tensor:
    """By the angle between them, as DAC looks its codes up."""
    return (functional.normalize(points) @ functional.normalize(codes).T).argmax(1)
