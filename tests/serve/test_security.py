"""Keys, other sites' pages, and what logs tell."""

import json
import logging
import socket

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dia_ort.errors import ArtifactError, NumericalError
from dia_ort.live import LiveSpeech
from dia_ort.serve.logs import JsonFormatter

HELLO = {"input": "[S1] hello world. [S2] this is dia.", "seed": 3, "response_format": "pcm"}
KEYS = {"api_keys": ("secret-one", "secret-two")}
ORIGIN = {"Origin": "https://elsewhere.example"}


@pytest.fixture(scope="module")
def locked(start):
    """A client of a server that wants a key."""
    with start(**KEYS) as running, running.client() as client:
        yield client


class TestKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer secret-on"},
            {"Authorization": "Basic secret-one"},
            {"Authorization": "secret-one"},
            {"Authorization": "Bearer secret-one secret-two"},
            {"Authorization": b"Bearer \xff\xfe"},
        ],
    )
    def test_without_a_key_there_is_nothing(self, locked, headers):
        for method, path in [
            ("POST", "/v1/audio/speech"),
            ("GET", "/v1/models"),
            ("GET", "/v1/audio/voices"),
            ("POST", "/v1/audio/voices"),
            ("GET", "/metrics"),
            ("GET", "/nothing"),
        ]:
            response = locked.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["type"] == "authentication_error"

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
    @pytest.mark.parametrize("key", KEYS["api_keys"])
    def test_each_key_opens(self, locked, scheme, key):
        headers = {"Authorization": f"{scheme} {key}"}
        assert locked.post("/v1/audio/speech", json=HELLO, headers=headers).status_code == 200

    @pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/openapi.json"])
    def test_these_are_open(self, locked, path):
        assert locked.get(path).status_code == 200

    def test_the_page_knows_that_it_needs_one(self, locked):
        assert '"needs_key": true' in locked.get("/").text

    def test_websockets_need_one(self, locked):
        url = str(locked.base_url).replace("http", "ws") + "/v1/audio/stream"
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        assert refused.value.response.status_code == 401
        with connect(url, additional_headers={"Authorization": "Bearer secret-two"}) as socket:
            socket.send('{"type": "cancel"}')
            assert json.loads(socket.recv())["type"] == "cancelled"


class TestOrigins:
    def test_other_pages_may_not_act(self, client, server):
        assert client.post("/v1/audio/speech", json=HELLO, headers=ORIGIN).status_code == 403
        assert client.post("/v1/audio/voices", headers=ORIGIN).status_code == 403
        assert client.delete("/v1/audio/voices/ann", headers=ORIGIN).status_code == 403
        response = client.get("/v1/models", headers=ORIGIN)
        assert "access-control-allow-origin" not in response.headers
        with pytest.raises(InvalidStatus) as refused:
            connect(server.url.replace("http", "ws") + "/v1/audio/stream", origin=ORIGIN["Origin"])
        assert refused.value.response.status_code == 403

    def test_the_own_page_may(self, client, server):
        own = {"Origin": server.url}
        assert client.post("/v1/audio/speech", json=HELLO, headers=own).status_code == 200

    @pytest.mark.parametrize(
        ("host", "may"),
        [
            ("localhost:8000", True),
            ("dia.localhost", True),
            ("127.0.0.1", True),
            ("[::1]:8000", True),
            ("192.168.1.2:8000", True),
            ("gpu-box:8000", True),
            ("gpu-box.local", True),
            ("evil.example:8000", False),
            ("127.0.0.1.evil.example", False),
            ("localhost.evil.example:8000", False),
        ],
    )
    def test_a_name_that_a_site_can_have_is_not_the_own(self, client, host, may):
        headers = {"Host": host, "Origin": f"http://{host}"}
        response = client.delete("/v1/audio/voices/nobody", headers=headers)
        assert response.status_code == (404 if may else 403)

    def test_websockets_are_not_opened_under_a_sites_name(self, server):
        with socket.create_connection(("127.0.0.1", server.server.port)) as connection:
            url = "ws://evil.example/v1/audio/stream"
            with pytest.raises(InvalidStatus) as refused:
                connect(url, sock=connection, origin="http://evil.example")
        assert refused.value.response.status_code == 403

    @pytest.mark.parametrize(
        ("settings", "headers"),
        [
            ({"cors_origins": ("https://speech.example",)}, {}),
            (KEYS, {"Authorization": "Bearer secret-one"}),
        ],
    )
    def test_the_own_page_may_have_a_sites_name_if_told_so_or_with_a_key(
        self, start, settings, headers
    ):
        own = {**headers, "Host": "speech.example", "Origin": "https://speech.example"}
        with start(**settings) as running, running.client() as client:
            assert client.post("/v1/audio/speech", json=HELLO, headers=own).status_code == 200

    def test_pages_that_are_allowed_may(self, start):
        allowed_here = {"cors_origins": (ORIGIN["Origin"],), **KEYS}
        with start(**allowed_here) as running, running.client() as client:
            asks = {
                **ORIGIN,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            }
            allowed = client.options("/v1/audio/speech", headers=asks)
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == ORIGIN["Origin"]
            refused = client.post("/v1/audio/speech", json=HELLO, headers=ORIGIN)
            assert refused.status_code == 401
            assert refused.headers["access-control-allow-origin"] == ORIGIN["Origin"]
            key = {**ORIGIN, "Authorization": "Bearer secret-one"}
            response = client.post("/v1/audio/speech", json=HELLO, headers=key)
            assert response.status_code == 200
            assert "X-Dia-Seed" in response.headers["access-control-expose-headers"]
            other = {**key, "Origin": "https://third.example"}
            assert client.post("/v1/audio/speech", json=HELLO, headers=other).status_code == 403

    def test_all_pages_may_if_told_so(self, start):
        with start(cors_origins=("*",)) as running, running.client() as client:
            assert client.post("/v1/audio/speech", json=HELLO, headers=ORIGIN).status_code == 200


