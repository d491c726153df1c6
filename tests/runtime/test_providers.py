"""onnxruntime's version, and its products of 8-bit numbers."""

import functools
import importlib.machinery
import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from dia_ort import cuda, providers
from dia_ort.artifacts import find_artifact
from dia_ort.errors import InvalidConfigError, ProviderError
from dia_ort.graphs import ENCODER
from dia_ort.providers import Provider, open_session, products_overflow, resolve_provider


@pytest.fixture
def fresh():
    """What is found out once per process is found out again, before and after."""
    caches = (providers.onnxruntime, products_overflow)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


@pytest.mark.parametrize("version", ["1.29.0", "1.9.2", "0.30.1"])
def test_an_old_onnxruntime_is_refused(version, fresh, monkeypatch):
    old = types.SimpleNamespace(__version__=version)
    monkeypatch.setattr(providers.importlib, "import_module", lambda _name: old)
    with pytest.raises(ProviderError, match=rf"{version} is too old.*'onnxruntime>=1\.30'"):
        providers.onnxruntime()


@pytest.mark.parametrize("version", ["1.30.0", "1.40.0.dev20270101", "2.0.0"])
def test_a_newer_one_is_taken(version, fresh, monkeypatch):
    new = types.SimpleNamespace(__version__=version)
    monkeypatch.setattr(providers.importlib, "import_module", lambda _name: new)
    assert providers.onnxruntime() is new


@pytest.mark.parametrize(("lost", "found"), [(0, False), (1, True)])
def test_an_overflow_is_found(lost, found, fresh, monkeypatch):
    real = providers.onnxruntime()

    class Session:
        def __init__(self, *arguments, **options):
            self._real = real.InferenceSession(*arguments, **options)

        def get_inputs(self):
            return self._real.get_inputs()

        def run(self, names, feed):
            assert feed["x"].min() == 255
            return [self._real.run(names, feed)[0] - lost]

    if products_overflow():
        pytest.skip("this CPU has the overflow")
    products_overflow.cache_clear()
    monkeypatch.setattr(
        providers, "onnxruntime", lambda: types.SimpleNamespace(InferenceSession=Session)
    )
    assert products_overflow() is found


def test_the_kernels_that_cannot_overflow_compute_the_same(monkeypatch):
    """Products of whole numbers are exact, whichever kernel sums them, but for the overflow."""
    if products_overflow():
        pytest.skip("this CPU has the overflow")
    artifact = find_artifact("demo")
    info = artifact.manifest.find(ENCODER, "float32")
    tokens = np.arange(1, 41)[None]
    feed = {"tokens": tokens, "text_lengths": np.array([40], np.int32)}
    outputs = []
    for overflow in (False, True):
        monkeypatch.setattr(providers, "products_overflow", lambda found=overflow: found)
        path, spec = artifact.folder / info.file, artifact.manifest.spec(info)
        session = open_session(path, spec, resolve_provider("cpu"), 1)
        outputs.append(session.run(None, feed))
    for fast, exact in zip(*outputs, strict=True):
        np.testing.assert_array_equal(fast, exact)


# Providers that are not here


class FakeSession:
    """Of a graph whose nodes sit where a test puts them."""

    def __init__(self, placement):
        self._placement = placement

    def get_providers(self):
        return list(self._placement)

    def get_provider_graph_assignment_info(self):
        return [
            types.SimpleNamespace(
                ep_name=name,
                get_nodes=lambda nodes=nodes: [types.SimpleNamespace(op_type=op) for op in nodes],
            )
            for name, nodes in self._placement.items()
        ]


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
WEBGPU = "WebGpuExecutionProvider"


def check(placement, caplog):
    with caplog.at_level("WARNING", "dia_ort"):
        session = FakeSession(placement)
        providers._check_placement(Path("decoder.onnx"), session, Provider("cuda"), "")
    return caplog.text


def test_what_is_left_to_the_cpu_is_said(caplog):
    placement = {CUDA: ["MatMul"] * 5, CPU: ["GroupQueryAttention"] * 2 + ["Squeeze"]}
    said = check(placement, caplog)
    assert "decoder.onnx: 2 GroupQueryAttention stay on the CPU provider, of 8 nodes" in said


def test_shape_arithmetic_belongs_on_the_cpu(caplog):
    assert not check({CUDA: ["MatMul"], CPU: ["Shape", "Squeeze", "Concat"]}, caplog)


def test_a_provider_that_takes_nothing_is_refused(caplog):
    with pytest.raises(ProviderError, match=r"cuda provider takes no node of decoder.onnx"):
        check({CUDA: [], CPU: ["MatMul"]}, caplog)


