"""Checkpoints in every published layout, and what is wrong with broken ones."""

import copy
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DacConfig as TransformersDacConfig
from transformers import DacModel, DiaForConditionalGeneration
from transformers import DiaConfig as TransformersDiaConfig

from dia_models import CheckpointError, CheckpointNotFoundError, open_dac, open_dia
from dia_models.checkpoint import dac_shapes, dia_shapes
from dia_models.dac import DacDecoder
from support.descript import descript_dac_class
from support.nari_checkpoint import save_tiny_checkpoint, tiny_state_dict

SIZES = {
    "encoder_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "intermediate_size": 40,
    },
    "decoder_config": {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "cross_num_attention_heads": 2,
        "cross_num_key_value_heads": 2,
        "cross_head_dim": 24,
        "cross_hidden_size": 32,
        "intermediate_size": 56,
    },
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = DiaForConditionalGeneration(TransformersDiaConfig(**copy.deepcopy(SIZES))).eval()
    for weight in model.parameters():  # norms too, which start as ones
        torch.nn.init.normal_(weight)
    return model


@pytest.fixture
def folder(model, tmp_path):
    """A transformers checkpoint that a test may spoil."""
    model.save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, edit):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def load_all(checkpoint):
    for name, weight in checkpoint.weights.items():
        tensor = weight.load()
        assert tensor.shape == weight.shape, name
        assert tensor.dtype == weight.dtype, name
        assert tensor.is_contiguous(), name
    return {name: weight.load() for name, weight in checkpoint.weights.items()}


def assert_equals_transformers(weights, model):
    """Every canonical weight, against what the modules of transformers compute with."""
    encoder, decoder = model.model.encoder, model.model.decoder
    pairs = {
        "encoder.embedding": encoder.embedding.weight,
        "encoder.norm": encoder.norm.weight,
        "decoder.embedding": decoder.embeddings.embed.weight,
        "decoder.norm": decoder.norm.weight,
        "decoder.logits": model.logits_dense.weight.t(),
    }
    for stack, layers in (("encoder", encoder.layers), ("decoder", decoder.layers)):
        for i, layer in enumerate(layers):
            name, attention = f"{stack}.layers.{i}", layer.self_attention
            qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
            pairs[f"{name}.self_attention.qkv_proj"] = torch.cat([m.weight.t() for m in qkv], 1)
            pairs[f"{name}.self_attention.o_proj"] = attention.o_proj.weight.t()
            pairs[f"{name}.mlp.gate_up_proj"] = layer.mlp.gate_up_proj.weight.t()
            pairs[f"{name}.mlp.down_proj"] = layer.mlp.down_proj.weight.t()
            norms = [norm for norm, _ in layer.named_children() if norm.endswith("norm")]
            pairs |= {f"{name}.{norm}": getattr(layer, norm).weight for norm in norms}
    for i, layer in enumerate(decoder.layers):
        cross, name = layer.cross_attention, f"decoder.layers.{i}.cross_attention"
        kv = torch.cat([cross.k_proj.weight.t(), cross.v_proj.weight.t()], 1)
        pairs[f"encoder.cross.{i}.kv_proj"] = kv
        pairs[f"{name}.q_proj"] = cross.q_proj.weight.t()
        pairs[f"{name}.o_proj"] = cross.o_proj.weight.t()
    assert weights.keys() == {f"{name}.weight" for name in pairs}
    for name, expected in pairs.items():
        assert torch.equal(weights[f"{name}.weight"], expected.detach()), name


# Layouts of Dia.


def test_transformers_single_file(model, folder):
    checkpoint = open_dia(folder)
    assert (checkpoint.layout, checkpoint.revision) == ("transformers", None)
    assert checkpoint.source == str(folder)
    assert checkpoint.config.release == "0626"
    assert not checkpoint.config.cross_rope
    assert checkpoint.config.decoder.num_kv_heads == 2
    assert {n: w.shape for n, w in checkpoint.weights.items()} == dia_shapes(checkpoint.config)
    assert_equals_transformers(load_all(checkpoint), model)


