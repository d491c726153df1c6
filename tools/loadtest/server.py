"""The server under test: started here or elsewhere, and watched while it works."""

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

HEALTH_INTERVAL = 0.1
_MEMORY_TICKS = 5  # of health, from one look at the memory to the next
_START_SECONDS = 120
_STOP_SECONDS = 90
_LISTENING = re.compile(r'"message": "listening", "host": "(.+?)", "port": (\d+)')
_GAUGE = re.compile(r"^(\w+) ([0-9.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Server:
    """A server.

    Attributes:
        url: Where it is.
        api_key: That it takes.
        process: If it runs here.
    """

    url: str
    api_key: str | None = None
    process: psutil.Process | None = None

    def get(self, path: str) -> tuple[int, str]:
        """The status and the text of a page."""
        connection = self.connect()
        try:
            return self.get_by(connection, path)
        finally:
            connection.close()

    def get_by(self, connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
        """:meth:`get` over a connection that is kept."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        connection.request("GET", path, headers=key)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        address = urlsplit(self.url)
        return http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=30)

    def gauges(self) -> dict[str, float]:
        """All of its metrics that have no labels."""
        return {name: float(value) for name, value in _GAUGE.findall(self.get("/metrics")[1])}

    def resources(self) -> dict[str, float | None]:
        """Memory in bytes, open files and threads; what cannot be known from here is None."""
        if self.process:
            memory = self.process.memory_info().rss
            return {
                "memory": memory,
                "open_files": self.process.num_fds(),
                "threads": self.process.num_threads(),
            }
        gauges = self.gauges()
        names = {"memory": "process_resident_memory_bytes", "open_files": "process_open_fds"}
        return {key: gauges.get(name) for key, name in names.items()} | {"threads": None}

    def settle(self, seconds: float = 30) -> tuple[float, float]:
        """Wait until it does nothing.

        Returns:
            How long that took, and how many places are taken for ever.
        """
        start = time.perf_counter()
        while True:
            gauges = self.gauges()
            names = ("open_requests", "active_slots", "queue_depth")
            taken = sum(gauges[f"dia_ort_{name}"] for name in names)
            took = time.perf_counter() - start
            if not taken or took > seconds:
                return took, taken
            time.sleep(0.05)


@contextmanager
def start_server(options: Sequence[str], log: Path) -> Iterator[Server]:
    """Run ``dia-ort serve`` on a free port; its log goes to a file.

    Raises:
        RuntimeError: It does not start, or does not end with 0 when it is told to.
    """
    code = "from dia_ort.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stderr=file)
    try:
        yield _await_ready(process, log)
        process.send_signal(signal.SIGTERM)
        if exit_code := process.wait(timeout=_STOP_SECONDS):
            raise RuntimeError(f"the server ended with {exit_code}; {log} says why")
    finally:
        process.kill()
        process.wait()


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> Server:
    """The server, by the address in its log, when it takes requests."""
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        if address := _LISTENING.search(log.read_text("utf-8")):
            server = Server(
                f"http://{address[1]}:{address[2]}", process=psutil.Process(process.pid)
            )
            if server.get("/ready")[0] == 200:
                return server
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start; its log:\n{log.read_text('utf-8')}")


class Watcher(threading.Thread):
    """Asks for /health all the time, and looks at the memory.

    Attributes:
        health: Seconds from a question to its answer; from when it was due, if it had to wait for
            the answer before.
        errors: Questions without a good answer.
        memory: Bytes, over time.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(name="watcher", daemon=True)
        self.health: list[float] = []
        self.errors = 0
        self.memory: list[float] = []
        self._server = server
        self._stopped = threading.Event()

    def run(self) -> None:
        """Until :meth:`stop`."""
        connection = self._server.connect()
        due = answered = time.perf_counter()
        tick = 0
        while not self._stopped.wait(max(due - time.perf_counter(), 0)):
            asked = due if answered > due else time.perf_counter()
            try:
                status, _ = self._server.get_by(connection, "/health")
                self.errors += status != 200
            except (OSError, http.client.HTTPException):
                self.errors += 1
                connection.close()
            answered = time.perf_counter()
            self.health.append(answered - asked)
            if tick % _MEMORY_TICKS == 0 and self._server.process:
                self.memory.append(self._server.process.memory_info().rss)
            due, tick = due + HEALTH_INTERVAL, tick + 1
        connection.close()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()
        self.join()
