"""Models and voices."""

import io
import threading

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
    assert "cut short" in listed["broken"]["origin"]
    assert "codec" in listed["stranger"]["origin"]
    speech = {"input": HELLO, "voice": "broken"}
    assert client.post("/v1/audio/speech", json=speech).status_code == 500
    assert client.post("/v1/audio/speech", json=speech | {"voice": "stranger"}).status_code == 422
    assert client.delete("/v1/audio/voices/broken").status_code == 200


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
