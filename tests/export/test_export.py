"""What an export leaves: the folder, its manifest, and a model that speaks."""

import dataclasses
import functools
import warnings

import numpy as np
import onnx
import pytest
import torch

from dia_export import export, exporter
from dia_export.recipes import DTYPES, RECIPES
from dia_models.checkpoint import Weight
from dia_models.random_weights import TINY_DAC, TINY_DIA, random_dia
from dia_ort import Dia, GenerationConfig, __version__
from dia_ort.artifacts import check_hashes, find_artifact
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER, DECODER, ENCODER
from dia_ort.manifest import MANIFEST_NAME

CONFIG = GenerationConfig(seed=4, max_tokens=50)
TEXT = "[S1] Hello. [S2] Hi!"
HALF = {"fp16": "float16", "bf16": "bfloat16"}


@functools.cache
def loaded(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half precision on the CPU
        return Dia.load(folder, provider="cpu")


def weights_of(folder, name):
    """The external files of a graph, and its initializers that are within it."""
    graph = onnx.load(folder / name, load_external_data=False).graph
    outside = [tensor for tensor in graph.initializer if tensor.external_data]
    places = {e.value for t in outside for e in t.external_data if e.key == "location"}
    return places, [tensor for tensor in graph.initializer if not tensor.external_data]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folder_of_what_its_manifest_says(exported, dtype):
    result = exported(dtype)
    artifact = find_artifact(result.folder)
    manifest = artifact.manifest
    check_hashes(artifact)
    names = {path.name for path in result.folder.iterdir()}
    assert names == {MANIFEST_NAME, *manifest.files}
    assert manifest.dtype == dtype
    assert manifest.quantization == (RECIPES[dtype].quantization or None)
    assert (manifest.quantization is None) == (dtype not in {"int8", "int4"})
    assert (manifest.model.release, manifest.model.num_layers) == ("0626", 2)
    assert manifest.codec.hop_length == TINY_DAC.hop_length
    for source in manifest.sources.values():
        assert (source.name, source.revision, source.layout) == ("random, seed 0", None, "random")
    assert set(manifest.sources) == {"model", "codec"}
    assert manifest.tools["dia-ort"] == __version__
    assert set(manifest.tools) == {"dia-ort", "torch", "onnx", "onnxruntime", "onnxscript"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_graph_that_the_cpu_runs_was_verified(exported, dtype):
    result = exported(dtype)
    manifest = find_artifact(result.folder).manifest
    runs = {info.file: info.graph for info in manifest.graphs if info.compute != "bfloat16"}
    figures = {
        ENCODER: {"error"},
        DECODER: {"error", "kl", "overlap"},
        DAC_DECODER: {"error"},
        DAC_ENCODER: {"equal"},
    }
    verified = {name: set(values) for name, values in manifest.verification.items()}
    assert verified == {file: figures[graph] for file, graph in runs.items()}
    for info, report in zip(manifest.graphs, result.reports, strict=True):
        assert (report.file, report.nodes) == (info.file, info.nodes)
        assert report.figures == manifest.verification.get(info.file, {})
        assert report.seconds > 0
        assert report.size >= manifest.files[info.file].size
    assert sum(report.size for report in result.reports) == sum(
        file.size for file in manifest.files.values()
    )


def test_coarser_dtypes_are_smaller_and_less_exact(exported):
    size, divergence = {}, {}
    for dtype in DTYPES:
        manifest = find_artifact(exported(dtype).folder).manifest
        size[dtype] = manifest.files["decoder.onnx.data"].size
        twin = "decoder.onnx" if dtype not in HALF else "decoder.float32.onnx"
        divergence[dtype] = manifest.verification[twin]["kl"]
    assert size["fp32"] > 1.9 * size["fp16"]
    assert size["fp16"] == size["bf16"] > 1.2 * size["int8"] > size["int4"]
    assert divergence["fp32"] < 1e-9
    assert sorted(divergence, key=divergence.get) == ["fp32", "fp16", "bf16", "int8", "int4"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_beside_the_graphs(exported, dtype):
    folder = exported(dtype).folder
    for info in find_artifact(folder).manifest.graphs:
        places, inside = weights_of(folder, info.file)
        assert places == {info.data} == {f"{info.graph}.onnx.data"}
        if info.file == f"{info.graph}.onnx":  # a twin holds its own constants
            assert max(len(tensor.raw_data) for tensor in inside) <= 256


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_has_float32_twins(exported, dtype):
    manifest = find_artifact(exported(dtype).folder).manifest
    for graph in (ENCODER, DECODER):
        infos = [info for info in manifest.graphs if info.graph == graph]
        assert [info.compute for info in infos if not info.provider] == [HALF[dtype], "float32"]
        assert manifest.find(graph, "float32").data == manifest.find(graph, HALF[dtype]).data


@pytest.mark.parametrize("dtype", DTYPES)
def test_float16_has_a_decoder_for_webgpu(exported, dtype):
    manifest = find_artifact(exported(dtype).folder).manifest
    infos = [info for info in manifest.graphs if info.provider == "webgpu"]
    found = [(info.file, info.compute, info.data) for info in infos]
    wanted = [("decoder.webgpu.onnx", "float16", "decoder.onnx.data")]
    assert found == (wanted if dtype in {"fp16", "int8", "int4"} else [])


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_in_whole_numbers_have_graphs_for_x86_without_vnni(exported, dtype):
    folder = exported(dtype).folder
    manifest = find_artifact(folder).manifest
    infos = {info.graph: info for info in manifest.graphs if info.provider == "cpu"}
    assert set(infos) == ({ENCODER, DECODER} if dtype in {"int8", "int4"} else set())
    for graph, info in infos.items():
        signed = manifest.find(graph, "float32")
        assert (info.file, info.data) == (f"{graph}.unsigned.onnx", signed.data)
        assert manifest.verification[info.file] == manifest.verification[signed.file]
        products = [
            node
            for node in onnx.load(folder / info.file, load_external_data=False).graph.node
            if node.op_type == "MatMulIntegerToFloat"
        ]
        assert {node.input[1] for node in products} == {part.name for part in info.unsigned}
        assert {node.input[5] for node in products} == {"activation.zero"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_speaks(exported, dtype):
    audio = loaded(exported(dtype).folder).generate(TEXT, CONFIG)
    assert audio.codes.shape[1] == 9
    assert 0 < len(audio.codes) <= 50 - 15 - 1
    assert np.isfinite(audio.samples).all()
    again = loaded(exported(dtype).folder).generate_codes(TEXT, CONFIG)
    assert np.array_equal(audio.codes, again)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_on_the_cpu_warns_and_names_the_remedy(exported, dtype):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Dia.load(exported(dtype).folder, provider="cpu")
    messages = [str(warning.message) for warning in caught]
    if dtype in HALF:
        (message,) = messages
        assert f"this {dtype} model" in message
        assert "Take int8 or int4 here (dia-export --dtype int4)" in message
    else:
        assert messages == []


def rounded(checkpoint, dtype):
    """The checkpoint with its matrices in that precision, yet float32."""

    def load(weight):
        tensor = weight.load()
        return tensor.to(dtype).float() if tensor.ndim >= 2 else tensor

    weights = {
        name: Weight(weight.shape, weight.dtype, functools.partial(load, weight))
        for name, weight in checkpoint.weights.items()
    }
    return dataclasses.replace(checkpoint, weights=weights)


@pytest.mark.parametrize("dtype", HALF)
def test_twins_compute_with_the_rounded_weights(exported, dtype, monkeypatch, tmp_path):
    """Bit for bit what a float32 export of the rounded checkpoint says: nothing else differs."""
    checkpoint = rounded(random_dia(TINY_DIA, 0), getattr(torch, HALF[dtype]))
    monkeypatch.setattr(exporter, "random_dia", lambda *_: checkpoint)
    folder = export("tiny-random", dtype="fp32", output=tmp_path / "x", verify=False).folder
    expected = loaded(folder).generate_codes(TEXT, CONFIG)
    assert np.array_equal(loaded(exported(dtype).folder).generate_codes(TEXT, CONFIG), expected)
    assert not np.array_equal(
        loaded(exported("fp32").folder).generate_codes(TEXT, CONFIG), expected
    )


def test_exports_are_reproducible(exported, tmp_path):
    """The same checkpoint gives the same bytes, another seed other weights."""
    first = find_artifact(exported("int4").folder).manifest
    folders = [
        export("tiny-random", dtype="int4", seed=seed, output=tmp_path / str(seed), verify=False)
        for seed in (0, 1)
    ]
    again, other = (find_artifact(result.folder).manifest for result in folders)
    assert again.files == first.files
    assert again.verification == {}  # as it was not verified
    assert dataclasses.replace(again, verification=first.verification) == first
    assert other.files.keys() == first.files.keys()
    for name in first.files:
        if name.endswith(".data"):
            assert other.files[name].sha256 != first.files[name].sha256


def test_progress_is_told_in_stages(tmp_path):
    calls = []
    export(
        "tiny-random",
        dtype="bf16",
        output=tmp_path / "x",
        verify=False,
        progress=lambda *call: calls.append(call),
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages[:3] == [
        "encoder.onnx: trace",
        "encoder.onnx: write",
        "encoder.float32.onnx: trace",
    ]
    assert stages[-1] == "hash"
    for stage in stages:
        steps = [done for name, done, _ in calls if name == stage]
        (total,) = {total for name, _, total in calls if name == stage}
        assert steps == sorted(steps)
        assert steps[-1] == total
