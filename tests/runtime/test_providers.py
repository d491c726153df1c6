"""onnxruntime's version, and its products of 8-bit numbers."""

import types

import numpy as np
import pytest

from dia_ort import providers
from dia_ort.artifacts import find_artifact
from dia_ort.errors import ProviderError
from dia_ort.graphs import ENCODER
from dia_ort.providers import open_session, products_overflow, resolve_provider


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
    """Products of whole numbers are exact, whichever kernel sums them."""
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
