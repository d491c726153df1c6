"""The gate: every kind of failure is found, named, has its figures, and publishes nothing."""

import ast
import dataclasses
import functools
import itertools
import re

import numpy as np
import onnx_ir as ir
import pytest
import torch

from dia_export import export, exporter, verify
from dia_export.errors import (
    AxesMismatchError,
    DistributionMismatchError,
    ExportError,
    GateError,
    NameMismatchError,
    ShapeMismatchError,
    ValueMismatchError,
)
from dia_export.recipes import DTYPES
from dia_export.verify import TOLERANCES, Reference, check_graph
from dia_models.random_weights import TINY_DAC, TINY_DIA, random_dac, random_dia
from dia_ort.artifacts import find_artifact
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER


@pytest.fixture
def tampered(monkeypatch, tmp_path):
    """Exports the tiny model with a graph changed before it is written; it must not succeed."""

    def run(kind, graph, change, *, dtype="fp32"):
        attach = exporter.attach_weights

        def attach_and_change(model, *arguments, **options):
            names = attach(model, *arguments, **options)
            if model.graph.name == graph:
                change(model.graph)
            return names

        monkeypatch.setattr(exporter, "attach_weights", attach_and_change)
        with pytest.raises(GateError) as error:
            export("tiny-random", dtype=dtype, output=tmp_path / "models" / "x")
        assert type(error.value) is kind, error.value
        assert list((tmp_path / "models").iterdir()) == []
        return str(error.value)

    return run


def insert(graph, name, operator, attributes=None, inputs=1):
    """Put an operator between the node that makes an output and that output."""
    index = next(i for i, value in enumerate(graph.outputs) if value.name == name)
    old = graph.outputs[index]
    old.name = f"{name}.before"
    node = ir.node(operator, [old] * inputs, attributes or {})
    node.outputs[0].name, node.outputs[0].shape = name, old.shape
    node.outputs[0].type = old.type
    graph.append(node)
    graph.outputs[index] = node.outputs[0]
    return node.outputs[0]


def scale(graph, name, factor):
    """Multiply an initializer."""
    value = graph.initializers[name]
    array = value.const_value.numpy() * np.asarray(factor, value.const_value.numpy().dtype)
    value.const_value = ir.tensor(array, name=name)


def test_other_names(tampered):
    def rename(graph):
        graph.inputs[0].name = "text"

    message = tampered(NameMismatchError, "encoder", rename)
    assert "encoder.onnx: its inputs are ['text', 'text_lengths'], not as declared" in message


def test_other_outputs(tampered):
    message = tampered(NameMismatchError, "encoder", lambda graph: graph.outputs.pop())
    assert "encoder.onnx: its outputs are ['cross_key.0'" in message


def test_other_axes(tampered):
    def fix(graph):
        graph.inputs[1].shape = ir.Shape([2])

    message = tampered(AxesMismatchError, "encoder", fix)
    assert (
        "input text_lengths is ('tensor(int32)', (2,)), not ('tensor(int32)', ('rows',))" in message
    )


def test_other_dtypes(tampered):
    def widen(graph):
        output = insert(graph, "cross_value.1", "Cast", {"to": ir.DataType.DOUBLE.value})
        output.type = ir.TensorType(ir.DataType.DOUBLE)

    message = tampered(AxesMismatchError, "encoder", widen)
    assert "output cross_value.1 is ('tensor(double)', " in message


