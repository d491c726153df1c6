"""Graphs of standard operators: the same gate, the same codes, a cache that is safe in place."""

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from dia_export import export, exporter
from dia_export.errors import ExportError
from dia_export.standard import StandardKernels, one_hot
from dia_models.dac import DacEncoder
from dia_models.kernels import Kernels
from dia_models.random_weights import TINY_DAC, TINY_DIA, random_dia
from dia_ort.artifacts import find_artifact
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.graphs import DECODER, ENCODER
from dia_ort.voice import Voice

PLAIN = ["fp32", "fp16", "bf16"]
TEXTS = ["[S1] hello world. [S2] yes.", "[S1] one two three four five, six."]
LAYERS = TINY_DIA.decoder.num_layers


@pytest.mark.parametrize("dtype", PLAIN)
def test_it_passes_the_gate_in_standard_operators_alone(exported, dtype):
    artifact = find_artifact(exported(dtype, "standard").folder)
    manifest = artifact.manifest
    assert manifest.attention == "standard"
    assert {"encoder", "decoder"} < {name.partition(".")[0] for name in manifest.verification}
    for info in manifest.graphs:
        model = onnx.load(artifact.folder / info.file, load_external_data=False)
        assert {opset.domain for opset in model.opset_import} == {""}
        assert {node.domain for node in model.graph.node} == {""}


def test_the_first_release_passes_it_too(tmp_path, monkeypatch):
    """It rotates in the cross-attention as well."""
    checkpoint = random_dia(dataclasses.replace(TINY_DIA, release="first"))
    monkeypatch.setattr(exporter, "random_dia", lambda *_: checkpoint)
    result = export("tiny-random", dtype="fp32", attention="standard", output=tmp_path / "first")
    assert all(report.figures for report in result.reports)


def test_graphs_are_declared_alike(exported):
    fused, standard = (find_artifact(exported("fp16", a).folder) for a in ("fused", "standard"))
    assert fused.manifest.attention == "fused"
    others = [info for info in fused.manifest.graphs if info.provider is None]
    for mine, theirs in zip(standard.manifest.graphs, others, strict=True):
        assert (mine.file, mine.compute) == (theirs.file, theirs.compute)
        assert standard.manifest.spec(mine) == fused.manifest.spec(theirs)
    assert standard.manifest.codec_id == fused.manifest.codec_id


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantised_products_have_no_standard_operators(dtype, tmp_path):
    with pytest.raises(ExportError, match=rf"{dtype} has no standard .* one of fp32, fp16, bf16"):
        export("tiny-random", dtype=dtype, attention="standard", output=tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_other_attention(tmp_path):
    with pytest.raises(ExportError, match="attention is 'flash': take one of fused, standard"):
        export("tiny-random", attention="flash", output=tmp_path / "x")


def test_the_folder_is_named_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path))
    result = export("tiny-random", dtype="fp32", attention="standard", verify=False)
    assert result.folder == tmp_path / "tiny-random-fp32-standard"


# Against the fused artifact, through the runtime


@pytest.fixture(scope="module")
def models(exported):
    """The fused and the standard artifact in float32, loaded."""
    folders = (exported("fp32", attention).folder for attention in ("fused", "standard"))
    return [Dia.load(folder, provider="cpu") for folder in folders]


def config(**options):
    return GenerationConfig(seed=0, max_tokens=40, **options)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("temperature", [0, 1.2])
def test_the_same_codes(models, text, temperature):
    fused, standard = (m.generate_codes(text, config(temperature=temperature)) for m in models)
    np.testing.assert_array_equal(standard, fused)


def test_the_same_codes_in_a_batch_and_a_voice(models):
    """Several rows at several positions, and a prefill of several steps."""
    frames = np.random.default_rng(0).integers(0, TINY_DAC.codebook_size, (21, 9))
    voice = Voice(frames, "[S1] oh no.")
    fused, standard = (m.generate_batch(TEXTS, config(temperature=0), voice) for m in models)
    for have, want in zip(standard, fused, strict=True):
        np.testing.assert_array_equal(have.codes, want.codes)


# The cache in place