def test_transformers_sharded(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    checkpoint = open_dia(tmp_path)
    assert len(checkpoint.files) > 3
    assert checkpoint.files[0].name == "model.safetensors.index.json"
    assert_equals_transformers(load_all(checkpoint), model)


def test_a_file_stands_for_itself_and_its_name_does_not_matter(model, folder):
    path = folder / "model.safetensors"
    path = path.rename(folder / "weights.pth")
    assert_equals_transformers(load_all(open_dia(path)), model)


def test_stored_dtype_is_kept(model, tmp_path):
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    weights = load_all(open_dia(tmp_path))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert_equals_transformers(weights, half)


@pytest.mark.parametrize("release", ["first", "0626"])
def test_nari(release, tmp_path):
    save_tiny_checkpoint(tmp_path, release, seed=3)
    checkpoint = open_dia(tmp_path)
    assert (checkpoint.layout, checkpoint.config.release) == ("nari", release)
    assert checkpoint.config.cross_rope == (release == "first")
    assert {n: w.shape for n, w in checkpoint.weights.items()} == dia_shapes(checkpoint.config)
    weights = load_all(checkpoint)
    theirs = {k: torch.from_numpy(v) for k, v in tiny_state_dict(release, seed=3).items()}

    def flat(name):
        kernel = theirs[f"{name}.weight"]
        return kernel.reshape(kernel.shape[0], -1)

    attention = "decoder.layers.1.self_attention"
    qkv = torch.cat([flat(f"{attention}.{part}_proj") for part in "qkv"], 1)
    assert torch.equal(weights[f"{attention}.qkv_proj.weight"], qkv)
    out = theirs[f"{attention}.o_proj.weight"].flatten(0, 1)
    assert torch.equal(weights[f"{attention}.o_proj.weight"], out)
    gate_up = flat("decoder.layers.2.mlp.wi_fused")
    assert torch.equal(weights["decoder.layers.2.mlp.gate_up_proj.weight"], gate_up)
    cross = [flat(f"decoder.layers.0.cross_attention.{part}_proj") for part in "kv"]
    assert torch.equal(weights["encoder.cross.0.kv_proj.weight"], torch.cat(cross, 1))
    assert torch.equal(weights["decoder.logits.weight"], flat("decoder.logits_dense"))
    channels = checkpoint.config.decoder.num_channels
    tables = [theirs[f"decoder.embeddings.{c}.weight"] for c in range(channels)]
    assert torch.equal(weights["decoder.embedding.weight"], torch.cat(tables))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_old_and_new(tmp_path, zipped):
    save_tiny_checkpoint(tmp_path, "first", seed=0)
    expected = load_all(open_dia(tmp_path))
    (path,) = tmp_path.glob("*.pth")
    weights = torch.load(path, weights_only=True)
    path.unlink()
    name = tmp_path / "pytorch_model.bin"
    torch.save(weights, name, _use_new_zipfile_serialization=zipped)
    weights = load_all(open_dia(tmp_path))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


# Layouts of the codec.


def small_descript_dac():
    torch.manual_seed(0)
    kwargs = {
        "encoder_dim": 4,
        "encoder_rates": [2, 4],
        "latent_dim": 12,
        "decoder_dim": 16,
        "decoder_rates": [4, 2],
        "n_codebooks": 2,
        "codebook_size": 16,
        "codebook_dim": 4,
        "quantizer_dropout": 0.5,
        "sample_rate": 8000,
    }
    model = descript_dac_class()(**kwargs).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model, kwargs


def test_descript(tmp_path):
    model, kwargs = small_descript_dac()
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": model.state_dict(), "metadata": {"kwargs": kwargs}}, path)
    checkpoint = open_dac(path)
    assert checkpoint.layout == "descript"
    assert checkpoint.config.hop_length == 8
    assert {n: w.shape for n, w in checkpoint.weights.items()} == dac_shapes(checkpoint.config)
    weights = load_all(checkpoint)
    decoder = DacDecoder(checkpoint.config)
    decoder.load_state_dict({name: weights[name] for name in decoder.state_dict()})
    codes = torch.randint(0, 16, (2, 2, 5))
    with torch.no_grad():
        expected = model.decode(model.quantizer.from_codes(codes)[0])
        torch.testing.assert_close(decoder.whole(codes), expected, rtol=0, atol=1e-5)
    assert open_dac(tmp_path).files == (path,)


def test_transformers_dac(tmp_path):
    torch.manual_seed(0)
    config = TransformersDacConfig(
        encoder_hidden_size=4, decoder_hidden_size=32, n_codebooks=2, codebook_size=16
    )
    model = DacModel(config)
    model.save_pretrained(tmp_path)
    checkpoint = open_dac(tmp_path)
    assert checkpoint.layout == "transformers"
    assert checkpoint.config.sample_rate == 16000
    theirs = model.state_dict()
    for name, weight in load_all(checkpoint).items():
        assert torch.equal(weight, theirs[name.replace("quantizer.", "quantizer.quantizers.")])
    assert len(checkpoint.weights) == len(theirs)


# What is wrong is named.


def test_missing_unexpected_and_misshapen_keys_in_one_error(folder):
    def spoil(weights):
        del weights["model.encoder.norm.weight"]
        weights["model.extra"] = torch.zeros(1)
        weights["logits_dense.weight"] = torch.zeros(3, 4)

    edit_weights(folder, spoil)
    with pytest.raises(CheckpointError) as error:
        open_dia(folder)
    message = str(error.value)
    assert "1 missing: model.encoder.norm.weight" in message
    assert "1 unexpected: model.extra" in message
    assert "1 of the wrong shape: logits_dense.weight [3, 4], expected [9252, 48]" in message


def test_long_lists_are_cut(folder):
    edit_weights(
        folder, lambda weights: weights.update({f"x{i:02}": torch.ones(1) for i in range(25)})
    )
    with pytest.raises(CheckpointError, match=r"25 unexpected: x00, .*, x09, and 15 more"):
        open_dia(folder)


def test_other_model(tmp_path, folder):
    edit_weights(folder, lambda weights: [weights.pop(name) for name in list(weights)[1:]])
    with pytest.raises(CheckpointError, match="missing"):
        open_dia(folder)


def test_quantised_weights_are_refused(folder):
    key = "model.encoder.norm.weight"
    edit_weights(folder, lambda weights: weights.update({key: weights[key].to(torch.int8)}))
    with pytest.raises(CheckpointError, match=f"{key} is stored as I8"):
        open_dia(folder)


@pytest.mark.parametrize("size", [0, 4, 5000, -1])
def test_truncated_safetensors(folder, size):
    path = folder / "model.safetensors"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        open_dia(folder)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.9])
