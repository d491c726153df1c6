"""What quantisation must know of a decoder's values, from running it over sample scripts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dia_export.errors import ExportError
from dia_export.gptq import gptq
from dia_export.quantize import dequantize_blockwise
from dia_export.trace import model_spec
from dia_models.checkpoint import Weight
from dia_models.config import DiaConfig
from dia_models.dia import Decoder, DecoderLayer, Linear, TextEncoder, load_weights
from dia_ort.config import GenerationConfig
from dia_ort.generation import Utterance
from dia_ort.sampling import SamplingParams, choose, draw
from dia_ort.text import encode_text

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, and how much of how much is done."""

_HEADROOM = 1.5
_LEVELS = 127

_STEPS = 128
SCRIPTS = (
    "[S1] yes. [S2] no, (laughs) not now! [S1] are you sure?",
    "[S1] Good morning, and welcome! This is a test. [S2] Thank you. Is the door open?",
    "[S2] One, two, three, four, five, six, seven, eight. [S1] Stop! (sighs) Nine, ten.",
    "[S1] What is your name? [S2] My name is Dia, and I like the red one best.",
    "[S2] Hello, world. (coughs) Excuse me! [S1] You are welcome. Go on, please.",
    "[S1] In the evening the sky was green, then blue, and at last it was black.",
    "[S2] Wait. Are you telling me that nobody knew? (gasps) I can't believe it!",
    "[S1] So, as I said: zero. [S2] Good. We have to leave now, or the train is gone.",
)
"""None is said within the steps there are."""


