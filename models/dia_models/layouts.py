"""Where the weights stand in each published layout, and how canonical ones are made of them.

Canonical weights are those of the modules in `dia_models.dia` and `dia_models.dac`. Linear
weights of Dia are input-first, (in, out), with heads flattened head-major; projections that read
the same input stand side by side along `out`. The weights of cross-attention's keys and values
belong to the encoder, because they depend on the text alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dia_models.config import DacConfig, DecoderConfig, DiaConfig, EncoderConfig
from dia_models.dac import DacDecoder, DacEncoder

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one canonical weight is made.

    Attributes:
        shape: Of the canonical weight.
        parts: Keys of the tensors in the file, with their shapes there.
        join: Makes the canonical weight of the tensors, in the order of `parts`.
    """

    shape: Shape
    parts: Mapping[str, Shape]
    join: Callable[[Sequence[Tensor]], Tensor]


Layout = dict[str, Recipe]


@dataclass(frozen=True, slots=True)
class _Projection:
    """Linear maps of one input: upstream's modules with the axes that each puts out."""

    inputs: Shape
    modules: Mapping[str, Shape]

    @property
    def shape(self) -> Shape:
        return math.prod(self.inputs), sum(math.prod(out) for out in self.modules.values())


def dia_shapes(config: DiaConfig) -> dict[str, Shape]:
    """Canonical names and shapes of all weights of a Dia model."""
    channels = config.decoder.num_channels
    return {
        "encoder.embedding.weight": (config.encoder.vocab_size, config.encoder.hidden_size),
        "decoder.embedding.weight": (
            channels * config.decoder.vocab_size,
            config.decoder.hidden_size,
        ),
        **{f"{name}.weight": (width,) for name, width in _norms(config).items()},
        **{f"{name}.weight": linear.shape for name, linear in _projections(config).items()},
    }


def transformers_dia(config: DiaConfig) -> Layout:
    """Dia as transformers saves it: output-first linears, one table for all channels."""

    def linear(projection: _Projection) -> Recipe:
        inputs = math.prod(projection.inputs)
        parts = {
            f"{'' if module == 'logits_dense' else 'model.'}{module}.weight": (
                math.prod(outputs),
                inputs,
            )
            for module, outputs in projection.modules.items()
        }
        return Recipe(projection.shape, parts, lambda tensors: torch.cat(list(tensors)).t())

    layout = {f"{name}.weight": linear(item) for name, item in _projections(config).items()}
    for name, shape in dia_shapes(config).items():
        layout.setdefault(name, _as_is(shape, f"model.{name}"))
    table = layout["decoder.embedding.weight"].shape
    layout["decoder.embedding.weight"] = _as_is(table, "model.decoder.embeddings.embed.weight")
    return layout


def nari_dia(config: DiaConfig) -> Layout:
    """Dia as nari-labs saves it: input-first kernels with their axes apart, a table a channel."""
    renamed = {
        "mlp.gate_up_proj": "mlp.wi_fused",
        "mlp.down_proj": "mlp.wo",
        "logits_dense": "decoder.logits_dense",
    }

    def key(module: str) -> str:
        for ours, theirs in renamed.items():
            if module.endswith(ours):
                return f"{module.removesuffix(ours)}{theirs}.weight"
        return f"{module}.weight"

    def linear(projection: _Projection) -> Recipe:
        inputs = math.prod(projection.inputs)
        parts = {
            key(module): projection.inputs + outputs
            for module, outputs in projection.modules.items()
        }
        return Recipe(
            projection.shape,
            parts,
            lambda tensors: torch.cat([tensor.reshape(inputs, -1) for tensor in tensors], dim=1),
        )

    layout = {f"{name}.weight": linear(item) for name, item in _projections(config).items()}
    for name, shape in dia_shapes(config).items():
        layout.setdefault(name, _as_is(shape, name))
    table = layout["decoder.embedding.weight"].shape
    channel = (config.decoder.vocab_size, config.decoder.hidden_size)
    channels = {
        f"decoder.embeddings.{c}.weight": channel for c in range(config.decoder.num_channels)
    }
    layout["decoder.embedding.weight"] = Recipe(
        table, channels, lambda tensors: torch.cat(list(tensors))
    )
    return layout


def dac_shapes(config: DacConfig) -> dict[str, Shape]:
    """Canonical names and shapes of all weights of the codec."""
    with torch.device("meta"):
        states = DacEncoder(config).state_dict() | DacDecoder(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in states.items()}


def transformers_dac(config: DacConfig) -> Layout:
    """The codec as transformers saves it: the canonical names, with weight norm folded."""
    return {
        name: _as_is(shape, name.replace("quantizer.", "quantizer.quantizers."))
        for name, shape in dac_shapes(config).items()
    }


def descript_dac(config: DacConfig) -> Layout:
    """The codec as descript saves it: numbered modules, convolutions weight-normed."""
    names = _descript_modules(config)

    def recipe(name: str, shape: Shape) -> Recipe:
        module, _, leaf = name.rpartition(".")
        module = names.get(module, module.replace("quantizer.", "quantizer.quantizers."))
        if leaf != "weight" or module.endswith("codebook"):
            return _as_is(shape, f"{module}.{leaf}")
        gain = (shape[0],) + (1,) * (len(shape) - 1)
        parts = {f"{module}.weight_g": gain, f"{module}.weight_v": shape}
        return Recipe(shape, parts, lambda tensors: fold_weight_norm(*tensors))

    return {name: recipe(name, shape) for name, shape in dac_shapes(config).items()}


