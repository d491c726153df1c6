"""What the page says when something goes wrong."""

import base64
import io
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import soundfile

from dia_ort.serve.page import build_page
from support.page import (
    HELLO,
    LONG,
    SPEECH,
    button,
    choose_seed,
    problem,
    script,
    speak,
    spoken_by_api,
)

expect = pytest.importorskip("playwright.sync_api").expect


def fail_with(page, status, code=None, *, message="no.", headers=()):
    """The next answers are this error."""
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    page.route(SPEECH, lambda route: route.fulfill(status=status, json=body, headers=dict(headers)))


CONFIG = {
    "model": "demo",
    "max_input": 99,
    "sample_rate": 44100,
    "voice_seconds": [1, 30],
    "defaults": {"cfg_scale": 3, "temperature": 1, "top_p": 1, "cfg_filter_top_k": 45},
    "non_verbals": [],
}
ANSWERS = {
    "/": build_page(CONFIG).html,
    "/ready": b'{"status": "ready"}',
    "/v1/audio/voices": b'{"voices": []}',
}


class BreakingServer(BaseHTTPRequestHandler):
    """Has the page, and closes the connection after a second of audio."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWERS[self.path])))
        self.end_headers()
        self.wfile.write(ANSWERS[self.path])

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        audio = base64.b64encode(bytes(2 * 44100)).decode()
        event = f'data: {{"type": "speech.audio.delta", "audio": "{audio}"}}\n\n'.encode()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        time.sleep(0.3)  # browsers drop what they have not given to the page yet
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def breaking_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), BreakingServer) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_script_that_is_refused_shows_why(page):
    script(page).fill("[S1] hello. [pause 99s] yes.")
    page.keyboard.press("Control+Enter")
    expect(problem(page)).to_contain_text("cannot speak this as it stands")
    expect(problem(page)).to_contain_text("[pause 99s]")
    script(page).fill("")
    page.keyboard.press("Control+Enter")
    expect(problem(page)).to_contain_text("There is nothing to speak")
    script(page).fill("a" * 20_001)
    expect(page.locator("#count")).to_contain_text("too long")
    page.keyboard.press("Control+Enter")
    expect(problem(page)).to_contain_text("takes 20,000 characters")


def test_a_full_queue_says_when_to_try_again(page):
    fail_with(page, 429, "queue_full", headers={"Retry-After": "2"})
    script(page).fill(HELLO)
    choose_seed(page, 3)
    button(page, "Speak").click()
    expect(problem(page)).to_contain_text("Too many are waiting")
    retry = problem(page).get_by_role("button")
    expect(retry).to_be_disabled()
    expect(retry).to_have_text(re.compile(r"Try again in \d s"))
    page.unroute(SPEECH)
    page.get_by_role("button", name="Try again", exact=True).click()
    expect(page.locator("#state")).to_contain_text("Finished")
    expect(problem(page)).to_be_hidden()


@pytest.mark.parametrize(
    ("status", "code", "ready", "title"),
    [
        (503, "not_ready", "warming up", "The server is still warming up"),
        (503, "not_ready", "draining", "The server is shutting down"),
        (503, "queue_timeout", "ready", "The server was too busy"),
        (500, "internal_error", "ready", "The server failed"),
        (413, None, "ready", "That is too long for this server"),
    ],
)
def test_an_error_of_the_server_is_explained(page, status, code, ready, title):
    answer = {"status": 200 if ready == "ready" else 503, "json": {"status": ready}}
    page.route("**/ready", lambda route: route.fulfill(**answer))
    fail_with(page, status, code, headers={"Retry-After": "5", "X-Request-ID": "abc"})
    button(page, "Speak").click()
    expect(problem(page)).to_contain_text(title)
    expect(problem(page).get_by_role("button")).to_contain_text("Try again")
    expect(page.locator("#state")).to_have_text("Not spoken")
    if ready == "warming up":
        expect(page.locator("#server")).to_have_text("Warming up")


def test_a_server_that_is_gone_is_told_from_one_that_fails(page):
    page.context.set_offline(True)
    button(page, "Speak").click()
    expect(problem(page)).to_contain_text("The server cannot be reached")
    expect(page.locator("#server")).to_have_text("Not reachable")


@pytest.mark.parametrize("last", ["error", "nothing"])
def test_speech_that_breaks_off_keeps_what_came(page, client, last):
    samples = spoken_by_api(client)[:20_000]
    audio = base64.b64encode(samples.tobytes()).decode()
    events = [{"type": "speech.audio.delta", "audio": audio}]
    if last == "error":
        events += [{"type": "error", "error": {"message": "it broke", "code": "failed"}}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    page.route(SPEECH, lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    button(page, "Speak").click()
    expect(problem(page)).to_contain_text("It broke" if last == "error" else "connection was lost")
    expect(page.locator("#state")).to_have_text("Broken off, 0.5 s")
    with page.expect_download() as download:
        page.get_by_role("listitem").get_by_role("button", name="Download").click()
    kept, _ = soundfile.read(io.BytesIO(download.value.path().read_bytes()), dtype="int16")
    np.testing.assert_array_equal(kept, samples)


def test_a_server_that_stops_in_mid_speech_says_so(start, open_page):
    with start() as running:
        page = open_page(running.url)
        script(page).fill(LONG)
        button(page, "Speak").click()
        expect(page.locator("#stat-made")).to_contain_text(" s")
        running.server.stop()
        running.server.stop()  # at once
        expect(problem(page)).to_contain_text(re.compile("connection was lost|shutting down"))
        expect(page.get_by_role("listitem")).to_contain_text("broken off")


def test_a_connection_that_breaks_is_noticed(breaking_server, open_page):
    page = open_page(breaking_server)
    button(page, "Speak").click()
    expect(problem(page)).to_contain_text("The connection was lost")
    expect(page.get_by_role("listitem")).to_contain_text("broken off")


def test_faults_are_shown(page):
    done = {
        "type": "speech.audio.done",
        "seconds": 0,
        "elapsed": 1,
        "faults": ["chunk 1: it is silent"],
    }
    body = f"data: {json.dumps(done)}\n\n"
    page.route(SPEECH, lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    button(page, "Speak").click()
    expect(page.locator("#faults")).to_contain_text("chunk 1: it is silent")


def test_an_api_key_is_asked_for_and_kept(start, open_page):
    with start(api_keys=("secret",)) as running:
        page = open_page(running.url)
        field = page.get_by_label("API key", exact=True).and_(page.locator("input"))
        field.fill("wrong")
        field.press("Enter")
        expect(problem(page)).to_contain_text("The API key is not the right one")
        field.fill("secret")
        field.press("Enter")
        expect(problem(page)).to_be_hidden()
        expect(page.locator("#key-form")).to_be_hidden()
        speak(page)
        page.reload()
        speak(page)