def test_truncated_pickle(tmp_path, part):
    save_tiny_checkpoint(tmp_path, "first", seed=0)
    (path,) = tmp_path.glob("*.pth")
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises(CheckpointError, match="damaged"):
        open_dia(tmp_path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_malicious_pickle_is_refused(tmp_path, save):
    victim = tmp_path / "victim"
    path = tmp_path / "weights.pth"
    save({"state_dict": {"a": Malicious(victim)}, "metadata": {}}, path)
    with pytest.raises(CheckpointError, match="refused"):
        open_dac(path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {"state_dict": {"a": "b"}}])
def test_pickle_of_something_else(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="not a state dict"):
        open_dac(path)


def test_broken_index(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointNotFoundError, match="model-00002"):
        open_dia(tmp_path)
    content["weight_map"]["a"] = "../model.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="index"):
        open_dia(tmp_path)
    index.write_text("[")
    with pytest.raises(CheckpointError, match="JSON"):
        open_dia(tmp_path)


def test_config_problems_name_the_file(folder):
    edit_config(folder, lambda config: config["decoder_config"].pop("head_dim"))
    with pytest.raises(ValueError, match=f"{folder}.*missing: decoder_config.head_dim"):
        open_dia(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"config.json is not there"):
        open_dia(folder)
