"""Models and voices."""

import io
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dia_ort import GenerationConfig, Voice
from dia_ort.serve import catalogue

HELLO = "[S1] hello world. [S2] this is dia."


@pytest.fixture(autouse=True)
def no_voices(voices_folder):
    for path in voices_folder.glob("*"):
        path.unlink()


@pytest.fixture(scope="module")
def recording(dia):
    return encode(dia.generate(HELLO, GenerationConfig(seed=1)).samples)


def encode(samples, rate=44100, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **options})
    return file.getvalue()


def upload(client, content, name="ann", transcript=HELLO, filename="ann.wav"):
    return client.post(
        "/v1/audio/voices",
        data={"name": name, "transcript": transcript},
        files={"audio_sample": (filename, content)},
    )


def names(client):
    return [voice["id"] for voice in client.get("/v1/audio/voices").json()["voices"]]


def test_models(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "demo"
    assert model["object"] == "model"
    assert client.get("/v1/models/demo").json() == model
    assert client.get("/v1/audio/models").json() == {"models": [{"id": "demo", "name": "demo"}]}
    missing = client.get("/v1/models/nothing")
    assert missing.status_code == 404
    assert "demo" in missing.json()["error"]["message"]


def test_a_voice_from_upload_to_deletion(client, dia, recording, voices_folder):
    response = upload(client, recording)
    assert response.status_code == 201
    voice = response.json()
    assert voice["id"] == voice["name"] == "ann"
    assert (voice["kind"], voice["transcript"], voice["origin"]) == ("stored", HELLO, "ann.wav")
    assert voice["seconds"] == pytest.approx(
        soundfile.info(io.BytesIO(recording)).duration, abs=0.02
    )
    assert client.get("/v1/audio/voices").json()["voices"][1] == voice

    # It is what the library makes of the recording.
    samples, rate = soundfile.read(io.BytesIO(recording))
    made = Voice.from_audio(dia, samples, HELLO, sample_rate=rate)
    assert np.array_equal(Voice.load("ann").codes, made.codes)

    speech = {"input": HELLO, "voice": "ann", "max_tokens": 300, "seed": 1}
    assert client.post("/v1/audio/speech", json=speech).status_code == 200
    assert client.delete("/v1/audio/voices/ann").json()["deleted"] is True
    assert names(client) == ["default", "high", "low"]
    assert client.delete("/v1/audio/voices/ann").status_code == 404
    assert client.post("/v1/audio/speech", json=speech).status_code == 404
    assert not list(voices_folder.glob("*"))


@pytest.mark.parametrize("options", [{"format": "FLAC"}, {"format": "OGG"}, {"format": "MP3"}])
def test_containers(client, recording, options):
    samples, rate = soundfile.read(io.BytesIO(recording))
    assert upload(client, encode(samples, rate, **options)).status_code == 201


def test_what_the_server_streams_can_be_uploaded(client):
    for name in ("wav", "mp3", "opus", "flac"):
        speech = {"input": HELLO, "response_format": name, "seed": 1}
        content = client.post("/v1/audio/speech", json=speech).content
        response = upload(client, content, name=f"from-{name}")
        assert response.status_code == (415 if name == "flac" else 201), response.text


SECOND = np.sin(np.arange(44100) / 20)


@pytest.mark.parametrize(
    ("content", "name", "status"),
    [
        (b"", "ann", 415),
        (b"not audio", "ann", 415),
        (encode(SECOND, format="AIFF"), "ann", 415),
        (encode(SECOND[:4410]), "ann", 422),
        (encode(np.tile(SECOND, 31)), "ann", 422),
        (encode(np.tile(SECOND, 900), format="FLAC"), "ann", 422),
        (encode(np.zeros(88200)), "ann", 422),
        (encode(np.tile(SECOND[:, None], 9)), "ann", 422),
        (encode(SECOND), "../ann", 422),
        (encode(SECOND), "a/b", 422),
        (encode(SECOND), "", 422),
        (encode(SECOND), "ä", 422),
        (encode(SECOND), "a" * 65, 422),
        (encode(SECOND), "default", 409),
    ],
)
def test_bad_uploads(client, voices_folder, content, name, status):
    response = upload(client, content, name)
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert not list(voices_folder.glob("*"))
    assert names(client) == ["default", "high", "low"]


@pytest.mark.parametrize(
    ("transcript", "message"),
    [
        ("[S1] he\x01llo", "the transcript has the control character"),
        ("[S1]", "the transcript has no words"),
        ("[S1] " + "hello " * 160, "too little room for speech"),
        ("[S1] " + "hello " * 3000, "too little room for speech"),
    ],
)
def test_a_voice_that_can_never_speak_is_not_kept(
    client, voices_folder, recording, transcript, message
):
    response = upload(client, recording, transcript=transcript)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "transcript")
    assert message in error["message"]
    assert not list(voices_folder.glob("*"))


