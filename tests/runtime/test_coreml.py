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
    decode_in_windows,
    decoder_window,
    encode_in_windows,
    encoder_window,
    placement,
    provider_options,
    static_graph,
    static_sizes,
)
from dia_ort.errors import ArtifactError, ProviderError
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER, DECODER, ENCODER, GRAPH_NAMES
from dia_ort.providers import available_providers, onnxruntime, session_options

DEMO = find_artifact("demo")
MANIFEST, CODEC = DEMO.manifest, DEMO.manifest.codec
SIZES = {"batch": 1, "before": 10, "frames": 21, "after": 10}
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
        encoder_window(dataclasses.replace(CODEC, hop_length=hop))
    assert encoder_window(dataclasses.replace(CODEC, hop_length=hop - 50)) == 21
    with pytest.raises(ProviderError, match=r"windows of 1 frames .* take --provider cpu"):
        decoder_window(dataclasses.replace(CODEC, hop_length=LARGEST_AXIS))


# Static variants


def test_a_variant_stands_alone(tmp_path):
    copy = shutil.copytree(DEMO.folder, tmp_path / "copy")
    path = static_graph(copy / "dac_decoder.onnx", SIZES, tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [path.name]
    shutil.rmtree(copy)
    random = np.random.default_rng(0)
    codes = {
        name: random.integers(0, 1024, (1, 9, frames))
        for name, frames in (("before", 10), ("codes", 21), ("after", 10))
    }
    session = open_graph(path)
    assert [value.shape for value in session.get_inputs()] == [[1, 9, n] for n in (10, 21, 10)]
    assert session.get_outputs()[0].shape == [1, 1, 21 * CODEC.hop_length]
    np.testing.assert_allclose(
        session.run(None, codes)[0],
        open_graph(file_of(DAC_DECODER)).run(None, codes)[0],
        rtol=0,
        atol=1e-5,
    )


def test_some_axes_may_stay_free(tmp_path):
    path = static_graph(file_of(DAC_DECODER), {"batch": 1}, tmp_path)
    assert open_graph(path).get_inputs()[1].shape == [1, 9, "frames"]


def test_a_variant_is_made_once(tmp_path, monkeypatch):
    copy = shutil.copytree(DEMO.folder, tmp_path / "copy")
    made = []
    write = coreml._write_static
    monkeypatch.setattr(coreml, "_write_static", lambda *a: made.append(a) or write(*a))

    def get(frames=21):
        return static_graph(copy / "dac_decoder.onnx", {**SIZES, "frames": frames}, tmp_path)

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

    def runner(path):
        session = open_graph(path)
        names = [value.name for value in session.get_inputs()]
        return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]

    def pair(graph):
        static = static_graph(file_of(graph), static_sizes(graph, MANIFEST), cache)
        return runner(static), runner(file_of(graph))

    return {graph: pair(graph) for graph in (DAC_DECODER, DAC_ENCODER)}


def count_frames(run, counts, hop=1):
    """Note how many frames of audio or codes each run gives."""

    def counting(*inputs):
        result = run(*inputs)
        counts.append(result.shape[-1] // hop)
        return result

    return counting


@pytest.mark.parametrize(
    ("context", "frames", "windows"),
    [
        ((10, 10), 30, 0),  # fewer than a window
        ((10, 10), 31, 1),
        ((10, 10), 32, 2),
        ((10, 10), 70, 3),
        ((0, 0), 50, 0),  # 30 of them have the whole context
        ((0, 0), 51, 1),
        ((0, 10), 41, 1),
        ((10, 3), 38, 1),
        ((12, 14), 62, 2),
    ],
)
def test_windows_decode_to_the_whole(codec_runs, context, frames, windows):
    static, plain = codec_runs[DAC_DECODER]
    random = np.random.default_rng(frames)
    sizes = (context[0], frames, context[1])
    parts = [random.integers(0, CODEC.codebook_size, (1, 9, n)) for n in sizes]
    counts = []
    decode = decode_in_windows(plain, count_frames(static, counts, CODEC.hop_length), CODEC)
    np.testing.assert_allclose(decode(*parts), plain(*parts), rtol=0, atol=1e-5)
    assert counts == [31] * windows


@pytest.mark.parametrize(("frames", "windows"), [(31, 0), (32, 1), (40, 2), (87, 6)])
def test_windows_encode_to_the_whole(codec_runs, frames, windows):
    """But for near-ties that rounding breaks the other way; here there are none."""
    static, plain = codec_runs[DAC_ENCODER]
    shape = (1, 1, frames * CODEC.hop_length)
    audio = np.tanh(np.cumsum(np.random.default_rng(frames).normal(0, 0.02, shape), axis=-1))
    audio = audio.astype(np.float32)
    counts = []
    codes = encode_in_windows(plain, count_frames(static, counts), CODEC)(audio)
    np.testing.assert_array_equal(codes, plain(audio))
    assert counts == [32] * windows


@pytest.mark.skipif("coreml" not in available_providers(), reason="only macOS has CoreML")
@pytest.mark.parametrize("graph", [DAC_DECODER, DAC_ENCODER])
def test_coreml_computes_the_same(codec_runs, tmp_path, graph):
    path = static_graph(file_of(graph), static_sizes(graph, MANIFEST), tmp_path)
    chain = [("CoreMLExecutionProvider", provider_options(tmp_path))]
    session = onnxruntime().InferenceSession(str(path), session_options(), providers=chain)
    assert session.get_providers()[0] == "CoreMLExecutionProvider"
    random = np.random.default_rng(0)
    if graph == DAC_DECODER:
        inputs = {
            value.name: random.integers(0, CODEC.codebook_size, value.shape)
            for value in session.get_inputs()
        }
    else:
        shape = session.get_inputs()[0].shape
        audio = np.tanh(np.cumsum(random.normal(0, 0.02, shape), axis=-1)).astype(np.float32)
        inputs = {"audio": audio}
    have, want = session.run(None, inputs)[0], codec_runs[graph][1](*inputs.values())
    if graph == DAC_DECODER:
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-3)
    else:
        assert (have == want).mean() > 0.99
