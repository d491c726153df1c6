"""What goes to CoreML, the static graphs it is given, and the codec in windows."""

import dataclasses
import shutil

import numpy as np
import pytest

from dia_ort import coreml
from dia_ort.artifacts import find_artifact
from dia_ort.coreml import (
    LARGEST_AXIS,
    cache_folder,
    placement,
    provider_options,
    run_in_windows,
    static_graph,
    static_sizes,
    window_frames,
)
from dia_ort.errors import ArtifactError, ProviderError
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER, DECODER, ENCODER, GRAPH_NAMES
from dia_ort.providers import available_providers, onnxruntime, session_options

DEMO = find_artifact("demo")
MANIFEST, CODEC = DEMO.manifest, DEMO.manifest.codec
STANDARD = dataclasses.replace(MANIFEST, attention="standard")


def open_graph(path):
    return onnxruntime().InferenceSession(
        str(path), session_options(), providers=["CPUExecutionProvider"]
    )


def file_of(graph):
    return DEMO.folder / MANIFEST.find(graph, "float32").file


# The table


def test_the_table():
    for graph in (DAC_DECODER, DAC_ENCODER):
        assert placement(graph, MANIFEST).on_coreml
    for graph in (ENCODER, DECODER):
        assert not placement(graph, MANIFEST).on_coreml
        assert "--attention standard" in placement(graph, MANIFEST).reason
        assert placement(graph, STANDARD).on_coreml
    for manifest in (MANIFEST, STANDARD):
        assert all(placement(graph, manifest).reason for graph in GRAPH_NAMES)


def test_options_and_their_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path))
    assert cache_folder().parent == tmp_path
    assert cache_folder().name.startswith(".")  # no model's name
    options = provider_options(cache_folder())
    assert options["ModelFormat"] == "MLProgram"
    assert options["ModelCacheDirectory"] == str(cache_folder())
    assert all(isinstance(value, str) for value in options.values())


def test_sizes_are_of_the_graphs_inputs():
    for info in MANIFEST.graphs:
        axes = {a for tensor in MANIFEST.spec(info).inputs for a in tensor.axes}
        named = {axis for axis in axes if isinstance(axis, str)}
        assert set(static_sizes(info.graph, MANIFEST)) == named
    assert static_sizes(DAC_ENCODER, MANIFEST)["samples"] <= LARGEST_AXIS


def test_codecs_whose_windows_would_be_all_context():
    hop = LARGEST_AXIS // (2 * CODEC.context_frames)
    with pytest.raises(ProviderError, match=r"windows of 20 frames .* take --provider cpu"):
        window_frames(dataclasses.replace(CODEC, hop_length=hop))
    assert window_frames(dataclasses.replace(CODEC, hop_length=hop - 50)) == 21


# Static variants


