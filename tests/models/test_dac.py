"""The codec against descript's own class and transformers' DacModel, on random weights."""

import pytest
import torch
from torch.nn.utils import remove_weight_norm
from transformers import DacConfig as TransformersConfig
from transformers import DacModel

from dia_models.config import DacConfig
from dia_models.dac import DacDecoder, DacEncoder, context_frames
from dia_models.layouts import descript_dac, transformers_dac
from dia_models.random_weights import TINY_DAC, random_dac
from support.descript import descript_dac_class

# Other rates and a latent width that is not the encoder's last, to tell the sizes apart.
ODD_DAC = DacConfig(
    sample_rate=16000,
    encoder_dim=4,
    encoder_rates=(2, 6, 4),
    decoder_dim=48,
    decoder_rates=(4, 6, 2),
    latent_dim=20,
    num_codebooks=3,
    codebook_size=64,
    codebook_dim=5,
)
CONFIGS = {"tiny": TINY_DAC, "odd": ODD_DAC}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def build(config, seed=1):
    """Our two modules, and the canonical weights in them."""
    weights = {name: weight.load() for name, weight in random_dac(config, seed).weights.items()}
    modules = DacEncoder(config).eval(), DacDecoder(config).eval()
    for module in modules:
        module.load_state_dict({name: weights[name] for name in module.state_dict()})
    return *modules, weights


def transformers_model(config, weights):
    ratios = list(config.encoder_rates)
    model = DacModel(
        TransformersConfig(
            encoder_hidden_size=config.encoder_dim,
            downsampling_ratios=ratios,
            decoder_hidden_size=config.decoder_dim,
            n_codebooks=config.num_codebooks,
            codebook_size=config.codebook_size,
            codebook_dim=config.codebook_dim,
            hidden_size=config.latent_dim,
            upsampling_ratios=list(config.decoder_rates),
            sampling_rate=config.sample_rate,
        )
    ).eval()
    layout = transformers_dac(config)
    model.load_state_dict({next(iter(layout[n].parts)): w for n, w in weights.items()})
    return model


def descript_model(config, weights):
    model = descript_dac_class()(
        encoder_dim=config.encoder_dim,
        encoder_rates=list(config.encoder_rates),
        latent_dim=config.latent_dim,
        decoder_dim=config.decoder_dim,
        decoder_rates=list(config.decoder_rates),
        n_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
        codebook_dim=config.codebook_dim,
        sample_rate=config.sample_rate,
    ).eval()
    for module in model.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    layout = descript_dac(config)
    keys = {name: next(iter(layout[name].parts)).replace("weight_g", "weight") for name in weights}
    model.load_state_dict({keys[name]: weight for name, weight in weights.items()})
    return model


def random_codes(config, batch=2, frames=21):
    generator = torch.Generator().manual_seed(0)
    shape = (batch, config.num_codebooks, frames)
    return torch.randint(0, config.codebook_size, shape, generator=generator)


def random_audio(config, batch=2, frames=40):
    generator = torch.Generator().manual_seed(0)
    samples = frames * config.hop_length
    noise = 0.1 * torch.randn(batch, 1, samples, generator=generator)
    sweep = 0.3 * torch.sin(torch.linspace(0, 40, samples) ** 2)
    return noise + sweep


def test_decode_equals_transformers(config):
    _, decoder, weights = build(config)
    codes = random_codes(config)
    expected = transformers_model(config, weights).decode(audio_codes=codes).audio_values
    torch.testing.assert_close(decoder.whole(codes)[:, 0], expected, rtol=0, atol=1e-5)


def test_encode_equals_transformers(config):
    encoder, _, weights = build(config)
    audio = random_audio(config)
    assert torch.equal(
        encoder(audio), transformers_model(config, weights).encode(audio).audio_codes
    )


def test_decode_equals_descript(config):
    _, decoder, weights = build(config)
    codes = random_codes(config)
    model = descript_model(config, weights)
    expected = model.decode(model.quantizer.from_codes(codes)[0])
    torch.testing.assert_close(decoder.whole(codes), expected, rtol=0, atol=1e-5)


