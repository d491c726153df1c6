"""``POST /v1/audio/speech``: what comes, and what is refused."""

import base64
import io
import json

import av
import numpy as np
import pytest

from dia_ort import GenerationConfig, Voice
from dia_ort.live import LiveNarrator
from dia_ort.serve.schemas import SpeechRequest

HELLO = "[S1] hello world. [S2] this is dia."
PCM = {"input": HELLO, "response_format": "pcm", "sample_rate": 44100, "seed": 3}
LONG = " ".join(["hello world. this is dia. good morning. thank you."] * 40)


def speak(client, **fields):
    return client.post("/v1/audio/speech", json={"input": HELLO, "seed": 3, **fields})


def decode(content, suffix):
    """The samples of an encoded file, by FFmpeg."""
    with av.open(io.BytesIO(content), format=suffix) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        layout = container.streams.audio[0]
        samples = np.concatenate(frames, axis=1)[0].astype(np.float32)
        if samples.size and np.abs(samples).max() > 2:
            samples /= 32768
        return samples, layout.rate


def events(response):
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]


def pcm(content):
    return np.frombuffer(content, "<i2")


@pytest.fixture(scope="module")
def alone(dia):
    """What the model says without a server."""
    audio = dia.generate(HELLO, GenerationConfig(seed=3))
    return np.round(audio.samples.astype(np.float64).clip(-1, 1) * 32767.5 - 0.5)


def test_pcm_is_what_the_model_says(client, alone):
    response = speak(client, **PCM)
    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/pcm"
    assert response.headers["x-dia-seed"] == "3"
    assert response.headers["x-dia-sample-rate"] == "44100"
    samples = pcm(response.content)
    assert len(samples) == len(alone)
    assert np.abs(samples - alone).max() <= 2


def test_the_same_request_gives_the_same_bytes(client):
    assert speak(client, **PCM).content == speak(client, **PCM).content


@pytest.mark.parametrize(
    ("name", "media_type", "container", "rate"),
    [
        ("mp3", "audio/mpeg", "mp3", 44100),
        ("opus", "audio/ogg; codecs=opus", "ogg", 48000),
        ("aac", "audio/aac", "aac", 44100),
        ("flac", "audio/flac", "flac", 44100),
        ("wav", "audio/wav", "wav", 44100),
    ],
)
def test_every_format_decodes_to_the_speech(client, alone, name, media_type, container, rate):
    response = speak(client, response_format=name)
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    samples, has_rate = decode(response.content, container)
    assert has_rate == rate
    assert abs(len(samples) / rate - len(alone) / 44100) < 0.15
    assert 0.02 < np.sqrt(np.mean(samples**2)) < 0.5


def test_mp3_is_the_default_and_pcm_has_24_khz(client, alone):
    assert speak(client).headers["content-type"] == "audio/mpeg"
    response = speak(client, response_format="pcm")
    assert abs(len(response.content) / 2 - len(alone) * 24000 / 44100) <= 1


@pytest.mark.parametrize("speed", [0.25, 2, 4])
def test_speed(client, alone, speed):
    samples = pcm(speak(client, **PCM, speed=speed).content)
    assert abs(len(samples) - len(alone) / speed) < 4410


def test_audio_comes_while_it_is_made(client):
    with client.stream("POST", "/v1/audio/speech", json={**PCM, "input": LONG}) as response:
        first = next(response.iter_raw())
    assert 0 < len(first) < 44100


def test_a_long_text_is_spoken_to_its_end(client, dia, server):
    text = "Ann: hello world.\nBob: good morning. [pause 0.5s] thank you.\n" * 8
    response = client.post(
        "/v1/audio/speech", json={**PCM, "input": text, "stream_format": "sse", "progress": True}
    )
    *rest, done = events(response)
    samples = pcm(b"".join(base64.b64decode(e.get("audio", "")) for e in rest))
    assert done["type"] == "speech.audio.done"
    assert max(event.get("chunks", 0) for event in rest) > 1
    assert abs(done["seconds"] - len(samples) / 44100) < 0.001
    # Pauses are silent, and all of them are there.
    silent = np.abs(samples) < 8
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent, [0]])))
    lengths = (edges[1::2] - edges[::2]) / 44100
    assert (lengths >= 0.44).sum() >= 8


def test_events(client):
    response = speak(client, **{k: v for k, v in PCM.items() if k != "input"}, stream_format="sse")
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events(response)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    audio = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert audio == speak(client, **PCM).content
    usage = done["usage"]
    assert usage["input_tokens"] == len(HELLO) - 2 * len("S1]")  # a tag is one token
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert done["seed"] == 3
    assert done["finish_reason"] == "eos"
    assert done["faults"] == []


def test_events_tell_how_far_it_is(client):
    response = speak(client, stream_format="sse", progress=True)
    first, *rest = events(response)
    assert first["type"] == "speech.progress"
    assert first["state"] == "queued"
    told = [event for event in rest if event["type"] == "speech.progress"]
    assert {event["state"] for event in told} <= {"queued", "speaking"}
    seconds = [event["seconds"] for event in told]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0.5
    assert all(event["expected_seconds"] > 0 and event["queue_position"] == 0 for event in told)


