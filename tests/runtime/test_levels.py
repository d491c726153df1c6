"""Graphs of x86 without VNNI, which run everywhere: uint8 weights, made of the file's int8."""

import dataclasses
import sys

import numpy as np
import pytest

from dia_ort import Dia, GenerationConfig, levels, placement
from dia_ort.artifacts import find_artifact
from dia_ort.errors import ArtifactError, ProviderError
from dia_ort.graphs import DECODER, ENCODER
from dia_ort.levels import UnsignedLevels
from dia_ort.providers import Provider
from support.artifacts import copy_demo

DEMO = find_artifact("demo")
UNSIGNED = {info.graph: info for info in DEMO.manifest.graphs if info.unsigned}


@pytest.fixture
def overflow(monkeypatch):
    monkeypatch.setattr(placement, "products_overflow", lambda: True)


def feed(session):
    """Something for each input of an encoder, or a decoder's step."""
    sizes = {"rows": 2, "texts": 1, "steps": 1, "text": 32, "cache": 8}
    whole = {"tokens": 5, "seqlens_k": 0, "total_sequence_length": 1, "text_lengths": 9}
    random, values = np.random.default_rng(0), {}
    for tensor in session.get_inputs():
        shape = [sizes.get(axis, axis) for axis in tensor.shape]
        dtype = {"int64": "int64", "int32": "int32", "int8": "int8"}.get(
            tensor.type[7:-1], "float32"
        )
        value = whole.get(tensor.name, random.normal(size=shape))
        values[tensor.name] = np.full(shape, value, dtype)
    return values


@pytest.mark.parametrize("prepack", [False, True])
@pytest.mark.parametrize("graph", [ENCODER, DECODER])
def test_they_compute_the_same(graph, prepack):
    """Bit for bit, though the converted weights are given back when they are packed."""
    signed = DEMO.manifest.find(graph, "float32")
    outputs = []
    for info in (signed, UNSIGNED[graph]):
        session = placement.open_graph(DEMO, info, Provider("cpu"), 1, prepack=prepack)
        outputs.append(session.run(None, feed(session)))
    for have, want in zip(*outputs, strict=True):
        np.testing.assert_array_equal(have, want)


def test_speech_is_the_same(overflow, monkeypatch):
    config = GenerationConfig(seed=3, max_tokens=40)
    unsigned = Dia.load("demo", provider="cpu")
    assert unsigned._decoder_info.unsigned
    codes = unsigned.generate_codes("[S1] hello world.", config)
    monkeypatch.setattr(placement, "products_overflow", lambda: False)
    signed = Dia.load("demo", provider="cpu")
    assert not signed._decoder_info.unsigned
    assert np.array_equal(codes, signed.generate_codes("[S1] hello world.", config))


def test_the_values():
    info = UNSIGNED[DECODER]
    stored = np.fromfile(DEMO.folder / info.data, np.int8)
    converted = UnsignedLevels(DEMO.folder / info.data, info.unsigned)
    for part in info.unsigned:
        array = converted.arrays[part.name]
        assert array.shape == part.shape
        want = stored[part.offset : part.offset + array.size].astype(int) + 128
        np.testing.assert_array_equal(array.reshape(-1), want)
    converted.give_back()
    assert converted.arrays[part.name].max() >= 0  # its address is still good


@pytest.mark.skipif(sys.platform != "linux", reason="Linux gives back")
@pytest.mark.parametrize(("cpu", "kept"), [("flags : avx avx2", 0), ("flags : avx", 1), (None, 1)])
def test_memory_is_given_back_where_weights_are_packed(monkeypatch, tmp_path, cpu, kept):
    info = UNSIGNED[DECODER]
    converted = UnsignedLevels(DEMO.folder / info.data, info.unsigned)
    if cpu:
        (tmp_path / "cpuinfo").write_text(cpu)
    monkeypatch.setattr(levels, "_CPUINFO", tmp_path / "cpuinfo")
    converted.give_back()
    assert all(array.any() == kept for array in converted.arrays.values())


def test_a_file_that_is_too_short(overflow, tmp_path):
    copy_demo(tmp_path / "model")
    path = tmp_path / "model" / "decoder.onnx.data"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError):
        Dia.load(tmp_path / "model", provider="cpu")
    with pytest.raises(ArtifactError, match=r"decoder.onnx.data is shorter than its manifest says"):
        UnsignedLevels(path, UNSIGNED[DECODER].unsigned)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"decoder.onnx.data cannot be read"):
        UnsignedLevels(path, UNSIGNED[DECODER].unsigned)


def test_no_memory_is_told(monkeypatch):
    def refuse(_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(levels, "private_pages", refuse)
    info = UNSIGNED[DECODER]
    with pytest.raises(ProviderError, match=r"there is no memory for the weights of .*onnx.data"):
        UnsignedLevels(DEMO.folder / info.data, info.unsigned)


def test_who_needs_none_has_none():
    assert {info.provider for info in UNSIGNED.values()} == {"cpu"}
    plain = dataclasses.replace(UNSIGNED[DECODER], unsigned=())
    assert placement.open_graph(DEMO, plain, Provider("cpu"), 1, prepack=False).levels is None
