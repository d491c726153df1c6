"""Queues, clients that leave, stopping, dying."""

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from dia_ort import Dia, LiveNarrator
from dia_ort.scheduler import Scheduler
from dia_ort.serve.server import DIED

PCM = {"response_format": "pcm", "sample_rate": 44100, "seed": 3}
LONG = {**PCM, "input": " ".join(["hello world. this is dia. good morning."] * 60)}
SHORT = {**PCM, "input": "[S1] hello world. [S2] this is dia."}
ENDLESS = {"input": "[S1] hello. " + "open red green blue. " * 40, **PCM}


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.005)


def is_idle(running):
    stats = running.service.engine.stats
    return not (stats.running or stats.queued or running.service.admission.num_open)


def post(running, body):
    with running.client() as client:
        return client.post("/v1/audio/speech", json=body)


class Raw:
    """A connection that sends a request and reads as it likes."""

    def __init__(self, running, body):
        content = json.dumps(body).encode()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", running.server.port))
        self.socket.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )

    def begun(self):
        return self.socket.recv(64).startswith(b"HTTP/1.1 200")

    def close(self):
        self.socket.close()


@pytest.fixture
def slow_steps(monkeypatch):
    """Steps take at least 5 ms, so that things happen in the middle."""
    tick = Scheduler.tick

    def slow_tick(self):
        time.sleep(0.005)
        return tick(self)

    monkeypatch.setattr(Scheduler, "tick", slow_tick)


@pytest.mark.usefixtures("slow_steps")
class TestQueue:
    def test_what_is_too_much_is_refused(self, start):
        with start(max_batch=1, max_queue=1) as running:
            first, second = Raw(running, LONG), Raw(running, LONG)
            wait_for(lambda: running.service.admission.num_open == 2)
            response = post(running, SHORT)
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
            metrics = httpx.get(f"{running.url}/metrics").text
            assert 'dia_ort_rejections_total{reason="queue_full"} 1.0' in metrics
            first.close()
            second.close()
            wait_for(lambda: is_idle(running))
            assert post(running, SHORT).status_code == 200

    def test_what_does_not_begin_in_time_is_refused(self, start):
        with start(max_batch=1, max_queue=4) as running:
            first = Raw(running, LONG)
            assert first.begun()
            running.set(queue_timeout=0.2)
            asked = time.monotonic()
            response = post(running, SHORT)
            assert time.monotonic() - asked > 0.15
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert response.json()["error"]["code"] == "queue_timeout"
            assert running.service.admission.num_open == 1
            first.close()

    def test_planning_is_no_waiting(self, start, monkeypatch):
        plan = LiveNarrator.plan
        monkeypatch.setattr(LiveNarrator, "plan", lambda *args: time.sleep(1) or plan(*args))
        with start(queue_timeout=0.5) as running:
            assert post(running, SHORT).status_code == 200

    def test_planning_holds_nothing_else_up(self, start, monkeypatch):
        goes_on, plan = threading.Event(), LiveNarrator.plan
        monkeypatch.setattr(LiveNarrator, "plan", lambda *args: goes_on.wait(30) and plan(*args))
        with start() as running, ThreadPoolExecutor(5) as threads:
            asked = [threads.submit(post, running, SHORT) for _ in range(5)]
            wait_for(lambda: running.service.admission.num_open == 5)
            assert httpx.get(f"{running.url}/v1/audio/voices").status_code == 200
            goes_on.set()
            assert {future.result().status_code for future in asked} == {200}

    def test_events_tell_the_place(self, start):
        with start(max_batch=1, max_queue=4) as running:
            first = Raw(running, LONG)
            assert first.begun()
            second = Raw(running, LONG)
            wait_for(lambda: running.service.admission.num_open == 2)
            running.set(queue_timeout=1)
            response = post(running, {**SHORT, "stream_format": "sse", "progress": True})
            assert response.status_code == 200
            events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line]
            assert events[0]["state"] == "queued"
            assert events[0]["queue_position"] == 1
            assert events[-1]["type"] == "error"
            assert events[-1]["error"]["code"] == "queue_timeout"
            first.close()
            second.close()

    def test_requests_are_taken_in_order(self, start):
        with start(max_batch=1, max_queue=8) as running, ThreadPoolExecutor(4) as threads:
            ends, asked = [], []

            def ask(number):
                assert post(running, SHORT).status_code == 200
                ends.append(number)

            def all_came():
                return ends or running.service.admission.num_open == len(asked)

            for number in range(3):
                asked.append(threads.submit(ask, number))
                wait_for(all_came)
            for future in asked:
                future.result()
            assert ends == sorted(ends)