def upload_in(client, charset, content, transcript, filename):
    """Sends a form whose texts are in a charset that the client chose."""
    heads = (
        b'form-data; name="name"\r\n\r\nann',
        b'form-data; name="transcript"\r\n\r\n' + transcript,
        b'form-data; name="audio_sample"; filename="' + filename + b'"\r\n\r\n' + content,
    )
    body = b"".join(b"--x\r\nContent-Disposition: " + head + b"\r\n" for head in heads)
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    return client.post(
        "/v1/audio/voices", content=body + b"--x--\r\n", headers={"Content-Type": kind}
    )


@pytest.mark.parametrize(
    ("charset", "transcript", "filename", "param"),
    [
        ("utf-7", b"[S1] hello.", b"+2AA-.wav", "audio_sample"),
        ("unicode_escape", b"[S1] hello.", rb"\ud800.wav", "audio_sample"),
        ("utf-7", b"+2AA-", b"ann.wav", "transcript"),
    ],
)
def test_what_is_no_text_is_not_kept(
    client, voices_folder, recording, charset, transcript, filename, param
):
    response = upload_in(client, charset, recording, transcript, filename)
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)
    assert not list(voices_folder.glob("*"))
    assert upload_in(client, charset, recording, b"[S1] hello.", b"ann.wav").status_code == 201


def test_no_file_breaks_the_list(client, voices_folder):
    codes = np.ones((50, 9), int)
    Voice(codes, "[S1] \ud800").save("unread")
    Voice(codes, HELLO, origin="\ud800.wav").save("odd")
    Voice(codes, HELLO, codec="\ud800").save("stranger")
    Voice(codes, "[S1] " + "hello " * 200).save("long")
    listed = {voice["id"]: voice for voice in client.get("/v1/audio/voices").json()["voices"]}
    assert [listed[name]["kind"] for name in ("unread", "stranger", "long")] == ["broken"] * 3
    assert "surrogate" in listed["unread"]["origin"]
    assert listed["odd"]["origin"] == r"\ud800.wav"
    assert client.delete("/v1/audio/voices/odd").status_code == 200


def test_missing_parts(client):
    assert client.post("/v1/audio/voices", data={"name": "ann"}).status_code == 422
    files = {"audio_sample": ("a.wav", encode(SECOND))}
    assert client.post("/v1/audio/voices", files=files).status_code == 422
    assert client.post("/v1/audio/voices", json={"name": "ann"}).status_code == 422


def test_a_name_is_given_once(client, recording):
    assert upload(client, recording).status_code == 201
    assert upload(client, recording).status_code == 409