def test_a_provider_that_did_not_start_is_refused_with_the_reason(caplog, monkeypatch):
    monkeypatch.setattr(providers, "find_problem", lambda _: "libcublas.so.13 is missing.")
    with pytest.raises(ProviderError, match=r"does not start .*: libcublas.so.13 is missing"):
        check({CPU: ["MatMul"]}, caplog)


def test_where_the_nodes_of_a_session_are():
    ort = providers.onnxruntime()
    options = providers.session_options()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = Path(providers.__file__).with_name("move.onnx")
    session = ort.InferenceSession(str(path), options, providers=[CPU])
    assert providers.node_placement(session) == {CPU: {"Slice": 1, "Pad": 1}}


def test_any_provider_of_onnxruntime_is_taken_by_its_name(monkeypatch, caplog):
    real = providers.onnxruntime()
    fake = types.SimpleNamespace(
        get_available_providers=lambda: [
            "OpenVINOExecutionProvider",
            CPU,
            "AzureExecutionProvider",
        ],
        get_all_providers=real.get_all_providers,
    )
    monkeypatch.setattr(providers, "onnxruntime", lambda: fake)
    monkeypatch.setattr(providers, "_PLUGINS", {})
    assert providers.available_providers() == ["cpu", "openvino"]
    taken = resolve_provider("openvino", {"device_type": "GPU"})
    assert taken.chain == [("OpenVINOExecutionProvider", {"device_type": "GPU"}), CPU]
    assert taken.device == "cpu"
    assert "has not been run on OpenVINOExecutionProvider" in caplog.text
    with pytest.raises(ProviderError, match="migraphx provider is not in this onnxruntime"):
        resolve_provider("migraphx")


class Plugged:
    """onnxruntime, which takes plugins."""

    def __init__(self, version="1.32.0", devices=("CPUExecutionProvider", WEBGPU), fault=None):
        self.__version__ = version
        self.devices, self.fault, self.registered = devices, fault, []

    def get_available_providers(self):
        return [CPU, *([WEBGPU] if self.registered and WEBGPU in self.devices else [])]

    def get_all_providers(self):
        return [CPU, "CUDAExecutionProvider", WEBGPU]

    def register_execution_provider_library(self, name, library):
        if self.fault:
            raise RuntimeError(self.fault)
        self.registered.append((name, library))

    def get_ep_devices(self):
        return [types.SimpleNamespace(ep_name=name) for name in self.devices]


@pytest.fixture
def plugged(monkeypatch):
    """Puts an onnxruntime in place, and the package of the WebGPU provider."""

    def plug(ort):
        monkeypatch.setattr(providers, "onnxruntime", lambda: ort)
        package = types.ModuleType("plugin_for_tests")
        package.get_library_path = lambda: "libwebgpu.so"
        package.__spec__ = importlib.machinery.ModuleSpec("plugin_for_tests", None)
        monkeypatch.setitem(sys.modules, "plugin_for_tests", package)
        monkeypatch.setattr(providers, "_PLUGINS", {"webgpu": "plugin_for_tests"})
        return ort

    before = providers._register_plugin
    monkeypatch.setattr(providers, "_register_plugin", functools.cache(before.__wrapped__))
    return plug


def test_a_provider_of_its_own_package_is_loaded_when_it_is_taken(plugged, caplog):
    ort = plugged(Plugged())
    assert providers.available_providers() == ["cpu", "webgpu"]
    assert resolve_provider("auto").name == "cpu"
    assert not ort.registered
    ort.devices, devices = (CPU,), ort.devices
    with pytest.raises(ProviderError, match="finds no device"):
        resolve_provider("webgpu")
    ort.devices = devices
    for _ in range(2):
        taken = resolve_provider("webgpu", {"deviceId": "1"})
    assert ort.registered == [("webgpu", "libwebgpu.so")]
    assert taken.chain == [(WEBGPU, {"deviceId": "1"}), CPU]
    assert not taken.has_addresses
    assert "in software alone" in caplog.text
    assert providers.available_providers() == ["cpu", "webgpu"]


@pytest.mark.parametrize(
    ("ort", "problem"),
    [
        (Plugged(version="1.31.1"), r"1.31.1 is too old .*pip install -U 'onnxruntime>=1.32'"),
        (Plugged(fault="libvulkan.so.1: no"), r"does not load: libvulkan.so.1: no.*apt install"),
        (Plugged(devices=(CPU,)), "finds no device here: it needs a GPU"),
    ],
)
def test_a_package_that_does_not_help(ort, problem, plugged):
    plugged(ort)
    with pytest.raises(ProviderError, match=problem):
        resolve_provider("webgpu")


