"""Models and voices: what there is to speak with."""

import dataclasses
import io
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import soundfile
from fastapi import APIRouter, Depends, File, Form, UploadFile
from numpy.typing import NDArray

from dia_ort.anchors import Room
from dia_ort.audio import NO_LENGTH, UNKNOWN_FRAMES
from dia_ort.config import GenerationConfig
from dia_ort.errors import DiaError, InvalidAudioError, InvalidConfigError, InvalidTextError
from dia_ort.serve.errors import ApiError, hide_folders
from dia_ort.serve.schemas import (
    DEFAULT_VOICE,
    AudioModel,
    AudioModelList,
    ModelInfo,
    ModelList,
    VoiceDeleted,
    VoiceInfo,
    VoiceList,
    errors,
)
from dia_ort.serve.service import Service, get_service
from dia_ort.voice import Voice, check_duration
from dia_ort.voices import list_voice_files, remove_voice, voice_file, voices_folder

router = APIRouter(tags=["models and voices"])

ServiceDependency = Annotated[Service, Depends(get_service)]

_KNOWN = "send WAV, FLAC, Ogg or MP3."
_CONTAINERS = {"WAV", "WAVEX", "FLAC", "OGG", "MP3"}
_MOST_RATE, _MOST_CHANNELS = 192_000, 8  # of recordings, so that none is much larger in memory
_MOST_WAITING = 4  # recordings that are to be encoded


@router.get("/v1/models")
async def list_models(service: ServiceDependency) -> ModelList:
    """The names of the model."""
    return ModelList(data=[_model(service, name) for name in service.model_names])


@router.get("/v1/models/{model}", responses=errors(404))
async def retrieve_model(model: str, service: ServiceDependency) -> ModelInfo:
    """One of its names."""
    service.check_model(model)
    return _model(service, model)


@router.get("/v1/audio/models")
async def list_audio_models(service: ServiceDependency) -> AudioModelList:
    """The names of the model, as Open WebUI asks for them."""
    return AudioModelList(models=[AudioModel(id=name, name=name) for name in service.model_names])


@router.get("/v1/audio/voices")
async def list_voices(service: ServiceDependency) -> VoiceList:
    """All voices; the first is the default."""
    return VoiceList(voices=await service.in_a_thread(_voices, service))


@router.post(
    "/v1/audio/voices", status_code=201, responses=errors(400, 403, 409, 413, 415, 422, 429, 503)
)
async def create_voice(
    service: ServiceDependency,
    name: Annotated[str, Form(description="Letters (a to z), digits, - and _; up to 64.")],
    audio_sample: Annotated[
        UploadFile, File(description="WAV, FLAC, Ogg or MP3; 1 to 30 s, best 5 to 10.")
    ],
    transcript: Annotated[
        str, Form(description="What it says, word for word, with [S1] and [S2].")
    ] = "",
) -> VoiceInfo:
    """Keep a voice from a recording."""
    _check_open(service)
    service.check_ready()
    service.check_length(len(transcript), "transcript")
    path = voice_file(name)
    origin = Path(audio_sample.filename or "").name
    if _escape(origin) != origin:
        raise ApiError(
            422,
            "the recording's name has what is no character: send it in UTF-8.",
            "invalid_name",
            param="audio_sample",
        )
    content = await audio_sample.read()
    if len(content) > service.settings.max_upload:
        raise ApiError(
            413,
            f"the recording has {len(content)} bytes, and this server takes "
            f"{service.settings.max_upload}: send a shorter one.",
            "recording_too_large",
            param="audio_sample",
        )
    if service.num_voices_in_work >= _MOST_WAITING:
        raise ApiError(429, "other recordings come first: try again.", "busy", retry_after=10)
    service.num_voices_in_work += 1
    try:
        async with service.voice_lock:
            _check_room(service, name, path)
            return await service.in_a_thread(
                _make_voice, service, path, content, transcript, origin
            )
    finally:
        service.num_voices_in_work -= 1


