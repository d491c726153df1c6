"""``dia-ort serve`` as a process of its own: signals, a crash, and a restart under load."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest

WAIT = 60
SPEECH = {
    "input": "[S1] hello world. [S2] this is dia.",
    "response_format": "pcm",
    "seed": 3,
}
LONG = {**SPEECH, "input": "Hello world. This is dia. Good morning. Thank you. " * 20}
MAIN = "from dia_ort.cli import main; main()"


class Process:
    """A server as a process, ready to be asked.

    Attributes:
        url: Its base URL.
        log: What it logged, as records, up to now.
    """

    def __init__(self, *options):
        command = [sys.executable, "-c", MAIN, "serve", "--model", "demo", *map(str, options)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = []
        listening = self.wait_for("listening")
        self.port = listening["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.wait_for("ready")
        self.reader = threading.Thread(target=self.read_on)
        self.reader.start()

    def wait_for(self, message):
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == message:
                return self.log[-1]
        pytest.fail(f"it never said {message!r}: {self.log}")

    def read_on(self):
        self.log += map(json.loads, self.process.stderr)

    def stream(self, body):
        return httpx.stream("POST", f"{self.url}/v1/audio/speech", json=body, timeout=WAIT)

    def end(self):
        code = self.process.wait(WAIT)
        self.reader.join()
        self.process.stderr.close()
        return code


@contextmanager
def serve(*options):
    process = Process(*options)
    try:
        yield process
    finally:
        process.process.kill()
        process.end()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(number):
    with serve("--port", 0) as server:
        alone = httpx.post(f"{server.url}/v1/audio/speech", json=SPEECH, timeout=WAIT).content
        with server.stream(SPEECH) as response:
            parts = response.iter_raw()
            content = next(parts)
            server.process.send_signal(number)
            content += b"".join(parts)
        assert content == alone
        assert server.end() == 0
        assert [record["message"] for record in server.log][-1] == "stopped"


def test_the_port_is_taken():
    with serve("--port", 0) as server:
        command = [sys.executable, "-c", MAIN, "serve", "--model", "demo", "--port", server.port]
        second = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=WAIT
        )
        assert second.returncode == 2
        assert f"cannot listen on 127.0.0.1, port {server.port}" in second.stderr
        assert "--port" in second.stderr


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_two_colons_are_for_everybody():
    with serve("--port", 0, "--host", "::") as server:
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{server.port}/health").status_code == 200


def test_a_restart_under_load():
    """Clients get all of it, or an error that they can tell from it; and then all of it again."""
    outcomes, stops = [], threading.Event()
    with serve("--port", 0) as server:
        port = server.port
        alone = httpx.post(f"{server.url}/v1/audio/speech", json=SPEECH, timeout=WAIT).content

        def ask_on():
            while not stops.is_set():
                try:
                    response = httpx.post(
                        f"{server.url}/v1/audio/speech", json=SPEECH, timeout=WAIT
                    )
                except httpx.TransportError as error:
                    outcomes.append(type(error).__name__)
                    stops.wait(0.05)
                    continue
                if response.status_code == 200:
                    outcomes.append("whole" if response.content == alone else "wrong")
                else:
                    assert response.json()["error"]["message"]
                    assert response.headers["retry-after"]
                    outcomes.append(response.status_code)

        clients = [threading.Thread(target=ask_on) for _ in range(6)]
        for client in clients:
            client.start()
        while "whole" not in outcomes:
            stops.wait(0.01)
        server.process.kill() if os.name == "nt" else server.process.terminate()
        server.end()
        before = len(outcomes)
        with serve("--port", port):
            while "whole" not in outcomes[before:]:
                stops.wait(0.01)
            stops.set()
            for client in clients:
                client.join()
    known = {"whole", 503, "ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}
    assert set(outcomes) <= known, set(outcomes)