def fold_weight_norm(gain: Tensor, direction: Tensor) -> Tensor:
    """The weight g * v / |v|, with the norm over all axes but the first, in float64.

    Args:
        gain: (channels, 1, ...)
        direction: (channels, ...)

    Returns:
        (channels, ...) in the dtype of `direction`.
    """
    wide = direction.double()
    norm = torch.linalg.vector_norm(wide, dim=tuple(range(1, wide.ndim)), keepdim=True)
    folded: Tensor = gain.double() * (wide / norm)
    return folded.to(direction.dtype)


def _as_is(shape: Shape, key: str) -> Recipe:
    return Recipe(shape, {key: shape}, lambda tensors: tensors[0])


def _norms(config: DiaConfig) -> dict[str, int]:
    stacks: dict[str, tuple[EncoderConfig | DecoderConfig, tuple[str, ...]]] = {
        "encoder": (config.encoder, ("pre_sa_norm", "post_sa_norm")),
        "decoder": (config.decoder, ("pre_sa_norm", "pre_ca_norm", "pre_mlp_norm")),
    }
    norms: dict[str, int] = {}
    for stack, (section, names) in stacks.items():
        for i in range(section.num_layers):
            norms |= {f"{stack}.layers.{i}.{name}": section.hidden_size for name in names}
        norms[f"{stack}.norm"] = section.hidden_size
    return norms


def _projections(config: DiaConfig) -> dict[str, _Projection]:
    """Canonical linear maps, and the modules of upstream (in its naming) that they unite."""
    encoder, decoder = config.encoder, config.decoder
    maps: dict[str, _Projection] = {}
    for i in range(encoder.num_layers):
        maps |= _layer(f"encoder.layers.{i}", encoder, encoder.num_heads)
    cross = (decoder.cross_num_heads, decoder.cross_head_dim)
    for i in range(decoder.num_layers):
        layer = f"decoder.layers.{i}"
        attention = f"{layer}.cross_attention"
        maps |= _layer(layer, decoder, decoder.num_kv_heads)
        maps |= {
            f"{attention}.q_proj": _Projection(
                (decoder.hidden_size,), {f"{attention}.q_proj": cross}
            ),
            f"{attention}.o_proj": _Projection(
                cross, {f"{attention}.o_proj": (decoder.hidden_size,)}
            ),
            f"encoder.cross.{i}.kv_proj": _Projection(
                (decoder.cross_hidden_size,),
                {f"{attention}.k_proj": cross, f"{attention}.v_proj": cross},
            ),
        }
    maps["decoder.logits"] = _Projection(
        (decoder.hidden_size,), {"logits_dense": (decoder.num_channels, decoder.vocab_size)}
    )
    return maps


def _layer(
    layer: str, config: EncoderConfig | DecoderConfig, num_kv_heads: int
) -> dict[str, _Projection]:
    """Self-attention and MLP of one layer."""
    width = (config.hidden_size,)
    queries = (config.num_heads, config.head_dim)
    keys = (num_kv_heads, config.head_dim)
    attention, mlp = f"{layer}.self_attention", f"{layer}.mlp"
    return {
        f"{attention}.qkv_proj": _Projection(
            width,
            {
                f"{attention}.q_proj": queries,
                f"{attention}.k_proj": keys,
                f"{attention}.v_proj": keys,
            },
        ),
        f"{attention}.o_proj": _Projection(queries, {f"{attention}.o_proj": width}),
        f"{mlp}.gate_up_proj": _Projection(
            width, {f"{mlp}.gate_up_proj": (2, config.intermediate_size)}
        ),
        f"{mlp}.down_proj": _Projection((config.intermediate_size,), {f"{mlp}.down_proj": width}),
    }


def _descript_modules(config: DacConfig) -> dict[str, str]:
    """Canonical module names to descript's numbered ones."""
    encoder, decoder = len(config.encoder_rates), len(config.decoder_rates)
    names = {
        "encoder.conv1": "encoder.block.0",
        "encoder.snake1": f"encoder.block.{encoder + 1}",
        "encoder.conv2": f"encoder.block.{encoder + 2}",
        "decoder.conv1": "decoder.model.0",
        "decoder.snake1": f"decoder.model.{decoder + 1}",
        "decoder.conv2": f"decoder.model.{decoder + 2}",
    }
    in_encoder = {"res_unit1": 0, "res_unit2": 1, "res_unit3": 2, "snake1": 3, "conv1": 4}
    in_decoder = {"snake1": 0, "conv_t1": 1, "res_unit1": 2, "res_unit2": 3, "res_unit3": 4}
    in_unit = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
    for stack, theirs, count, members in (
        ("encoder", "encoder.block", encoder, in_encoder),
        ("decoder", "decoder.model", decoder, in_decoder),
    ):
        for i in range(count):
            for member, number in members.items():
                ours = f"{stack}.block.{i}.{member}"
                block = f"{theirs}.{i + 1}.block.{number}"
                names[ours] = block
                names |= {f"{ours}.{part}": f"{block}.block.{n}" for part, n in in_unit.items()}
    return names