def test_other_shapes(tampered):
    """What is declared is a name, so only running it shows that the axis has another size."""

    def double(graph):
        insert(graph, "cross_key.0", "Concat", {"axis": 2}, inputs=2)

    message = tampered(ShapeMismatchError, "encoder", double)
    found = re.search(r"output cross_key.0 has the shape (.*), not (.*)\.", message)
    (rows, heads, text, width), wanted = map(ast.literal_eval, found.groups())
    assert wanted == (rows, heads, text // 2, width)


@pytest.mark.parametrize("factor", [1.05, -1, 0, float("nan")])
def test_other_values(tampered, factor):
    message = tampered(
        ValueMismatchError, "encoder", lambda graph: scale(graph, "norm.weight", factor)
    )
    assert "cross_key.0 differs from PyTorch's by " in message
    assert f"{TOLERANCES['fp32'].error:.3g} is allowed" in message
    assert ("by nan" in message) == np.isnan(factor)


def test_another_last_position_only(tampered):
    """The decoder's RoPE table beyond the prefill: single steps are held against PyTorch too."""

    def shift(graph):
        table = graph.initializers["rope_cos"].const_value.numpy().copy()
        table[205:] = table[: len(table) - 205]
        graph.initializers["rope_cos"].const_value = ir.tensor(table, name="rope_cos")

    message = tampered(ValueMismatchError, "decoder", shift)
    assert "decoder.onnx: logits differs from PyTorch's by " in message


def test_graphs_that_do_not_load(tampered):
    def break_it(graph):
        next(node for node in graph if node.op_type == "MatMul").op_type = "MatMax"

    message = tampered(GateError, "encoder", break_it)
    assert "encoder.onnx does not run in onnxruntime: " in message


def test_graphs_that_fail_when_run(tampered):
    def look_beyond(graph):
        lookup = next(node for node in graph if node.op_type == "Gather")
        offset = ir.Value(name="offset", const_value=ir.tensor(np.array(1000), name="offset"))
        graph.register_initializer(offset)
        node = ir.node("Add", [lookup.inputs[1], offset])
        graph.insert_before(lookup, node)
        lookup.replace_input_with(1, node.outputs[0])

    message = tampered(GateError, "encoder", look_beyond)
    assert "encoder.onnx does not run in onnxruntime: " in message


def test_other_distributions(tampered, monkeypatch):
    """The scales of a quantised logits head are off, and the norm of the error may be anything."""
    monkeypatch.setitem(
        TOLERANCES, "int8", dataclasses.replace(TOLERANCES["int8"], error=float("inf"))
    )
    message = tampered(
        DistributionMismatchError,
        "decoder",
        lambda graph: scale(graph, "logits.weight.scales", 2),
        dtype="int8",
    )
    assert "decoder.onnx: next-token distributions diverge by " in message
    assert f"nats ({TOLERANCES['int8'].kl:.3g} allowed) and share " in message
    assert f"of the top 45 ({TOLERANCES['int8'].overlap:.1%} wanted)" in message


# The single checks, against a graph that is right and references that are not


@pytest.fixture(scope="module")
def reference():
    """By graph, the gate's cases of the tiny model."""
    maker = Reference(random_dia(TINY_DIA), random_dac(TINY_DAC))

    @functools.cache
    def cases(graph):
        if graph == "decoder":
            cases("encoder")
        return maker.cases(graph)

    return cases


def check(exported, graph, cases, dtype="fp32"):
    artifact = find_artifact(exported(dtype).folder)
    info = next(info for info in artifact.manifest.graphs if info.graph == graph)
    spec = artifact.manifest.spec(info)
    return check_graph(artifact.folder / info.file, spec, cases, TOLERANCES[dtype])


def altered(case, name, change):
    return dataclasses.replace(case, outputs=case.outputs | {name: change(case.outputs[name])})


def test_the_cases_are_many(reference):
    """Several text lengths, batch sizes and prefill lengths, and 200 steps of cache."""
    encoder, decoder = reference("encoder"), reference("decoder")
    assert sorted({len(case.inputs["tokens"]) for case in encoder}) == [2, 4]
    assert len({length for case in encoder for length in case.inputs["text_lengths"]}) >= 4
    assert any(len(set(case.inputs["text_lengths"])) > 1 for case in encoder)  # with padding
    assert sorted(case.prefill for case in decoder) == [1, 17, 200]
    assert max(case.inputs["tokens"].shape[1] for case in decoder) > 200
    for case in decoder:
        assert case.prefill < case.inputs["tokens"].shape[1]  # and single steps


def test_references_are_reproducible_and_fresh(reference):
    again = Reference(random_dia(TINY_DIA), random_dac(TINY_DAC)).cases(DAC_DECODER)
    other = Reference(random_dia(TINY_DIA), random_dac(TINY_DAC), seed=1).cases(DAC_DECODER)
    for same, new in zip(again, other, strict=True):
        assert same.inputs["codes"].shape == new.inputs["codes"].shape
        assert not np.array_equal(same.inputs["codes"], new.inputs["codes"])
        assert np.isfinite(same.outputs["audio"]).all()


def test_the_codecs_audio(exported, reference):
    (case, *rest) = reference(DAC_DECODER)
    assert check(exported, DAC_DECODER, [case, *rest])["error"] < 1e-5
    with pytest.raises(
        ValueMismatchError, match=r"audio differs from PyTorch's by 0.001, and 0.0001"
    ):
        check(exported, DAC_DECODER, [altered(case, "audio", lambda audio: audio + 0.001)])
    with pytest.raises(ShapeMismatchError, match=r"audio has the shape \(1, 1, \d+\), not"):
        check(exported, DAC_DECODER, [altered(case, "audio", lambda audio: audio[..., 1:])])


def test_the_codecs_codes(exported, reference):
    cases = reference(DAC_ENCODER)
    assert check(exported, DAC_ENCODER, cases)["equal"] >= 0.995
    wrong = [altered(case, "codes", lambda codes: codes ^ 1) for case in cases]
    with pytest.raises(ValueMismatchError, match=r"dac_encoder.onnx: 0 of \d+ codes .* 99.5% must"):
        check(exported, DAC_ENCODER, wrong)
    wrong = [altered(case, "codes", lambda codes: codes[:, :8]) for case in cases]
    with pytest.raises(
        ShapeMismatchError, match=r"codes have the shape \(1, 9, \d+\), not \(1, 8, "
    ):
        check(exported, DAC_ENCODER, wrong)


@pytest.mark.parametrize("limit", [{"kl": 1e-6}, {"overlap": 0.9999}])
def test_both_figures_of_the_distribution_count(exported, reference, monkeypatch, limit):
    strict = dataclasses.replace(TOLERANCES["int4"], **limit)
    monkeypatch.setitem(TOLERANCES, "int4", strict)
    with pytest.raises(DistributionMismatchError):
        check(exported, "decoder", reference("decoder"), "int4")


def test_there_is_a_tolerance_for_every_dtype():
    assert set(TOLERANCES) == set(DTYPES)
    order = [TOLERANCES[dtype] for dtype in DTYPES]
    for finer, coarser in itertools.pairwise(order):
        assert finer.error <= coarser.error
        assert finer.kl <= coarser.kl
        assert finer.overlap >= coarser.overlap


def test_every_kind_has_its_own_exception():
    kinds = {
        NameMismatchError,
        AxesMismatchError,
        ShapeMismatchError,
        ValueMismatchError,
        DistributionMismatchError,
    }
    assert all(issubclass(kind, GateError) for kind in kinds)
    assert not any(issubclass(a, b) for a in kinds for b in kinds - {a})
    assert issubclass(GateError, ExportError)


def test_the_figures_are_what_they_are_called():
    want = torch.randn(4, 2, 9, 50, generator=torch.Generator().manual_seed(0))
    assert verify.kl_divergence(want, want).abs().max() < 1e-12
    assert verify.kl_divergence(want, want + 7).abs().max() < 1e-6  # logits have no origin
    have = want + 0.1 * torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.kl_div(
        have.log_softmax(-1), want.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(verify.kl_divergence(want, have), expected.double(), atol=1e-6)
    assert torch.equal(verify.shared_candidates(want, want), torch.ones(4, 2, 9))
    assert torch.allclose(verify.shared_candidates(want, -want), torch.full((4, 2, 9), 40 / 45))
    assert torch.equal(verify.guided(want)[1], want[1] + 3 * (want[1] - want[3]))
