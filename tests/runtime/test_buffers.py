"""Buffers on devices, held against those on the host; the CPU provider stands in for a GPU."""

import itertools
import sys
import threading
from functools import partial

import numpy as np
import pytest

from dia_ort import Dia, Engine, GenerationConfig, Voice, choice, decoder, providers
from dia_ort.artifacts import find_artifact
from dia_ort.buffers import (
    Buffers,
    DeviceBuffer,
    HostBuffer,
    OpaqueState,
    UploadedBuffer,
)
from dia_ort.copies import Gatherer, Mover, reserve
from dia_ort.decoder import DecoderBatch
from dia_ort.errors import ProviderError
from dia_ort.graphs import ENCODER
from dia_ort.placement import open_dac_decoder
from dia_ort.providers import Provider, onnxruntime, open_session
from dia_ort.sampling import SamplingParams
from dia_ort.scheduler import PREFILL_STEPS

CAPTURING = Provider("cpu", options={"enable_cuda_graph": "1"})
"""The CPU ignores it."""
SHAPE = (3, 2, 8, 4)  # rows, heads, positions, width
TEXTS = ["[S1] yes. [S2] no.", "[S1] one two three four five. [S2] hello world.", "[S1] open."]


@pytest.fixture(scope="module")
def mover():
    return Mover(Provider("cpu"))


@pytest.fixture
def pair(mover):
    """A buffer of each kind."""
    return HostBuffer(SHAPE, "float16"), DeviceBuffer(SHAPE, "float16", mover, staged=True)


def content(buffer, shape=SHAPE):
    if isinstance(buffer, HostBuffer):
        return buffer.host.reshape(-1)[: np.prod(shape)].reshape(shape)
    buffer.download(0, SHAPE[0])
    return buffer.host.reshape(-1)[: np.prod(shape)].reshape(shape)


def value(positions, seed=0):
    shape = (1, SHAPE[1], positions, SHAPE[3])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def test_a_new_one_is_zeros(pair):
    for buffer in pair:
        assert not content(buffer).any()


def test_the_same_is_done_on_both(pair):
    host, device = pair
    small = (3, 2, 5, 4)
    for buffer in pair:
        for row in range(3):
            buffer.put(row, value(3 + row, row), small)
        buffer.move(2, 0, 5, small)
    np.testing.assert_array_equal(content(device, small), content(host, small))
    assert content(host, small)[0].any()
    for before, after in ((small, SHAPE), (SHAPE, (3, 2, 2, 4))):
        for buffer in pair:
            buffer.reshape([before[2]] * 3, before, after)
        np.testing.assert_array_equal(content(device, after), content(host, after))


def test_what_is_forgotten_is_zeros(pair):
    """A request's NaN must not reach the next one, whose masks are products with zero."""
    for buffer in pair:
        buffer.put(1, np.full((1, 2, 8, 4), np.nan, np.float16))
        buffer.forget(1)
        assert not content(buffer)[1].any()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_what_is_forgotten_in_whole_pages_is_zeros(monkeypatch, platform):
    """Only Linux makes zeros of what is given back."""
    monkeypatch.setattr(sys, "platform", platform)
    buffer = HostBuffer((3, 2, 2048, 16), "float32")
    for row in range(3):
        buffer.put(row, np.full((1, 2, 2048, 16), np.nan))
    buffer.forget(1)
    assert not buffer.host[1].any()
    assert np.isnan(buffer.host[[0, 2]]).all()
    buffer.reshape([5, 0, 7], (3, 2, 2048, 16), (3, 2, 1024, 16))
    assert np.count_nonzero(buffer.host) == (5 + 7) * 2 * 16


def test_reshaping_keeps_no_more_than_rows_have():
    """So memory is given back, whatever the longest row takes."""
    before, after = (3, 2, 2048, 16), (3, 2, 1024, 16)
    buffer = HostBuffer(before, "float32")
    lengths, values = [5, 0, 700], np.random.default_rng(0).normal(size=(1, 2, 2048, 16))
    for row in range(3):
        buffer.put(row, values)
    for shapes in ((before, after), (after, before)):
        buffer.reshape(lengths, *shapes)
        held = buffer.host.reshape(-1)[: np.prod(shapes[1])].reshape(shapes[1])
        for row, length in enumerate(lengths):
            kept = values[0, :, :length].astype(np.float32)
            np.testing.assert_array_equal(held[row, :, :length], kept)
            assert not held[row, :, length:].any()


