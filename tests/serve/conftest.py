"""A running server with the demo model, for all tests of it."""

import dataclasses
import threading
from contextlib import contextmanager

import httpx
import pytest

from dia_ort import Dia
from dia_ort.serve.server import SpeechServer
from dia_ort.serve.settings import ServerSettings

WAIT = 60  # seconds until a test that hangs fails


class Running:
    """A server in a thread of this process.

    Attributes:
        url: Its base URL.
        service: What it serves, to look at.
    """

    def __init__(self, dia, **settings):
        self.server = SpeechServer(dia, ServerSettings(port=0, **settings))
        self.service = self.server.service
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.exit_code = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        self.exit_code = self.server.run_until_stopped()

    def client(self, **options):
        return httpx.Client(base_url=self.url, timeout=WAIT, **options)

    def wait_until_ready(self):
        with self.client() as client:
            for _ in range(600):
                if client.get("/ready").status_code == 200:
                    return
                threading.Event().wait(0.05)
        pytest.fail("the server is not ready")

    def set(self, **settings):
        """Change settings that requests read."""
        self.service.settings = dataclasses.replace(self.service.settings, **settings)

    def stop(self):
        self.server.stop()
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.exit_code


@pytest.fixture(scope="session")
def dia():
    return Dia.load("demo", provider="cpu")


@pytest.fixture(scope="session")
def start(dia):
    """Starts servers with settings of their own: ``with start(max_batch=1) as running``."""

    @contextmanager
    def start_one(*, wait=True, **settings):
        running = Running(dia, **settings)
        try:
            if wait:
                running.wait_until_ready()
            yield running
        finally:
            if running.thread.is_alive():
                running.server.stop()
                running.server.stop()  # at once
            running.thread.join(WAIT)
            assert not running.thread.is_alive()

    return start_one


@pytest.fixture(autouse=True, scope="session")
def voices_folder(tmp_path_factory):
    """Keeps the user's own voices out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("DIA_ORT_HOME", str(home))
        yield home / "voices"


@pytest.fixture(scope="session")
def server(start, voices_folder):
    """One server with the default settings."""
    with start() as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client
