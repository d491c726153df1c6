"""``/v1/audio/stream``: text in pieces, audio out."""

import io
import json
import re
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from dia_ort import LiveNarrator
from dia_ort.scheduler import Scheduler
from dia_ort.serve import websocket

TEXT = (
    "[S1] Hello world. This is dia. Good morning. Thank you. You welcome. My name is dia. Open. "
    "[S2] Yes. Open."
)
WAIT = 60


class Session:
    """A connection that keeps what comes."""

    def __init__(self, server, *, is_started=True, takes_little=False, **start):
        url = server.url.replace("http", "ws") + "/v1/audio/stream"
        self._exit = ExitStack()
        options = {}
        if takes_little:
            options = {"max_queue": 1, "sock": socket.socket()}
            options["sock"].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            options["sock"].connect(("127.0.0.1", server.server.port))
        self.socket = self._exit.enter_context(connect(url, max_size=None, **options))
        if is_started:  # with a voice, the demo often babbles to its last step
            self.send(type="start", **{"max_tokens": 700, **start})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._exit.close()

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def receive(self):
        message = self.socket.recv(timeout=WAIT)
        return message if isinstance(message, bytes) else json.loads(message)

    def until(self, kind):
        """All messages up to one of a type: its own, and the audio before it."""
        audio, told = b"", []
        while not told or told[-1]["type"] != kind:
            message = self.receive()
            if isinstance(message, bytes):
                audio += message
            else:
                told.append(message)
                assert kind == "error" or message["type"] != "error", message
        return told, audio


def is_idle(server):
    for _ in range(100 * WAIT):
        stats = server.service.engine.stats
        if not (stats.running or stats.queued or server.service.admission.num_open):
            return True
        time.sleep(0.01)
    return False


def pieces(text, size):
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("size", [3, 1000])
def test_text_in_pieces_is_spoken_to_its_end(server, size):
    with Session(server, seed=3) as session:
        for piece in pieces(TEXT, size):
            session.send(type="text", text=piece)
        session.send(type="end")
        told, audio = session.until("done")
    assert told[0] == {
        "type": "started",
        "seed": 3,
        "sample_rate": 24000,
        "response_format": "pcm",
    }
    spoken = [message["text"] for message in told if message["type"] == "speaking"]
    assert len(spoken) == 2
    assert spoken[0].startswith("[S1] Hello world.")
    assert spoken[1].endswith("[S2] Yes. Open.")
    assert "".join("".join(spoken).replace("[S1] ", "").split()) == "".join(
        TEXT.removeprefix("[S1] ").split()
    )
    samples = np.frombuffer(audio, "<i2")
    assert told[-1]["seconds"] == pytest.approx(len(samples) / 24000, abs=0.001)
    assert np.abs(samples).max() > 1000


def test_the_cut_of_the_pieces_changes_nothing(server):
    heard = []
    for size in (2, 30):
        with Session(server, seed=3) as session:
            for piece in pieces(TEXT, size):
                session.send(type="text", text=piece)
            session.send(type="end")
            heard.append(session.until("done")[1])
    assert heard[0] == heard[1]


def test_whole_sentences_are_spoken_before_the_end(server):
    with Session(server) as session:
        session.send(type="text", text=TEXT)
        told, _ = session.until("speaking")
        assert told[-1]["text"].endswith("dia.")
        assert isinstance(session.receive(), bytes)


def test_flush_speaks_what_is_there(server):
    with Session(server) as session:
        session.send(type="text", text="hello world")
        session.send(type="flush")
        assert session.until("speaking")[0][-1]["text"] == "hello world"
        session.send(type="text", text="good morning.")
        session.send(type="end")
        told, audio = session.until("done")
        assert [m["text"] for m in told if m["type"] == "speaking"] == ["good morning."]
        assert audio


LONG_ENOUGH = "[S1] Hello world. This is dia. Good morning. Thank you. You welcome. My name is dia."