class TestLogs:
    def test_they_tell_what_happened_and_no_text(self, start, caplog):
        caplog.set_level(logging.INFO)
        with start() as running, running.client() as client:
            response = client.post(
                "/v1/audio/speech", json=HELLO, headers={"X-Request-ID": "mine-1"}
            )
            assert response.headers["x-request-id"] == "mine-1"
            client.post("/v1/audio/speech", json={**HELLO, "voice": "nobody"})
            client.post("/v1/audio/speech", json={**HELLO, "input": "[S9] hello world"})
        records = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
        speech, refused = [record for record in records if record["message"] == "speech"]
        assert refused["outcome"] == "refused"
        assert speech["outcome"] == "finished"
        assert speech["characters"] == len(HELLO["input"])
        assert speech["seed"] == 3
        assert speech["audio_seconds"] > 1
        assert speech["first_audio_seconds"] > 0
        assert [
            record["status"]
            for record in records
            if record["message"] == "request" and record["method"] == "POST"
        ] == [200, 404, 422]
        assert "hello world" not in caplog.text

    def test_speech_that_is_cut_is_told(self, start, caplog):
        caplog.set_level(logging.INFO)
        with start() as running, running.client() as client:
            client.post("/v1/audio/speech", json={**HELLO, "max_tokens": 60})
            client.post("/v1/audio/speech", json=HELLO)
            metrics = client.get("/metrics").text
        cut, whole = [record for record in caplog.records if record.getMessage() == "speech"]
        assert (cut.outcome, cut.finish_reason) == ("finished", "length")
        assert cut.faults == ["chunk 1: it ran to its most decoder steps"]
        assert (whole.outcome, whole.finish_reason, whole.faults) == ("finished", "eos", [])
        assert "dia_ort_faults_total 1.0" in metrics

    @pytest.mark.parametrize("stream_format", ["audio", "sse"])
    @pytest.mark.parametrize(
        ("error", "told", "logged"),
        [
            (NumericalError("it computed NaN."), "it computed NaN.", "it computed NaN."),
            (ArtifactError("/models/dia is gone"), "its log says why", "/models/dia is gone"),
            (ValueError("/models/dia is odd"), "its log says why", "Traceback"),
        ],
    )
    def test_what_fails_says_why_in_the_log(
        self, client, monkeypatch, caplog, stream_format, error, told, logged
    ):
        async def fail(_):
            raise error
            yield

        monkeypatch.setattr(LiveSpeech, "samples", fail)
        fields = {"stream_format": stream_format, "progress": True}
        response = client.post("/v1/audio/speech", json=HELLO | fields)
        assert response.status_code == (500 if stream_format == "audio" else 200)
        assert told in response.text
        assert "/models" not in response.text
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert logged in JsonFormatter().format(record)

    def test_text_is_logged_if_asked_for(self, start, caplog):
        caplog.set_level(logging.INFO)
        with start(log_text=True) as running, running.client() as client:
            client.post("/v1/audio/speech", json=HELLO)
        assert HELLO["input"] in [getattr(record, "text", None) for record in caplog.records]

    @pytest.mark.parametrize("given", ["a b", "x" * 65, 'a"b', "é"])
    def test_odd_request_ids_are_not_taken(self, client, given):
        response = client.get("/health", headers={"X-Request-ID": given.encode()})
        assert response.headers["x-request-id"] != given
