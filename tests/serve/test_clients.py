"""The clients that people have: OpenAI's own, and Open WebUI."""

import asyncio
import io

import httpx
import numpy as np
import openai
import pytest
import soundfile

HELLO = "[S1] hello world. [S2] this is dia."


@pytest.fixture
def openai_client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


class TestOpenAI:
    def test_speech_to_a_file(self, openai_client, tmp_path):
        response = openai_client.audio.speech.create(model="demo", voice="default", input=HELLO)
        response.write_to_file(tmp_path / "speech.mp3")
        assert soundfile.info(tmp_path / "speech.mp3").duration > 1

    def test_all_of_its_fields(self, openai_client):
        response = openai_client.audio.speech.create(
            model="demo",
            voice={"id": "default"},
            input=HELLO,
            instructions="Speak calmly.",
            response_format="wav",
            speed=1.5,
            stream_format="audio",
            extra_body={"seed": 3, "temperature": 1.0},
        )
        samples, rate = soundfile.read(io.BytesIO(response.content))
        assert rate == 44100
        assert np.abs(samples).max() > 0.05

    @pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
    def test_streaming_to_a_file(self, openai_client, tmp_path, name):
        with openai_client.audio.speech.with_streaming_response.create(
            model="demo", voice="default", input=HELLO, response_format=name
        ) as response:
            response.stream_to_file(tmp_path / "speech")
        assert (tmp_path / "speech").stat().st_size > 5000

    def test_audio_comes_in_pieces(self, openai_client):
        with openai_client.audio.speech.with_streaming_response.create(
            model="demo", voice="default", input=HELLO, response_format="pcm"
        ) as response:
            assert len(list(response.iter_bytes(1024))) > 10

    def test_the_async_client(self, server):
        async def speak():
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none")
            streaming = client.audio.speech.with_streaming_response.create(
                model="demo", voice="default", input=HELLO, response_format="pcm"
            )
            async with client, streaming as response:
                return b"".join([part async for part in response.iter_bytes()])

        assert len(asyncio.run(speak())) > 24000

    def test_events(self, openai_client):
        with openai_client.audio.speech.with_streaming_response.create(
            model="demo", voice="default", input=HELLO, stream_format="sse"
        ) as response:
            lines = [line for line in response.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        assert '"speech.audio.done"' in lines[-1]

    def test_models(self, openai_client):
        assert [model.id for model in openai_client.models.list()] == ["demo"]
        assert openai_client.models.retrieve("demo").owned_by == "nari-labs"

    def test_errors_are_its_own(self, openai_client):
        with pytest.raises(openai.NotFoundError, match="no voice 'alloy' here"):
            openai_client.audio.speech.create(model="demo", voice="alloy", input=HELLO)
        with pytest.raises(openai.UnprocessableEntityError, match="speed"):
            openai_client.audio.speech.create(model="demo", voice="default", input=HELLO, speed=9)

    def test_a_wrong_key(self, start):
        with start(api_keys=("right",)) as running:
            wrong = openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong")
            with pytest.raises(openai.AuthenticationError):
                wrong.models.list()
            right = openai.OpenAI(base_url=f"{running.url}/v1", api_key="right")
            assert right.models.list().data


class TestOpenWebUI:
    """What its backend asks for, with an API base URL that ends in /v1."""

    def test_it_finds_models_and_voices(self, client):
        models = client.get("/v1/audio/models").json()["models"]
        assert [model["id"] for model in models] == ["demo"]
        voices = client.get("/v1/audio/voices").json()["voices"]
        assert {voice["id"]: voice["name"] for voice in voices}["default"] == "Default"

    def test_it_gets_speech(self, server):
        payload = {"input": "Hello world. This is dia.", "voice": "default", "model": "demo"}
        headers = {
            "Authorization": "Bearer sk-none",
            "X-OpenWebUI-User-Name": "Ann",
            "X-OpenWebUI-User-Id": "1",
        }
        url = f"{server.url}/v1/audio/speech"
        response = httpx.post(url, json=payload, headers=headers, timeout=60)
        response.raise_for_status()
        assert soundfile.info(io.BytesIO(response.content)).format == "MP3"

    def test_it_shows_errors(self, server):
        payload = {"input": "Hello.", "voice": "nobody", "model": "demo"}
        response = httpx.post(f"{server.url}/v1/audio/speech", json=payload)
        assert response.json()["error"]["message"]