def test_a_seed_that_was_chosen_makes_the_same_again(client):
    first = speak(client, response_format="pcm", seed=None)
    again = speak(client, response_format="pcm", seed=int(first.headers["x-dia-seed"]))
    assert first.content == again.content


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input": ""}, 422, "input"),
        ({"input": "   "}, 422, "input"),
        ({"input": "[S3] hello."}, 422, "input"),
        ({"input": "\ud800"}, 422, "input"),
        ({"input": None}, 422, "input"),
        ({"input": 5}, 422, "input"),
        ({"speed": 0.2}, 422, "speed"),
        ({"speed": 4.1}, 422, "speed"),
        ({"response_format": "ogg"}, 422, "response_format"),
        ({"stream_format": "json"}, 422, "stream_format"),
        ({"sample_rate": 11025}, 422, "sample_rate"),
        ({"response_format": "opus", "sample_rate": 44100}, 422, None),
        ({"seed": -1}, 422, "seed"),
        ({"seed": 2**64}, 422, "seed"),
        ({"top_p": 1.5}, 422, "top_p"),
        ({"cfg_filter_top_k": 0}, 422, "cfg_filter_top_k"),
        ({"max_tokens": 5}, 422, None),
        ({"max_tokens": 10**6}, 422, None),
        ({"unheard_of": 1}, 422, "unheard_of"),
        ({"voice": {"id": "default", "x": 1}}, 422, "voice"),
        ({"voice": "nobody"}, 404, "voice"),
        ({"voice": "../../etc/passwd"}, 404, "voice"),
        ({"voice": {"id": "nobody"}}, 404, "voice"),
        ({"model": "tts-1"}, 404, "model"),
    ],
)
def test_mistakes_are_told(client, fields, status, param):
    body = json.dumps({"input": HELLO, **fields})
    response = client.post(
        "/v1/audio/speech", content=body, headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["message"]
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert response.headers["x-request-id"]


def test_not_a_number_is_refused(client):
    body = '{"input": "hello", "temperature": NaN}'
    assert client.post("/v1/audio/speech", content=body).status_code == 422


def test_what_there_is_is_named(client):
    assert "demo" in speak(client, model="tts-1").json()["error"]["message"]
    assert "default" in speak(client, voice="alloy").json()["error"]["message"]


def test_another_method_is_told_which_there_are(client):
    response = client.get("/v1/audio/speech")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_heads(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == client.get(path).headers["content-type"]


OBJECT = "send a JSON object, with Content-Type: application/json"


@pytest.mark.parametrize(
    ("content", "media_type", "message"),
    [
        ('{"input": "hello"}', "application/x-www-form-urlencoded", OBJECT),
        ('{"input": "hello"}', "", OBJECT),
        ("[]", "application/json", OBJECT),
        ("", "application/json", OBJECT),
        ('{"input": "a" "b"}', "application/json", "Expecting ',' delimiter at character 14"),
        ("{", "Application/JSON", "at character 1"),
    ],
)
def test_no_json(client, content, media_type, message):
    response = client.post(
        "/v1/audio/speech", content=content, headers={"Content-Type": media_type}
    )
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (422, "invalid_request_error")
    assert message in error["message"]


def test_null_is_the_default(client):
    nulls = {name: None for name, info in SpeechRequest.model_fields.items() if name != "input"}
    given = speak(client, **{**nulls, "seed": 3})
    assert given.status_code == 200
    assert given.content == speak(client).content
    assert speak(client, unheard_of=None).status_code == 422


def test_openai_fields_that_do_nothing_are_taken(client):
    assert speak(client, instructions="Speak cheerfully.", model="demo").status_code == 200


def test_aliases(start):
    aliases = {"voice_alias": ("alloy=default",), "model_alias": ("tts-1",)}
    with start(**aliases) as running, running.client() as client:
        assert speak(client, voice="alloy", model="tts-1").status_code == 200
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["demo", "tts-1"]


def test_long_inputs_and_bodies_are_refused(start):
    with start(max_input=50) as running, running.client() as client:
        assert speak(client, input="a" * 51).status_code == 413
        assert speak(client, input="hello " * 8, max_tokens=60).status_code == 200
        response = client.post("/v1/audio/speech", content=b"x" * 200_000)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"

        def parts():
            for _ in range(20):
                yield b"x" * 10_000

        assert client.post("/v1/audio/speech", content=parts()).status_code == 413


def test_media_types_ignore_case(client):
    kind = {"Content-Type": "Multipart/Form-Data; boundary=x"}
    response = client.post("/v1/audio/voices", content=b"x" * 1_000_000, headers=kind)
    assert response.status_code != 413


def test_voices_are_gone_on_from(client, dia, server, voices_folder):
    audio = dia.generate("[S1] hello world.", GenerationConfig(seed=1))
    voice = Voice.from_result(audio)
    voice.save("ann")
    with_voice = speak(client, **PCM, voice="ann").content
    assert with_voice == speak(client, **PCM, voice={"id": "ann"}).content
    assert with_voice != speak(client, **PCM).content
    narrator = LiveNarrator(server.service.engine, GenerationConfig(seed=3), voice)
    assert narrator.seed == 3