@pytest.mark.parametrize(("after", "size"), [(" Yes. Open.", 3), ("", 1000)])
def test_a_pause_after_a_long_sentence_is_silence(server, after, size):
    with Session(server) as session:
        for piece in pieces(f"{LONG_ENOUGH} [pause 2s]{after}", size):
            session.send(type="text", text=piece)
        session.send(type="end")
        told, audio = session.until("done")
    spoken = [message["text"] for message in told if message["type"] == "speaking"]
    assert spoken == [LONG_ENOUGH, *([f"[S1]{after}"] if after else [])]
    assert bytes(2 * round(1.9 * 24000)) in audio  # resampling blurs its ends
    assert told[-1]["seconds"] == pytest.approx(len(audio) / 2 / 24000, abs=0.001)


def test_pauses_that_are_too_long_together_are_refused(server):
    def count():
        metrics = httpx.get(f"{server.url}/metrics").text
        return float(re.search(r'dia_ort_speeches_total{outcome="refused"} (.*)', metrics)[1])

    before = count()
    with Session(server) as session:
        session.send(type="text", text="hello world. " + "[pause 10]" * 400)
        session.send(type="end")
        told, _ = session.until("error")
        assert told[-1]["error"]["code"] == "invalid_script"
        assert count() == before + 1


@pytest.mark.parametrize(("max_queue", "code"), [(0, "queue_full"), (4, "queue_timeout")])
def test_silence_gives_the_place_to_others(start, monkeypatch, max_queue, code):
    """Who goes on finds the queue as everybody does."""
    monkeypatch.setattr(websocket, "_PATIENCE", 0.1)
    tick, goes_on = Scheduler.tick, threading.Event()
    monkeypatch.setattr(Scheduler, "tick", lambda self: goes_on.wait(WAIT) and tick(self))
    goes_on.set()
    with start(max_batch=1, max_queue=max_queue) as running, Session(running) as session:
        session.send(type="text", text="hello world.")
        session.send(type="flush")
        session.until("speaking")
        assert is_idle(running)
        with Session(running) as other:
            other.send(type="text", text=TEXT * 20)
            other.until("speaking")
            goes_on.clear()  # between two of its scripts, the slot would be free
            running.set(queue_timeout=0.2)
            session.send(type="text", text="good morning.")
            session.send(type="end")
            told, _ = session.until("error")
            goes_on.set()
            assert told[-1]["error"]["code"] == code


def test_who_was_silent_goes_on(start, monkeypatch):
    monkeypatch.setattr(websocket, "_PATIENCE", 0.1)
    with start(drain_timeout=WAIT) as running, Session(running) as session:
        for text in ["hello world.", "good morning."]:
            session.send(type="text", text=text)
            session.send(type="flush")
            assert session.until("speaking")[0][-1]["text"] == text
            assert is_idle(running)
        session.send(type="end")
        session.until("done")


def test_silence_does_not_hold_up_the_end(start, monkeypatch):
    monkeypatch.setattr(websocket, "_PATIENCE", 0.1)
    with start(drain_timeout=WAIT) as running, Session(running) as session:
        session.send(type="text", text="hello world.")
        session.send(type="flush")
        session.until("speaking")
        asked = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - asked < WAIT / 2


def test_cancel_comes_at_once_whatever_waits(server):
    with Session(server) as session:
        session.send(type="text", text=" " * 19_000)
        for _ in range(500):
            session.send(type="text", text=" ")
        asked = time.monotonic()
        session.send(type="cancel")
        session.until("cancelled")
        assert time.monotonic() - asked < 10  # it took 600


def test_cancel_stops_at_once_and_the_next_text_is_spoken(server):
    with Session(server) as session:
        session.send(type="text", text=TEXT * 5)
        assert isinstance(session.until("speaking")[0][-1], dict)
        session.receive()
        session.send(type="cancel")
        session.until("cancelled")
        assert is_idle(server)
        session.send(type="text", text="hello world.")
        session.send(type="end")
        told, audio = session.until("done")
        assert [m["text"] for m in told if m["type"] == "speaking"] == ["hello world."]
        assert audio


def test_utterances_follow_each_other(server):
    with Session(server, seed=1) as session:
        for _ in range(3):
            session.send(type="text", text="hello world.")
            session.send(type="end")
        for _ in range(3):
            told, _ = session.until("done")
            assert [m["text"] for m in told if m["type"] == "speaking"] == ["hello world."]