def test_broken_voices_are_listed_with_the_reason(client, voices_folder, recording):
    voices_folder.mkdir(exist_ok=True)
    (voices_folder / "broken.voice").write_text("{")
    Voice(np.ones((50, 9), int), HELLO, codec="another").save("stranger")
    listed = {voice["id"]: voice for voice in client.get("/v1/audio/voices").json()["voices"]}
    assert listed["broken"]["kind"] == listed["stranger"]["kind"] == "broken"
    assert listed["broken"]["origin"].startswith("broken.voice is no voice, or was cut short")
    assert "codec" in listed["stranger"]["origin"]
    speech = {"input": HELLO, "voice": "broken"}
    assert client.post("/v1/audio/speech", json=speech | {"voice": "stranger"}).status_code == 422
    assert client.delete("/v1/audio/voices/broken").status_code == 200


def test_a_broken_voice_is_told_without_its_folder_and_logged_with_it(
    client, voices_folder, caplog
):
    voices_folder.mkdir(exist_ok=True)
    (voices_folder / "broken.voice").write_text("{")
    response = client.post("/v1/audio/speech", json={"input": HELLO, "voice": "broken"})
    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("broken_voice", "server_error")
    assert error["message"].startswith("broken.voice is no voice")
    assert str(voices_folder) not in json.dumps(error)
    (failed,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(voices_folder / "broken.voice") in failed.reason


def test_a_voice_that_cannot_be_written_is_told_without_its_folder(
    client, voices_folder, recording, monkeypatch
):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dia_ort.voice.write_file", fail)
    response = upload(client, recording)
    assert response.status_code == 500
    assert "ann.voice (No space left on device)" in response.json()["error"]["message"]
    assert str(voices_folder) not in response.text


def test_the_default_stays(client):
    assert client.delete("/v1/audio/voices/default").status_code == 403


def test_the_voices_of_the_demo(client, recording):
    listed = {voice["id"]: voice for voice in client.get("/v1/audio/voices").json()["voices"]}
    assert listed["low"]["kind"] == listed["high"]["kind"] == "built-in"
    speech = {"input": HELLO, "voice": "high", "max_tokens": 300}
    assert client.post("/v1/audio/speech", json=speech).status_code == 200
    refused = client.delete("/v1/audio/voices/high")
    assert refused.status_code == 403
    assert "comes with dia-ort" in refused.json()["error"]["message"]
    assert upload(client, recording, name="high").status_code == 201
    assert client.delete("/v1/audio/voices/high").status_code == 200
    assert names(client) == ["default", "high", "low"]


def test_the_voices_of_the_demo_by_other_spellings(client, monkeypatch):
    """Where a file's name may be written in any case, as on macOS and Windows."""
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: is_file(path.with_name(path.name.lower())))
    refused = client.delete("/v1/audio/voices/HIGH")
    assert refused.status_code == 403
    assert "comes with dia-ort" in refused.json()["error"]["message"]


def test_limits(start, recording):
    with start(max_voices=1, max_upload=len(recording)) as running, running.client() as client:
        assert upload(client, recording + b"\0").status_code == 413
        assert upload(client, recording * 9).status_code == 413
        assert upload(client, recording).status_code == 201
        assert upload(client, recording, name="bob").status_code == 403


def test_voices_may_be_closed(start, recording):
    with start(voice_upload=False) as running, running.client() as client:
        assert upload(client, recording).status_code == 403
        assert client.delete("/v1/audio/voices/ann").status_code == 403


def test_recordings_do_not_pile_up(start, recording, monkeypatch):
    goes_on = threading.Event()
    make = catalogue._make_voice

    def make_slowly(*arguments):
        goes_on.wait(30)
        return make(*arguments)

    monkeypatch.setattr(catalogue, "_make_voice", make_slowly)
    with start() as running, running.client() as client:
        statuses = {}

        def add(number):
            statuses[number] = upload(client, recording, name=f"voice{number}").status_code

        threads = [threading.Thread(target=add, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        while running.service.num_voices_in_work < 4:
            threading.Event().wait(0.01)
        response = upload(client, recording, name="one-more")
        assert response.status_code == 429
        assert response.headers["retry-after"]
        goes_on.set()
        for thread in threads:
            thread.join()
        assert set(statuses.values()) == {201}