@router.delete("/v1/audio/voices/{voice}", responses=errors(403, 404))
async def delete_voice(voice: str, service: ServiceDependency) -> VoiceDeleted:
    """Delete a voice for good."""
    _check_open(service)
    if voice == DEFAULT_VOICE:
        raise ApiError(403, "the default voice cannot be deleted.", "default_voice")
    async with service.voice_lock:
        path = service.find_voice(voice)
        if path.parent != voices_folder():
            raise ApiError(403, f"the voice {voice} comes with dia-ort.", "built_in_voice")
        await service.in_a_thread(remove_voice, path.stem)
    return VoiceDeleted(id=voice)


def _model(service: Service, name: str) -> ModelInfo:
    created = int((service.engine.dia.artifact.folder).stat().st_mtime)
    return ModelInfo(id=name, created=created, owned_by="nari-labs")


def _voices(service: Service) -> list[VoiceInfo]:
    default = VoiceInfo(
        id=DEFAULT_VOICE, name="Default", kind="default", origin="another voice for each seed"
    )
    return [
        default,
        *(_describe(service, path, "stored") for path in list_voice_files()),
        *(_describe(service, path, "built-in") for path in service.built_in_voices()),
    ]


def _describe(service: Service, path: Path, kind: Literal["stored", "built-in"]) -> VoiceInfo:
    name = _escape(path.stem)
    try:
        voice = Voice.load(path)
        _room(service).check(voice)
    except DiaError as error:
        return VoiceInfo(id=name, name=name, kind="broken", origin=_escape(hide_folders(error)))
    codec = service.engine.dia.manifest.codec
    seconds = len(voice.codes) * codec.hop_length / codec.sample_rate
    return VoiceInfo(
        id=name,
        name=name,
        kind=kind,
        transcript=voice.transcript,
        seconds=round(seconds, 3),
        origin=_escape(voice.origin),
    )


def _escape(text: str) -> str:
    """A text that may be of a file or a form, with what is no character written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _room(service: Service) -> Room:
    return Room(service.engine.dia.manifest, GenerationConfig())


def _check_open(service: Service) -> None:
    if not service.settings.voice_upload:
        raise ApiError(
            403, "voices cannot be changed here: this server forbids it.", "voices_closed"
        )


def _check_room(service: Service, name: str, path: Path) -> None:
    taken = {DEFAULT_VOICE, *service.settings.voice_aliases}
    if name in taken or path.exists():
        raise ApiError(
            409, f"there is a voice {name!r}: take another name.", "voice_exists", param="name"
        )
    if len(list_voice_files()) >= service.settings.max_voices:
        raise ApiError(
            403,
            f"there are {service.settings.max_voices} voices, as many as this server keeps: "
            "delete one.",
            "too_many_voices",
        )


def _make_voice(
    service: Service, path: Path, content: bytes, transcript: str, origin: str
) -> VoiceInfo:
    samples, sample_rate = _read_recording(content)
    dia = service.engine.dia
    try:
        voice = Voice.from_audio(dia, samples, transcript, sample_rate=sample_rate)
        _room(service).check(voice)
    except (InvalidTextError, InvalidConfigError) as error:
        param = "transcript" if transcript.strip() else "audio_sample"
        raise ApiError(422, str(error), "invalid_voice", param=param) from error
    dataclasses.replace(voice, origin=origin).save(path.stem)
    return _describe(service, path, "stored")


def _read_recording(content: bytes) -> tuple[NDArray[np.float32], int]:
    """A recording's samples, (samples, channels), and its rate; nothing large is decoded."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            if sound.format not in _CONTAINERS:
                raise ApiError(415, f"{sound.format} is not taken: {_KNOWN}", "unknown_audio")
            if sound.samplerate > _MOST_RATE or sound.channels > _MOST_CHANNELS:
                raise InvalidAudioError(
                    f"the recording has {sound.channels} channels at {sound.samplerate} Hz: send "
                    f"at most {_MOST_CHANNELS} at up to {_MOST_RATE} Hz"
                )
            if sound.frames > UNKNOWN_FRAMES:
                raise ApiError(415, NO_LENGTH, "unknown_length", param="audio_sample")
            check_duration(sound.frames / sound.samplerate)
            samples: NDArray[np.float32] = sound.read(dtype="float32", always_2d=True)
            return samples, sound.samplerate
    except soundfile.LibsndfileError as error:
        raise ApiError(
            415, f"this is no audio that is known here: {_KNOWN}", "unknown_audio"
        ) from error