def test_what_is_the_process_stays_when_a_session_opens_on_the_cpu(monkeypatch):
    """Another thread may be writing audio to stdout, or warning."""
    artifact, before, during = find_artifact("demo"), (sys.stdout, warnings.filters[:]), []
    info = artifact.manifest.find(ENCODER, "float32")
    real = providers.onnxruntime().InferenceSession

    def session(*arguments, **named):
        during.append((sys.stdout, warnings.filters[:]))
        return real(*arguments, **named)

    monkeypatch.setattr(providers.onnxruntime(), "InferenceSession", session)
    open_session(artifact.folder / info.file, artifact.manifest.spec(info), Provider("cpu"), None)
    assert during == [before]


def test_without_its_package(monkeypatch):
    monkeypatch.setattr(providers, "_PLUGINS", {"webgpu": "not_installed_anywhere"})
    if "webgpu" in providers.available_providers():
        pytest.skip("this onnxruntime has it built in")
    with pytest.raises(ProviderError, match=r"pip install 'dia-ort\[webgpu\]'"):
        resolve_provider("webgpu")


def test_why_a_provider_does_not_start_is_what_onnxruntime_said():
    said = "****\nEP Error a.cc:136 ::Start() status == ok was false. No adapter\n when using ..\n"
    session = FakeSession({CPU: ["MatMul"]})
    with pytest.raises(
        ProviderError, match=r"webgpu provider .* on this machine: No adapter\. `dia"
    ):
        providers._check_placement(Path("decoder.onnx"), session, Provider("webgpu"), said)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_options_are_for_a_provider_by_name(name):
    with pytest.raises(InvalidConfigError, match=f"the provider is {name}"):
        resolve_provider(name, {"device_id": "1"})


def test_options_are_parsed():
    options = providers.parse_provider_options(["device_id=1", " a = b=c "])
    assert options == {"device_id": "1", "a": "b=c"}


@pytest.mark.parametrize("entries", [["device_id"], ["=1"], ["a=1", "a=2"], [""]])
def test_no_options(entries):
    with pytest.raises(InvalidConfigError, match="write KEY=VALUE"):
        providers.parse_provider_options(entries)


def test_given_options_come_before_our_own(monkeypatch):
    monkeypatch.setattr(providers, "available_providers", lambda: ["cpu", "cuda"])
    taken = resolve_provider("cuda", {"use_tf32": True, "device_id": 1})
    assert taken.place == ("cuda", 1)
    assert taken.device == "cuda"
    assert taken.options["use_tf32"] == "1"
    assert taken.options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert not taken.captures


# What CUDA lacks


class Driver:
    """libcuda, as far as it is asked."""

    def __init__(self, version=13000, devices=1, status=0):
        self._version, self._devices, self._status = version, devices, status

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = self._version

    def cuInit(self, _flags):  # noqa: N802
        return self._status

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self._devices
        return 0


@pytest.mark.parametrize(
    ("said", "driver", "problem"),
    [
        ("Failed to load libcublas.so.13: no\n", Driver(), r"^libcublas.so.13 is missing: pip"),
        (
            "Failed to load C:\\my env\\cudnn64_9.dll: [W 126]\n",
            Driver(),
            r"^cudnn64_9.dll is",
        ),
        ("Failed to load /my env/libcufft.so.12: /a.so: no\n", Driver(), r"^libcufft.so.12 is"),
        ("", None, "no NVIDIA driver"),
        ("", Driver(version=12080), "for CUDA up to 12.8, and this onnxruntime needs CUDA 13.0"),
        ("", Driver(status=100), "finds no GPU"),
        ("", Driver(devices=0), "finds no GPU"),
        ("", Driver(), None),
    ],
)
def test_what_cuda_lacks(said, driver, problem, monkeypatch, capsys):
    class Ort:
        cuda_version = "13.0"

        def preload_dlls(self):
            sys.stdout.write(said)

    loads = lambda library: driver if library == cuda._DRIVER else object()  # noqa: E731
    monkeypatch.setattr(cuda, "_loads", loads)
    found = cuda.find_problem(Ort())
    assert found is None if problem is None else re.search(problem, found)
    assert capsys.readouterr().out == ""


def test_cudnn_is_missed_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(cuda, "_loads", lambda _: None)
    ort = types.SimpleNamespace(preload_dlls=lambda: None, cuda_version="13.0")
    assert cuda._CUDNN in cuda.preload_libraries.__wrapped__(ort)