def test_one_node_reads_the_past_and_only_a_sum_follows(exported):
    """Elementwise both: whatever they have read they need no more when they write there."""
    folder = exported("fp32", "standard").folder
    graph = onnx.load(folder / "decoder.onnx", load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            readers = [n for n in graph.node if f"past_{kind}.{layer}" in n.input]
            (reader,) = (node for node in readers if node.op_type != "Shape")
            maker = makers[f"present_{kind}.{layer}"]
            assert (reader.op_type, maker.op_type) == ("Mul", "Add")
            assert reader.output[0] in maker.input


def test_the_cache_in_place_is_the_cache_beside(exported):
    """Rows at positions of their own, several steps at once, over what is left of others."""
    artifact = find_artifact(exported("fp32", "standard").folder)
    info = artifact.manifest.find(DECODER, "float32")
    session = ort.InferenceSession(
        str(artifact.folder / info.file), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    sizes = {"rows": 4, "texts": 2, "steps": 3, "text": 5, "cache": 24}
    feed = {}
    for tensor in artifact.manifest.spec(info).inputs:
        shape = [sizes.get(axis, axis) for axis in tensor.axes]
        feed[tensor.name] = random.normal(size=shape).astype(tensor.dtype)
    feed["tokens"] = random.integers(0, 1024, feed["tokens"].shape)
    feed["seqlens_k"] = np.array([9, 2, 17, 23], np.int32)
    feed["total_sequence_length"] = np.array([24], np.int32)
    feed["text_lengths"] = np.array([5, 2], np.int32)
    names = [output.name for output in session.get_outputs()]
    beside = dict(zip(names, session.run(None, feed), strict=True))

    values = {name: ort.OrtValue.ortvalue_from_numpy(value.copy()) for name, value in feed.items()}
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("logits")
    for name in names[1:]:
        binding.bind_ortvalue_output(name, values[name.replace("present", "past")])
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), beside["logits"])
    for name in names[1:]:
        past = name.replace("present", "past")
        np.testing.assert_array_equal(values[past].numpy(), beside[name])
        changed = (beside[name] != feed[past]).any((1, 3))
        assert [row.nonzero()[0].tolist() for row in changed] == [
            list(range(last - 2, last + 1)) for last in feed["seqlens_k"]
        ]


# The kernels


def test_one_hot_is_exact():
    index = torch.tensor([[0, 3071], [17, 17]])
    assert torch.equal(one_hot(index, 3072), torch.nn.functional.one_hot(index, 3072).float())
    table = torch.randn(3072, 5)
    assert torch.equal(StandardKernels().lookup(index, table), table[index])


@pytest.mark.parametrize("graph", [ENCODER, DECODER])
def test_masks_leave_what_the_eager_ones_do(graph):
    eager, standard = Kernels(), StandardKernels()
    if graph == ENCODER:
        lengths = torch.tensor([5, 1, 3], dtype=torch.int32)
        want, have = (k.key_mask(lengths, 5, 1, torch.float32) for k in (eager, standard))
    else:
        positions = torch.tensor([[3, 4], [0, 1]])
        want, have = (k.causal_mask(k.as_index(positions), 7, 2) for k in (eager, standard))
    assert torch.equal(have, want.clamp_min(-1e30))


def test_the_lowest_of_equally_near_codes_wins():
    codebook = torch.tensor([[0.0, 1], [1, 0], [3, 0], [0, 2], [-1, 0]])
    queries = torch.tensor([[[5.0, 0], [0, 7], [-1, 0.1], [-1, -1]]])
    want = Kernels().nearest(queries, codebook)
    assert want.tolist() == [[1, 0, 4, 4]]
    assert StandardKernels().nearest(queries, codebook).tolist() == want.tolist()


def test_dac_encodes_to_the_same_codes():
    """Eagerly, so that no kernel of another library's comes between."""
    torch.manual_seed(0)
    eager, standard = DacEncoder(TINY_DAC), DacEncoder(TINY_DAC, StandardKernels())
    standard.load_state_dict(eager.state_dict())
    audio = torch.randn(1, 1, 20 * TINY_DAC.hop_length) / 4
    with torch.inference_mode():
        assert torch.equal(standard(audio), eager(audio))