class TestClientsThatLeave:
    @pytest.mark.usefixtures("slow_steps")
    @pytest.mark.parametrize("when", ["before the audio", "in the audio", "in the queue"])
    def test_the_slot_is_free_within_two_steps(self, start, when):
        with start(max_batch=1) as running:
            engine = running.service.engine
            connections = [Raw(running, LONG)]
            wait_for(lambda: engine.stats.running)  # no longer queued
            if when == "in the queue":
                connections.append(Raw(running, LONG))
                wait_for(lambda: engine.stats.queued)
            if when == "in the audio":
                assert connections[0].begun()
            cancelled = []
            cancel = Scheduler.cancel

            def note(scheduler, request):
                cancelled.append(scheduler.steps)
                cancel(scheduler, request)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Scheduler, "cancel", note)
                connections[-1].close()
                wait_for(lambda: cancelled)
            if len(connections) == 1:
                wait_for(lambda: is_idle(running))
                assert engine.stats.steps <= cancelled[0] + 2
            else:
                assert running.service.admission.num_open == 1
                connections[0].close()
            wait_for(lambda: is_idle(running))
            assert post(running, SHORT).status_code == 200
            metrics = httpx.get(f"{running.url}/metrics").text
            count = len(connections)
            assert f'dia_ort_speeches_total{{outcome="cancelled"}} {count}.0' in metrics

    def test_a_slow_reader_holds_nobody_up(self, start):
        with start(max_batch=4) as running:
            running.server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            slow = Raw(running, LONG)
            assert slow.begun()
            assert post(running, SHORT).status_code == 200
            wait_for(lambda: running.service.admission.num_open == 1)  # the slow one's alone
            slow.close()
            wait_for(lambda: is_idle(running))

    def test_a_client_that_takes_nothing_is_dropped(self, start):
        with start(send_timeout=0.3) as running:
            running.server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            stuck = Raw(running, {**LONG, "response_format": "wav"})
            wait_for(lambda: running.service.admission.num_open == 1)
            wait_for(lambda: is_idle(running), seconds=60)
            metrics = httpx.get(f"{running.url}/metrics").text
            assert 'dia_ort_speeches_total{outcome="slow_client"} 1.0' in metrics
            stuck.close()


@pytest.mark.usefixtures("slow_steps")
class TestStopping:
    def test_running_requests_end_first(self, start, monkeypatch):
        goes_on = threading.Event()
        with start(drain_timeout=60) as running, ThreadPoolExecutor(1) as threads:
            alone = post(running, SHORT).content
            wait_for(lambda: is_idle(running))
            tick = Scheduler.tick
            monkeypatch.setattr(Scheduler, "tick", lambda self: goes_on.wait(30) and tick(self))
            running_request = threads.submit(post, running, SHORT)
            wait_for(lambda: running.service.admission.num_open == 1)
            running.server.stop()
            wait_for(lambda: running.service.state == "draining")
            ready = httpx.get(f"{running.url}/ready")
            assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
            assert httpx.get(f"{running.url}/health").status_code == 200
            refused = post(running, SHORT)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            goes_on.set()
            assert running_request.result().content == alone
            running.thread.join(30)
            assert running.exit_code == 0

    def test_they_are_given_up_after_a_time(self, start):
        with start(drain_timeout=0.3) as running:
            connection = Raw(running, LONG)
            assert connection.begun()
            running.server.stop()
            content = b""
            while part := connection.socket.recv(65536):
                content += part
            assert not content.endswith(b"0\r\n\r\n")  # the client sees that it is not whole
            running.thread.join(30)
            assert running.exit_code == 0

    def test_the_second_time_it_stops_at_once(self, start):
        with start(drain_timeout=60) as running:
            connection = Raw(running, LONG)
            assert connection.begun()
            running.server.stop()
            wait_for(lambda: running.service.state == "draining")
            running.server.stop()
            running.thread.join(10)
            assert running.exit_code == 0
            connection.close()


class TestDying:
    def test_a_dead_engine_ends_the_process(self, start, monkeypatch, caplog):
        with start() as running:
            connection = Raw(running, LONG)
            assert connection.begun()

            def fail(_):
                raise MemoryError("no memory left")

            monkeypatch.setattr(Scheduler, "tick", fail)
            with caplog.at_level(logging.CRITICAL):
                wait_for(lambda: running.service.state == "dead")
                health = httpx.get(f"{running.url}/health")
                assert health.status_code == 500
                assert "no memory left" in health.json()["reason"]
                assert httpx.get(f"{running.url}/ready").status_code == 503
                assert post(running, SHORT).status_code == 503
                running.thread.join(30)
            assert running.exit_code == DIED
            assert "the engine is dead" in caplog.text
            connection.close()

    def test_one_that_cannot_speak_is_never_ready(self, start, monkeypatch):
        def fail(_):
            raise MemoryError("no memory left")

        monkeypatch.setattr(Scheduler, "tick", fail)
        with start(wait=False) as running:
            running.thread.join(30)
            assert running.exit_code == DIED

    def test_a_failure_of_the_warm_up_alone_ends_it_too(self, start, monkeypatch, caplog):
        def fail(*_):
            raise RuntimeError("the encoder failed")

        monkeypatch.setattr(Dia, "encode_tokens", fail)
        with start(wait=False) as running:
            running.thread.join(30)
            assert running.exit_code == DIED
            assert "the encoder failed" in running.service.reason
        assert "the warm-up failed" in caplog.text


def test_health_is_quick_while_all_slots_speak(start):
    with start(max_batch=4, max_queue=16) as running, running.client() as client:
        connections = [Raw(running, ENDLESS) for _ in range(8)]
        wait_for(lambda: running.service.engine.stats.running == 4)
        for _ in range(20):
            assert client.get("/health").status_code == 200
        assert running.service.engine.stats.running
        for connection in connections:
            connection.close()
        wait_for(lambda: is_idle(running))


def test_nothing_is_left_of_many_requests(start):
    with start(max_batch=4, max_queue=30) as running, ThreadPoolExecutor(12) as pool:
        assert post(running, SHORT).status_code == 200
        before = {thread.name for thread in threading.enumerate()}

        def ask(number):
            if number % 3:
                connection = Raw(running, LONG)
                if number % 2:
                    connection.begun()
                connection.close()
                return 0
            return post(running, SHORT).status_code

        assert set(pool.map(ask, range(18))) == {0, 200}
        wait_for(lambda: is_idle(running))
        pool.shutdown()
        left = {thread.name for thread in threading.enumerate()} - before
        assert all(name.startswith("dia-ort-serve") for name in left)  # the pools