def test_a_variant_stands_alone(tmp_path):
    copy = shutil.copytree(DEMO.folder, tmp_path / "copy")
    path = static_graph(copy / "dac_decoder.onnx", {"batch": 1, "frames": 21}, tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [path.name]
    shutil.rmtree(copy)
    codes = np.random.default_rng(0).integers(0, 1024, (1, 9, 21))
    session = open_graph(path)
    assert session.get_inputs()[0].shape == [1, 9, 21]
    assert session.get_outputs()[0].shape == [1, 1, 21 * CODEC.hop_length]
    np.testing.assert_allclose(
        session.run(None, {"codes": codes})[0],
        open_graph(file_of(DAC_DECODER)).run(None, {"codes": codes})[0],
        rtol=0,
        atol=1e-5,
    )


def test_some_axes_may_stay_free(tmp_path):
    path = static_graph(file_of(DAC_DECODER), {"batch": 1}, tmp_path)
    assert open_graph(path).get_inputs()[0].shape == [1, 9, "frames"]


def test_a_variant_is_made_once(tmp_path, monkeypatch):
    copy = shutil.copytree(DEMO.folder, tmp_path / "copy")
    made = []
    write = coreml._write_static
    monkeypatch.setattr(coreml, "_write_static", lambda *a: made.append(a) or write(*a))

    def get(frames=21):
        return static_graph(copy / "dac_decoder.onnx", {"batch": 1, "frames": frames}, tmp_path)

    first = get()
    assert get() == first
    assert len(made) == 1
    assert get(22) != first
    assert len(made) == 2
    (copy / "dac_decoder.onnx.data").touch()  # as if it were exported again
    assert get() != first
    monkeypatch.setattr(coreml.onnxruntime(), "__version__", "99.0")
    assert get() != first
    assert len(made) == 4


def test_weights_that_are_too_large_lie_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(coreml, "_LARGEST_FILE", 100_000)
    path = static_graph(file_of(DECODER), static_sizes(DECODER, MANIFEST), tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [path.name, f"{path.name}.data"]
    assert (tmp_path / names[1]).stat().st_size > 1_000_000
    assert open_graph(path).get_inputs()[0].shape == [2, 1, 9]


def test_failures_leave_nothing(tmp_path):
    copy = shutil.copytree(DEMO.folder, tmp_path / "copy")
    (copy / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"encoder.onnx cannot be made static: "):
        static_graph(copy / "encoder.onnx", {"rows": 1}, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="file is not writable: "):
        static_graph(file_of(ENCODER), {"rows": 1}, tmp_path / "file")


# The codec in windows


@pytest.fixture(scope="module")
def codec_runs(tmp_path_factory):
    """By graph: it in its static variant, and as it was exported."""
    cache = tmp_path_factory.mktemp("cache")

    def pair(graph):
        name = MANIFEST.spec(MANIFEST.find(graph, "float32")).inputs[0].name
        paths = (
            static_graph(file_of(graph), static_sizes(graph, MANIFEST), cache),
            file_of(graph),
        )
        sessions = map(open_graph, paths)
        return [lambda data, s=session: s.run(None, {name: data})[0] for session in sessions]

    return {graph: pair(graph) for graph in (DAC_DECODER, DAC_ENCODER)}


@pytest.mark.parametrize("frames", [32, 33, 44, 45, 100])
def test_windows_decode_to_the_whole(codec_runs, frames):
    window, whole = codec_runs[DAC_DECODER]
    codes = np.random.default_rng(frames).integers(0, CODEC.codebook_size, (1, 9, frames))
    audio = run_in_windows(window, codes, CODEC, (1, CODEC.hop_length))
    np.testing.assert_allclose(audio, whole(codes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [32, 40, 87])
def test_windows_encode_to_the_whole(codec_runs, frames):
    """But for near-ties that rounding breaks the other way; here there are none."""
    window, whole = codec_runs[DAC_ENCODER]
    shape = (1, 1, frames * CODEC.hop_length)
    audio = np.tanh(np.cumsum(np.random.default_rng(frames).normal(0, 0.02, shape), axis=-1))
    audio = audio.astype(np.float32)
    codes = run_in_windows(window, audio, CODEC, (CODEC.hop_length, 1))
    np.testing.assert_array_equal(codes, whole(audio))


@pytest.mark.skipif("coreml" not in available_providers(), reason="only macOS has CoreML")
@pytest.mark.parametrize("graph", [DAC_DECODER, DAC_ENCODER])
def test_coreml_computes_the_same(codec_runs, tmp_path, graph):
    path = static_graph(file_of(graph), static_sizes(graph, MANIFEST), tmp_path)
    chain = [("CoreMLExecutionProvider", provider_options(tmp_path))]
    session = onnxruntime().InferenceSession(str(path), session_options(), providers=chain)
    assert session.get_providers()[0] == "CoreMLExecutionProvider"
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    random = np.random.default_rng(0)
    if graph == DAC_DECODER:
        data = random.integers(0, CODEC.codebook_size, shape)
    else:
        data = np.tanh(np.cumsum(random.normal(0, 0.02, shape), axis=-1)).astype(np.float32)
    have, want = session.run(None, {name: data})[0], codec_runs[graph][1](data)
    if graph == DAC_DECODER:
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-3)
    else:
        assert (have == want).mean() > 0.99


def test_less_than_a_window_is_not_for_it():
    codes = np.zeros((1, 9, 31), np.int64)
    with pytest.raises(ValueError, match="31 frames are fewer than a window's 32"):
        run_in_windows(lambda data: data, codes, CODEC, (1, CODEC.hop_length))