def test_encode_equals_descript(config):
    encoder, _, weights = build(config)
    model = descript_model(config, weights)
    audio = random_audio(config)[..., :-7]
    padded = model.preprocess(audio, config.sample_rate)
    assert padded.shape[-1] % config.hop_length == 0
    assert torch.equal(encoder(padded), model.encode(padded)[1])


def test_codes_are_the_nearest_in_angle(config):
    encoder, _, weights = build(config)
    audio = random_audio(config, batch=1)
    latents = encoder.encoder(audio)
    query = torch.nn.functional.conv1d(
        latents, weights["quantizer.0.in_proj.weight"], weights["quantizer.0.in_proj.bias"]
    )
    cosine = torch.nn.functional.cosine_similarity(
        query[0].t()[:, None], weights["quantizer.0.codebook.weight"][None], dim=-1
    )
    assert torch.equal(encoder(audio)[0, 0], cosine.argmax(-1))


@pytest.mark.parametrize("frames", [1, 2, 50])
def test_frames_and_samples_line_up(config, frames):
    encoder, decoder, _ = build(config)
    audio = decoder.whole(random_codes(config, batch=3, frames=frames))
    assert audio.shape == (3, 1, frames * config.hop_length)
    codes = encoder(audio)
    assert codes.shape == (3, config.num_codebooks, frames)
    assert codes.dtype == torch.int64


def test_rows_of_a_batch_do_not_mix(config):
    _, decoder, _ = build(config)
    codes = random_codes(config, batch=3)
    rows = torch.cat([decoder.whole(row[None]) for row in codes])
    torch.testing.assert_close(decoder.whole(codes), rows, rtol=0, atol=1e-5)


def test_a_frame_is_heard_as_far_as_the_context_and_no_farther(config):
    """Derived from the config, and not a frame too many."""
    _, decoder, _ = build(config)
    decoder, codes, context = decoder.double(), random_codes(config, 1, 41), context_frames(config)
    changed = codes.clone()
    changed[..., 20] = (changed[..., 20] + 1) % config.codebook_size
    difference = (decoder.whole(changed) - decoder.whole(codes)).reshape(41, config.hop_length)
    heard = difference.any(dim=1).nonzero()
    assert (20 - heard.min(), heard.max() - 20) == (context, context)


@pytest.mark.parametrize("before", [0, 1, 5, 20])
@pytest.mark.parametrize("after", [0, 2, 20])
def test_of_context_no_more_is_computed_than_is_heard(config, before, after):
    _, decoder, _ = build(config)
    decoder, codes, hop = decoder.double(), random_codes(config, 1, 41), config.hop_length
    parts = codes.split([before, 41 - before - after, after], dim=-1)
    whole = decoder.whole(codes)[..., before * hop : (41 - after) * hop]
    torch.testing.assert_close(decoder(*parts), whole, rtol=0, atol=1e-12)
    reaches = decoder.decoder.reaches
    if before == 20 or after == 20:
        for block in range(len(reaches)):  # and no step too many is kept
            decoder.decoder.reaches = [reach - (i == block) for i, reach in enumerate(reaches)]
            assert (decoder(*parts) - whole).abs().max() > 1e-11


def test_a_frame_is_encoded_from_the_context_and_no_more(config):
    """Each of its codes, though the residuals of one stage are what the next one encodes."""
    encoder, _, _ = build(config)
    encoder, context, hop = encoder.double(), context_frames(config), config.hop_length
    audio = random_audio(config, batch=1, frames=41).double()
    changed = audio.clone()
    changed[..., 20 * hop : 21 * hop] *= -1
    heard = (encoder.encoder(changed) - encoder.encoder(audio))[0].any(dim=0).nonzero()
    assert heard.min() < 20 < heard.max()
    assert 20 - context <= heard.min()
    assert heard.max() <= 20 + context


def test_random_codec_is_lively():
    encoder, decoder, _ = build(TINY_DAC)
    audio = decoder.whole(random_codes(TINY_DAC, frames=100))
    assert 0.03 < audio.std() < 0.4
    codes = encoder(random_audio(TINY_DAC, batch=1, frames=200))[0]
    assert all(len(stage.unique()) > 30 for stage in codes)
