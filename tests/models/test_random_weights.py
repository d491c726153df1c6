"""Random checkpoints: reproducible, tensor by tensor, and in a sane range."""

import torch

from dia_models.checkpoint import dac_shapes, dia_shapes
from dia_models.random_weights import TINY_DAC, TINY_DIA, random_dac, random_dia


def test_every_weight_is_as_announced():
    pairs = (
        (random_dia(TINY_DIA), dia_shapes(TINY_DIA)),
        (random_dac(TINY_DAC), dac_shapes(TINY_DAC)),
    )
    for checkpoint, shapes in pairs:
        assert checkpoint.layout == "random"
        assert checkpoint.files == ()
        assert {name: weight.shape for name, weight in checkpoint.weights.items()} == shapes
        for weight in checkpoint.weights.values():
            tensor = weight.load()
            assert (tensor.shape, tensor.dtype) == (weight.shape, weight.dtype)
            assert tensor.is_contiguous()
            assert tensor.isfinite().all()


def test_random_weights_depend_on_seed_and_name_only():
    name = "decoder.layers.0.mlp.down_proj.weight"
    first = random_dia(TINY_DIA, 1).weights
    last = list(random_dia(TINY_DIA, 1).weights.items())[-1][1].load()
    assert torch.equal(list(first.values())[-1].load(), last)
    assert torch.equal(first[name].load(), random_dia(TINY_DIA, 1).weights[name].load())
    assert not torch.equal(first[name].load(), random_dia(TINY_DIA, 2).weights[name].load())
    other = name.replace(".0.", ".1.")
    assert not torch.equal(first[name].load(), first[other].load())


def test_random_queries_and_keys_give_moderate_scores():
    weights = random_dia(TINY_DIA, 0).weights
    decoder = TINY_DIA.decoder
    x = torch.nn.functional.rms_norm(torch.randn(500, decoder.hidden_size), (decoder.hidden_size,))
    qkv = x @ weights["decoder.layers.0.self_attention.qkv_proj.weight"].load()
    heads = qkv.unflatten(-1, (-1, decoder.head_dim))
    scores = heads[:, 0] @ heads[:, decoder.num_heads].t()
    assert 1 < scores.std() < 3