@torch.inference_mode()
def calibrate_cache(
    config: DiaConfig, weights: Mapping[str, Weight], seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Find what one level of an 8-bit cache must stand for.

    The decoder is run over a script and random audio tokens: on the trained demo, the largest keys
    and values of these and of real speech are within 10% of each other. No more than a layer's
    weights are in memory at a time.

    Args:
        config: Of the model.
        weights: Of its checkpoint.
        seed: Of the random tokens.

    Returns:
        Of each decoder layer the scale of its keys and of its values, float32 of shape (1,): half
        as much again as the largest magnitude that was seen still fits.
    """
    texts = encode_scripts(config, weights, SCRIPTS[:1])
    decoder = _filled_in_turn(Decoder(config), weights, "decoder.")
    _, *caches = _run(decoder, config, texts, _random_tokens(config, len(texts), 2 * _STEPS, seed))
    scales = [_HEADROOM / _LEVELS * values.abs().amax().reshape(1) for values in caches]
    return list(zip(scales[::2], scales[1::2], strict=True))


def set_cache_scales(decoder: nn.Module, scales: list[tuple[Tensor, Tensor]]) -> None:
    """Give every layer of a decoder the scales that :func:`calibrate_cache` found."""
    layers = (module for module in decoder.modules() if isinstance(module, DecoderLayer))
    for layer, (key_scale, value_scale) in zip(layers, scales, strict=True):
        layer.key_scale, layer.value_scale = key_scale, value_scale


@torch.inference_mode()
def calibrate_rounding(
    config: DiaConfig,
    weights: Mapping[str, Weight],
    bits: int,
    block_size: int,
    progress: Progress = lambda _stage, _done, _total: None,
    seed: int = 0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Quantise the decoder's layers by GPTQ, each for the values that reach it in speech.

    The decoder speaks some scripts, in float32 and all in memory. Over that speech, and as much
    of random tokens, each layer is rounded to what is best with all before it rounded already.

    Args:
        config: Of the model.
        weights: Of its checkpoint.
        bits: 4 or 8.
        block_size: Inputs per scale.
        progress: Told of the speech, and of the layers.
        seed: Of the speech and the random tokens.

    Returns:
        By weight name, below the decoder, what :func:`dia_export.gptq.gptq` gives.

    Raises:
        ExportError: The logits are not finite.
    """
    texts = encode_scripts(config, weights, SCRIPTS)
    decoder = Decoder(config)
    load_weights(decoder, weights, "decoder.", torch.float32)
    speech = sample_speech(decoder, config, texts, progress, seed)
    layers = list(decoder.layers)
    rounded: dict[str, tuple[Tensor, Tensor]] = {}

    def round_layer(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        index = layers.index(layer)
        progress("decoder: round", index, len(layers))
        linears = {name: part for name, part in layer.named_modules() if isinstance(part, Linear)}
        for name, moments in _input_moments(layer, linears, arguments).items():
            weight = linears[name].weight
            levels, scales = gptq(weight, moments, bits, block_size)
            rounded[f"layers.{index}.{name}.weight"] = levels, scales
            weight.data = dequantize_blockwise(levels, scales, bits, len(weight))

    for layer in layers:
        layer.register_forward_pre_hook(round_layer)  # what it gives is then that of the rounded
    random = _random_tokens(config, len(texts), _STEPS, seed)
    _run(decoder, config, texts.twice(), torch.cat([speech, random]))
    progress("decoder: round", len(layers), len(layers))
    return rounded


@dataclass(frozen=True, slots=True)
class Texts:
    """Scripts as the decoder reads them, without rows for guidance.

    Attributes:
        lengths: int32, (texts,).
        cross: Keys and values of each layer in turn, (texts, heads, text, head_dim).
        unconditional: (layers, heads * head_dim).
    """

    lengths: Tensor
    cross: list[Tensor]
    unconditional: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def twice(self) -> "Texts":
        """The same scripts, and the same again."""
        cross = [value.repeat(2, 1, 1, 1) for value in self.cross]
        return Texts(self.lengths.repeat(2), cross, self.unconditional)


def encode_scripts(
    config: DiaConfig, weights: Mapping[str, Weight], scripts: Sequence[str]
) -> Texts:
    """Encode scripts with a layer's weights in memory at a time."""
    texts = [torch.from_numpy(encode_text(s, config.encoder.max_positions)) for s in scripts]
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int32)
    tokens = nn.utils.rnn.pad_sequence([*texts, torch.zeros_like(texts[0])], batch_first=True)
    encoder = _filled_in_turn(TextEncoder(config), weights, "encoder.")
    cross = encoder(tokens, torch.cat([lengths, lengths[:1]]))
    return Texts(
        lengths,
        [value[:-1] for value in cross],
        torch.stack([value[-1, :, 0].flatten() for value in cross[1::2]]),
    )


def sample_speech(
    decoder: Decoder,
    config: DiaConfig,
    texts: Texts,
    progress: Progress = lambda _stage, _done, _total: None,
    seed: int = 0,
) -> Tensor:
    """Let a decoder speak scripts as the runtime would with default settings.

    Args:
        decoder: With its weights.
        config: Of the model.
        texts: The scripts.
        progress: Told of every step.
        seed: Of the first script; each other one's is greater by 1.

    Returns:
        The tokens of :data:`_STEPS` steps, delayed, int64 of shape (texts, steps, channels).

    Raises:
        ExportError: The logits are not finite.
    """
    spec = model_spec(config)
    steps, no_voice = min(_STEPS, spec.max_steps), np.empty((0, spec.num_channels), np.int64)
    settings = [GenerationConfig(max_tokens=steps, seed=seed + i) for i in range(len(texts))]
    utterances = [Utterance(spec, setting, no_voice) for setting in settings]
    params = SamplingParams.stack(settings)
    release, eos = spec.release, spec.eos_token_id
    shape = (2 * len(texts), spec.num_kv_heads, steps, spec.head_dim)
    caches = [torch.zeros(shape)] * (2 * spec.num_layers)
    spoken: list[Tensor] = []
    for step in range(steps):
        if step > 0:
            logits, *caches = _run(decoder, config, texts, spoken[-1], caches, step - 1)
            cond, uncond = np.split(logits[:, 0].numpy(), 2)
            candidates = choose(cond, uncond, params, release=release, eos_token_id=eos)
            if not candidates.finite.all():
                raise ExportError("the decoder's logits are not finite: its weights are damaged.")
            uniforms = np.stack([utterance.uniforms() for utterance in utterances])
            drawn = draw(candidates, uniforms, params, release=release, eos_token_id=eos)
            for utterance, tokens in zip(utterances, drawn, strict=True):
                utterance.advance(tokens)
        spoken.append(torch.from_numpy(np.stack([u.tokens for u in utterances])[:, None]))
        progress("decoder: sample speech", step + 1, steps)
    return torch.cat(spoken, dim=1)


def _random_tokens(config: DiaConfig, texts: int, steps: int, seed: int) -> Tensor:
    """Random audio, delayed: (texts, steps, channels), no longer than the model allows."""
    steps = min(steps, config.decoder.max_positions)
    shape = (texts, steps, config.decoder.num_channels)
    tokens = np.random.default_rng(seed).integers(0, config.eos_token_id, shape)
    for channel, delay in enumerate(config.delay_pattern):
        tokens[:, : delay + 1, channel] = config.bos_token_id
    return torch.from_numpy(tokens)


def _run(
    decoder: nn.Module,
    config: DiaConfig,
    texts: Texts,
    tokens: Tensor,
    caches: Sequence[Tensor] = (),
    start: int = 0,
) -> tuple[Tensor, ...]:
    """Run steps from ``start`` on, with guidance's rows beside the texts'; logits and caches."""
    shape = config.decoder
    rows, stop = 2 * len(texts), start + tokens.shape[1]
    outputs: tuple[Tensor, ...] = decoder(
        tokens.repeat(2, 1, 1),
        torch.full((rows,), stop - 1, dtype=torch.int32),
        torch.tensor([stop], dtype=torch.int32),
        texts.lengths,
        texts.unconditional,
        texts.cross,
        list(caches)
        or [torch.zeros(rows, shape.num_kv_heads, stop, shape.head_dim)] * (2 * shape.num_layers),
    )
    return outputs


def _input_moments(
    layer: nn.Module, linears: Mapping[str, Linear], arguments: tuple[Any, ...]
) -> dict[str, Tensor]:
    """Of some matrices of a layer, the sum of ``outer(x, x)`` over their inputs x."""
    found = {}

    def watch(name: str, linear: Linear) -> RemovableHandle:
        def add(_linear: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].flatten(0, -2)
            found[name] = x.T @ x

        return linear.register_forward_pre_hook(add)

    hooks = [watch(name, linear) for name, linear in linears.items()]
    layer.forward(*arguments)
    for hook in hooks:
        hook.remove()
    return found


def _filled_in_turn(module: nn.Module, weights: Mapping[str, Weight], prefix: str) -> nn.Module:
    """An unfilled module whose parts read their weights when they run, and drop them after."""

    def watch(part: nn.Module, name: str) -> None:
        def fill(*_call: object) -> None:
            load_weights(part, weights, name, torch.float32)

        def drop(*_call: object) -> None:
            for parameter in part.parameters():
                parameter.data = torch.empty(0)

        part.register_forward_pre_hook(fill)
        part.register_forward_hook(drop)

    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            for index, layer in enumerate(child):
                watch(layer, f"{prefix}{name}.{index}.")
        else:
            watch(child, f"{prefix}{name}.")
    return module
