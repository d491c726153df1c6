"""Which file runs where, for providers that are not here."""

import dataclasses

import numpy as np
import pytest

from dia_ort import Dia, placement
from dia_ort.artifacts import find_artifact
from dia_ort.errors import ProviderError
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER, DECODER, ENCODER, GRAPH_NAMES
from dia_ort.placement import choose_file, open_dac_decoder, open_dac_encoder, place
from dia_ort.providers import Provider

DEMO = find_artifact("demo")
CUDA = Provider("cuda", "cuda", {"enable_cuda_graph": "1", "device_id": "1"})
CODEC = (DAC_DECODER, DAC_ENCODER)


@pytest.fixture(autouse=True)
def vnni(monkeypatch):
    monkeypatch.setattr(placement, "products_overflow", lambda: False)


def manifest(dtype, *computes, attention="fused"):
    """Of a model whose text encoder and decoder are there in these dtypes."""
    plain = [i for i in DEMO.manifest.graphs if (i.compute, i.provider) == ("float32", None)]
    graphs = [
        dataclasses.replace(info, compute=compute, file=f"{info.graph}.{compute}.onnx")
        for info in plain
        for compute in (("float32",) if info.graph in CODEC else computes)
    ]
    return dataclasses.replace(
        DEMO.manifest, dtype=dtype, graphs=tuple(graphs), attention=attention
    )


@pytest.mark.parametrize(
    ("dtype", "computes", "on_cuda"),
    [
        ("fp16", ("float16", "float32"), "float16"),
        ("bf16", ("bfloat16", "float32"), "bfloat16"),
        ("int8", ("float32", "float16"), "float16"),
        ("int4", ("float32", "float16"), "float16"),
    ],
)
def test_every_dtype_runs_on_the_cpu_and_on_cuda(dtype, computes, on_cuda):
    model = manifest(dtype, *computes)
    for graph in GRAPH_NAMES:
        wanted = "float32" if graph in CODEC else on_cuda
        assert choose_file(model, graph, CUDA).compute == wanted
        assert choose_file(model, graph, Provider("cpu")).compute == "float32"
        assert choose_file(model, graph, Provider("openvino")).compute == "float32"


def test_the_demo_has_files_for_cuda():
    assert choose_file(DEMO.manifest, DECODER, CUDA).compute == "float16"


@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize(
    ("name", "graphs"),
    [("cpu", {ENCODER, DECODER}), ("webgpu", {ENCODER}), ("openvino", set()), ("cuda", set())],
)
def test_x86_without_vnni_has_graphs_of_its_own(monkeypatch, overflow, name, graphs):
    monkeypatch.setattr(placement, "products_overflow", lambda: overflow)
    own = graphs if overflow else set()
    for graph in GRAPH_NAMES:
        info = choose_file(DEMO.manifest, graph, Provider(name))
        assert bool(info.unsigned) == (graph in own)
    fp16 = manifest("fp16", "float16", "float32")
    assert not choose_file(fp16, ENCODER, Provider(name)).unsigned


def test_webgpu_has_a_decoder_of_its_own():
    webgpu = Provider("webgpu", "webgpu")
    chosen = {graph: choose_file(DEMO.manifest, graph, webgpu) for graph in GRAPH_NAMES}
    assert chosen[DECODER].file == "decoder.webgpu.onnx"
    assert DEMO.manifest.cache_of(chosen[DECODER]) is None
    for graph in (ENCODER, *CODEC):
        assert (chosen[graph].compute, chosen[graph].provider) == ("float32", None)
    where = {graph: place(DEMO.manifest, info, webgpu).name for graph, info in chosen.items()}
    assert where == dict.fromkeys(GRAPH_NAMES, "webgpu") | {ENCODER: "cpu"}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_model_without_it_is_refused_on_webgpu(dtype):
    with pytest.raises(ProviderError, match=r"no decoder for the webgpu .*--dtype int4"):
        choose_file(manifest(dtype, "float32"), DECODER, Provider("webgpu"))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_fused_float32_decoder_is_refused_on_cuda(dtype):
    with pytest.raises(ProviderError, match=r"--dtype fp16.*int4.*--attention standard"):
        choose_file(manifest(dtype, "float32"), DECODER, CUDA)


def test_float32_in_standard_operators_runs_on_cuda():
    model = manifest("fp32", "float32", attention="standard")
    assert choose_file(model, DECODER, CUDA).compute == "float32"


@pytest.mark.parametrize("name", ["cpu", "coreml"])
def test_bfloat16_alone_is_for_cuda(name):
    with pytest.raises(ProviderError, match="bfloat16"):
        choose_file(manifest("bf16", "bfloat16"), DECODER, Provider(name))


def test_decoder_steps_alone_are_captured():
    for info in DEMO.manifest.graphs:
        options = place(DEMO.manifest, info, CUDA).options
        assert options["device_id"] == "1"
        assert ("enable_cuda_graph" in options) == (info.graph == DECODER)


@pytest.mark.parametrize(("attention", "on_coreml"), [("fused", CODEC), ("standard", GRAPH_NAMES)])
def test_what_coreml_gets(attention, on_coreml):
    model = manifest("fp16", "float16", "float32", attention=attention)
    for info in model.graphs:
        wanted = "coreml" if info.graph in on_coreml else "cpu"
        placed = place(model, info, Provider("coreml", options={"MLComputeUnits": "CPUOnly"}))
        assert placed.name == wanted
        if wanted == "coreml":
            assert placed.options == {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUOnly"}


@pytest.mark.parametrize("frames", [5, 32, 33, 90])
def test_coremls_windows_give_what_one_run_gives(frames, monkeypatch, tmp_path):
    """With the CPU in CoreML's place: short speech on the CPU itself, the rest in windows."""
    opened = []
    real = placement.open_session

    def open_session(path, spec, provider, threads, **options):
        opened.append(provider.name)
        assert (provider.options.get("ModelFormat") == "MLProgram") == (provider.name == "coreml")
        return real(path, spec, Provider("cpu"), threads, **options)

    monkeypatch.setattr(placement, "open_session", open_session)
    monkeypatch.setattr(placement.coreml, "cache_folder", lambda: tmp_path)
    dia = Dia.load("demo", provider="cpu")
    opened.clear()
    dia._dac_decoder = open_dac_decoder(DEMO, Provider("coreml"), None)
    dia._dac_encoder = open_dac_encoder(DEMO, Provider("coreml"), None)
    assert opened == ["cpu", "coreml"] * 2
    codes = np.random.default_rng(0).integers(0, 1024, (frames, 9))
    plain = Dia.load("demo", provider="cpu")
    samples = plain.decode_codes(codes)
    np.testing.assert_allclose(dia.decode_codes(codes), samples, atol=1e-5)
    rate = plain.sample_rate
    same = dia.encode_audio(samples, rate) == plain.encode_audio(samples, rate)
    assert same.mean() > 0.99


def test_the_encoder_stays_beside_the_decoder():
    assert place(DEMO.manifest, DEMO.manifest.find(ENCODER, "float32"), CUDA).name == "cuda"