def test_more_than_there_is():
    with pytest.raises(ProviderError, match=r"no memory for a tensor of the shape .*max_batch"):
        HostBuffer((1 << 40, 1 << 20), "float32")


def test_an_ortvalue_is_put_as_an_array_is(pair):
    host, device = pair
    host.put(1, value(8))
    device.put(1, onnxruntime().OrtValue.ortvalue_from_numpy(value(8)))
    np.testing.assert_array_equal(content(device), content(host))


def test_upload_and_download(mover):
    buffer = DeviceBuffer((4, 3), "int32", mover, staged=True)
    buffer.host[:] = np.arange(12).reshape(4, 3)
    buffer.upload()
    buffer.host[:] = -1
    buffer.download(1, 2)
    assert buffer.host.tolist() == [[-1] * 3, [3, 4, 5], [6, 7, 8], [-1] * 3]


def test_copies_are_never_captured(monkeypatch):
    """A captured copy would be replayed with the addresses of the first."""
    chains = []
    real = onnxruntime().InferenceSession

    def session(path, options, providers):
        chains.append(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime(), "InferenceSession", session)
    Mover(Provider("cuda", "cuda", {"enable_cuda_graph": "1", "device_id": "1"}))
    assert chains == [[("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]]


def test_bfloat16_is_taken(mover):
    DeviceBuffer((2, 4), "bfloat16", mover)


def test_a_device_without_memory(mover):
    for take in (mover.zeros, lambda words: reserve((words,), np.float32, ("cpu", 0))):
        with pytest.raises(ProviderError, match=r"cpu has no memory for .*max_batch"):
            take(1 << 60)


@pytest.fixture
def on_device(monkeypatch, mover):
    """Decoders that are opened have their buffers on a device, and choose candidates there."""
    made = []

    def open_buffers(_provider):
        made.append(True)
        plain = partial(DeviceBuffer, mover=mover)
        return Buffers(plain, plain, partial(plain, staged=True))

    monkeypatch.setattr(decoder, "open_buffers", open_buffers)
    monkeypatch.setattr(decoder, "open_choice", choice.DeviceChoice)
    yield
    assert made


def test_only_what_is_not_finite_is_cleared_on_a_device(on_device):
    """A row of each tensor is a copy of its own, which all others would wait for."""
    dia = Dia.load("demo", provider="cpu")
    batch = dia.open_decoder(2)
    params = SamplingParams.stack([GenerationConfig()])
    text = dia.encode_tokens(np.array([1, 2, 3]))
    for spoilt in (False, True):
        batch.set_text(0, [value * np.float32(np.nan if spoilt else 1) for value in text], 3)
        batch.choose(np.full((1, 9), 1026), np.array([0]), params)
        batch.release(0)
        for buffer in (batch._cross[0], batch._cache[0]):
            assert buffer._value.numpy().any() != spoilt


def test_prompts_run_in_pieces_of_one_size_on_a_device(on_device, monkeypatch):
    """Each size would have a plan of its own."""
    dia = Dia.load("demo", provider="cpu")
    pieces = []

    class Pieces(DecoderBatch):
        def prefill(self, slot, tokens, start):
            pieces.append((start, len(tokens)))
            super().prefill(slot, tokens, start)

    monkeypatch.setattr("dia_ort.dia.DecoderBatch", Pieces)
    voice = Voice(codes=np.full((40, 9), 5), transcript="[S1] go.")
    dia.generate_codes("[S1] go.", GenerationConfig(max_tokens=70, seed=1), voice)
    assert pieces[0] == (0, PREFILL_STEPS)
    assert {size for _, size in pieces} == {PREFILL_STEPS}
    assert pieces[-1][0] % PREFILL_STEPS


def test_a_device_encodes_texts_in_few_sizes():
    dia = Dia.load("demo", provider="cpu")
    tokens = np.arange(1, 71)
    alone = dia.encode_tokens(tokens)
    dia._encoder = dia._open(dia._choose(ENCODER))
    padded = dia.encode_tokens(tokens)
    assert {value.shape[2] for value in padded} == {128}
    for have, want in zip(padded, alone, strict=True):
        np.testing.assert_allclose(have[:, :, :70], want, atol=1e-5)


def spoken(dia):
    """Codes of more utterances than slots: they are moved, and the text axis changes."""
    config = GenerationConfig(seed=7, max_tokens=60)
    voice = Voice(codes=np.full((40, 9), 5), transcript="[S1] go.")
    with Engine(dia, max_batch=2) as engine:
        handles = [engine.submit(text, config) for text in TEXTS]
        handles.append(engine.submit(TEXTS[0], config, voice))
        return [handle.result().codes for handle in handles]


@pytest.fixture(scope="module")
def on_host():
    return spoken(Dia.load("demo", provider="cpu"))


def test_speech_is_the_same_with_buffers_on_a_device(on_device, on_host):
    for codes, wanted in zip(spoken(Dia.load("demo", provider="cpu")), on_host, strict=True):
        np.testing.assert_array_equal(codes, wanted)


class Watched:
    """A session that notes which CUDA graphs would be captured or replayed, by one at a time."""

    def __init__(self, session):
        self.session = session
        self.runs = []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run_with_iobinding(self, binding, options):
        number = int(options.get_run_config_entry("gpu_graph_id"))
        self.runs.append((threading.current_thread(), number))
        assert CAPTURING.alone._is_owned()
        self.session.run_with_iobinding(binding, options)


def test_each_thread_captures_graphs_of_its_own(on_device):
    dia = Dia.load("demo", provider="cpu")
    dia.provider = CAPTURING
    dia._decoder = watched = Watched(dia._decoder)
    batch = dia.open_decoder(1)
    batch.set_text(0, dia.encode_tokens(np.array([1, 2, 3])), 3)
    tokens = np.full((1, 9), 1026)

    def speak():
        batch.prefill(0, tokens.repeat(2, axis=0), 0)
        for position in range(2, 5):
            batch.step(tokens, np.array([position]))

    for target in (speak, speak):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    first, second = (list(runs) for _, runs in itertools.groupby(watched.runs, lambda run: run[0]))
    for runs in (first, second):
        numbers = [number for _, number in runs]
        assert numbers[:2] == [-1, -1]  # the prompt's
        assert len(numbers) == 5
        assert len({*numbers[2:]}) == 1
    assert first[-1][1] != second[-1][1]


def test_scripts_of_similar_length_share_a_captured_graph(on_device):
    dia = Dia.load("demo", provider="cpu")
    dia.provider = CAPTURING
    dia._decoder = watched = Watched(dia._decoder)
    batch = dia.open_decoder(1)
    for length in (70, 100, 140):  # 128, 128 and 256 positions
        batch.set_text(0, dia.encode_tokens(np.full(length, 9)), length)
        batch.step(np.full((1, 9), 1026), np.array([0]))
        batch.release(0)
    numbers = [number for _, number in watched.runs]
    assert numbers[0] == numbers[1] != numbers[2]


def test_the_codec_waits_for_a_step_that_may_be_captured():
    decoder = open_dac_decoder(find_artifact("demo"), CAPTURING, None)
    decoding = threading.Thread(target=decoder.decode, args=(np.zeros((3, 9), np.int64),))
    with CAPTURING.alone:
        decoding.start()
        decoding.join(0.2)
        assert decoding.is_alive()
    decoding.join(60)
    assert not decoding.is_alive()


def test_captured_steps_have_a_number_for_each_shape(on_device, on_host, monkeypatch):
    """The CPU provider ignores the numbers, and takes a longer row for the longest."""
    runs = []
    options = onnxruntime().RunOptions

    class RunOptions:
        def __new__(cls):
            made = options()
            runs.append(made)
            return made

    monkeypatch.setattr(providers.onnxruntime(), "RunOptions", RunOptions)
    dia = Dia.load("demo", provider="cpu")
    dia.provider = CAPTURING
    for codes, wanted in zip(spoken(dia), on_host, strict=True):
        np.testing.assert_array_equal(codes, wanted)
    numbers = {int(made.get_run_config_entry("gpu_graph_id")) for made in runs}
    assert -1 in numbers  # the voice's steps
    assert len(numbers) > 3
    again = {*map(id, runs)}
    spoken(dia)
    more = {
        int(made.get_run_config_entry("gpu_graph_id")) for made in runs if id(made) not in again
    }
    assert more & numbers == {-1}  # another batch, on the same session, at other addresses


# Memory without addresses


class Binding:
    """What is bound, by name."""

    def __init__(self):
        self.values = {}

    def bind_ortvalue_input(self, name, value):
        self.values[name] = value

    bind_ortvalue_output = bind_ortvalue_input


@pytest.fixture(scope="module")
def gatherer():
    return Gatherer(Provider("cpu"))


def bound(state, row, rows):
    binding = Binding()
    state.bind_input(binding, "past", row, rows)
    state.bind_output(binding, "present", row, rows)
    assert binding.values["past"] is binding.values["present"]  # written in place
    return binding.values["past"].numpy()  # on the CPU, the memory itself


def test_rows_are_put_together_as_they_are_wanted(gatherer):
    state = OpaqueState((8, 2, 3, 4), "float16", gatherer)
    bound(state, 3, 2)[:] = np.array([30, 40])[:, None, None, None]
    bound(state, 2, 1)[:] = 20  # a prompt's rows are filled one at a time
    bound(state, 5, 1)[:] = 50
    together = bound(state, 2, 4)
    assert together[:, 0, 0, 0].tolist() == [20, 30, 40, 50]
    assert np.shares_memory(bound(state, 2, 4), together)  # and stay so
    together += 1
    state.forget(3)
    state.forget(4)
    state.move(2, 3, 3)
    state.move(5, 4, 3)
    assert bound(state, 3, 2)[:, 1, 2, 3].tolist() == [21, 51]
    for row in (3, 4):
        state.forget(row)
    assert not np.shares_memory(bound(state, 3, 2), together)


def test_a_row_that_nobody_wrote_is_moved(gatherer):
    """A request that was to join moves up before its first step."""
    state = OpaqueState((4, 2, 3, 4), "float16", gatherer)
    bound(state, 1, 1)[:] = 7
    state.move(2, 1, 0)
    assert bound(state, 1, 2).shape == (2, 2, 3, 4)


def test_rows_that_nobody_wrote_are_there_all_the_same(gatherer):
    state = OpaqueState((4, 2, 3, 4), "float16", gatherer)
    bound(state, 2, 1)[:] = 7
    assert bound(state, 1, 3).shape == (3, 2, 3, 4)
    assert (bound(state, 1, 3)[1] == 7).all()


def test_rows_come_in_another_order(gatherer):
    state = OpaqueState((4, 1, 1, 1), "float16", gatherer)
    bound(state, 0, 3)[:, 0, 0, 0] = [1, 2, 3]
    state.move(0, 3, 1)
    state.move(1, 0, 1)
    state.move(3, 1, 1)
    assert bound(state, 0, 3)[:, 0, 0, 0].tolist() == [2, 1, 3]


def for_webgpu(dia):
    """The demo's decoder for WebGPU, on the CPU provider."""
    info = next(info for info in dia.manifest.graphs if info.provider == "webgpu")
    path = dia.artifact.folder / info.file
    dia._decoder_info = info
    dia._decoder = open_session(path, dia.manifest.spec(info), Provider("cpu"), None)
    return dia


@pytest.fixture
def without_addresses(monkeypatch, gatherer):
    """Decoders that are opened have their buffers on a device of which parts cannot be bound."""
    given = partial(UploadedBuffer, place=("cpu", 0))
    buffers = Buffers(given, partial(OpaqueState, gatherer=gatherer), HostBuffer)
    monkeypatch.setattr(decoder, "open_buffers", lambda _provider: buffers)
    monkeypatch.setattr(Provider, "has_addresses", False)


def test_speech_is_the_same_without_addresses(without_addresses, monkeypatch):
    opaque = spoken(for_webgpu(Dia.load("demo", provider="cpu")))
    monkeypatch.undo()
    host = spoken(for_webgpu(Dia.load("demo", provider="cpu")))
    for codes, wanted in zip(opaque, host, strict=True):
        np.testing.assert_array_equal(codes, wanted)


def test_a_prompt_is_run_in_short_pieces_on_webgpu():
    dia = Dia.load("demo", provider="cpu")
    dia._decoder = watched = Watched(dia._decoder)
    watched.run_with_iobinding = watched.runs.append
    dia.provider = Provider("webgpu")
    batch = dia.open_decoder(1)
    batch.set_text(0, dia.encode_tokens(np.array([1, 2, 3])), 3)
    batch.prefill(0, np.full((40, 9), 1026), 5)
    assert len(watched.runs) == 2 * 3  # 16, 16 and 8 steps, of two rows
    assert batch._steps == [45]