def test_a_file_format_makes_a_file_of_each_utterance(server):
    with Session(server, response_format="wav", sample_rate=44100) as session:
        for _ in range(2):
            session.send(type="text", text="hello world. good morning.")
            session.send(type="end")
            told, audio = session.until("done")
            samples, rate = soundfile.read(io.BytesIO(audio))
            assert rate == 44100
            assert told[-1]["seconds"] == pytest.approx(len(samples) / rate, abs=0.001)


def test_nothing_to_say(server):
    with Session(server) as session:
        session.send(type="end")
        told, audio = session.until("done")
        assert (told[-1]["seconds"], audio) == (0, b"")


def test_leaving_frees_the_slot(server):
    with Session(server) as session:
        session.send(type="text", text=TEXT * 5)
        session.until("speaking")
        assert server.service.admission.num_open == 1
    assert is_idle(server)


def test_an_error_ends_the_utterance_and_not_the_session(server):
    with Session(server) as session:
        session.send(type="text", text="[S7] hello.")
        session.send(type="flush")
        told, _ = session.until("error")
        assert told[-1]["error"]["code"] == "invalid_script"
        session.send(type="text", text="this is not spoken.")
        session.send(type="end")
        session.send(type="text", text="hello world.")
        session.send(type="end")
        told, _ = session.until("done")
        assert [m["text"] for m in told if m["type"] == "speaking"] == ["hello world."]
    assert is_idle(server)


@pytest.mark.parametrize(
    "messages",
    [
        ["no JSON"],
        ["[]"],
        ['{"type": "sing"}'],
        ['{"type": "text"}'],
        ['{"type": "text", "text": "a", "more": 1}'],
        ['{"type": "start", "voice": "nobody"}'],
        ['{"type": "start", "model": "nothing"}'],
        ['{"type": "start", "speed": 9}'],
        ['{"type": "start", "response_format": "opus", "sample_rate": 44100}'],
        ['{"type": "start"}', '{"type": "start"}'],
        [b"\xff\xfe"],
    ],
)
def test_what_cannot_be_read_closes_the_session(server, messages):
    with Session(server, is_started=False) as session:
        for message in messages:
            session.socket.send(message)
        told, _ = session.until("error")
        assert told[-1]["error"]["message"]
        with pytest.raises(ConnectionClosed) as closed:
            session.receive()
        assert closed.value.rcvd.code == 1008
    assert is_idle(server)


def test_a_full_queue_is_told(start):
    with start(max_batch=1, max_queue=0) as running:
        first, second = Session(running), Session(running)
        with first, second:
            first.send(type="text", text=TEXT * 5)
            first.until("speaking")
            second.send(type="text", text=TEXT)
            told, _ = second.until("error")
            assert told[-1]["error"]["code"] == "queue_full"


def test_a_client_that_takes_nothing_is_dropped(start):
    with start(send_timeout=0.3) as running:
        running.server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with Session(running, takes_little=True, sample_rate=48000) as session:
            session.send(type="text", text=TEXT * 3)
            session.until("speaking")
            assert is_idle(running)  # the client takes nothing meanwhile
            metrics = httpx.get(f"{running.url}/metrics").text
            assert 'dia_ort_speeches_total{outcome="cancelled"} 1.0' in metrics


def test_what_waits_is_bounded(server):
    with Session(server) as session:
        session.send(type="text", text=TEXT * 5)
        session.until("speaking")
        for _ in range(100):
            session.send(type="end")
        told, _ = session.until("error")
        assert told[-1]["error"]["code"] == "too_much"
    assert is_idle(server)


def test_what_fails_unforeseen_is_told(server, monkeypatch):
    def fail(*_):
        raise RuntimeError("a secret of the inside")

    with Session(server) as session:
        with monkeypatch.context() as patch:
            patch.setattr(LiveNarrator, "plan", fail)
            session.send(type="text", text="Hello world.")
            session.send(type="end")
            told, _ = session.until("error")
        assert told[-1]["error"]["code"] == "internal_error"
        assert "secret" not in told[-1]["error"]["message"]
        session.send(type="text", text="Hello world.")
        session.send(type="end")
        session.until("done")


def test_too_much_text_is_refused(start):
    with start(max_input=100) as running, Session(running) as session:
        session.send(type="text", text="a" * 101)
        told, _ = session.until("error")
        assert told[-1]["error"]["code"] == "input_too_long"
