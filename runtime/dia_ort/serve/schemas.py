"""What requests and answers look like; the OpenAPI document is made of it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dia_ort.config import GenerationConfig
from dia_ort.serve.encoding import AUDIO_FORMATS

_DEFAULTS = GenerationConfig()

DEFAULT_VOICE = "default"

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
SampleRate = Literal[8000, 16000, 24000, 44100, 48000]
State = Literal["warming up", "ready", "draining", "dead"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class VoiceReference(_Strict):
    """A voice by its id, as OpenAI's custom voices are given."""

    id: str


class SpeechSettings(_Strict):
    """How to speak: OpenAI's fields, and Dia's own."""

    model: str | None = Field(
        default=None, description="A model from /v1/models; by default the one."
    )
    voice: str | VoiceReference = Field(
        default=DEFAULT_VOICE,
        description="A voice from /v1/audio/voices; `default` is another one for each seed.",
    )
    response_format: Format = Field(default="mp3", description="How the audio is encoded.")
    speed: float = Field(default=1, ge=0.25, le=4, description="Of speech, at the same pitch.")
    sample_rate: SampleRate | None = Field(
        default=None,
        description="Of the audio, in hertz. By default 24000 for pcm (as OpenAI has it), 48000 "
        "for opus, and else the model's own.",
    )
    instructions: str | None = Field(
        default=None, description="Accepted for OpenAI's clients, and not used: Dia takes none."
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**64,
        description="Makes the same speech again; by default a new one.",
    )
    cfg_scale: float = Field(
        default=_DEFAULTS.cfg_scale,
        ge=0,
        le=100,
        description="How closely to keep to the text; 0 is off.",
    )
    temperature: float = Field(
        default=_DEFAULTS.temperature, ge=0, le=100, description="0 is greedy, more is livelier."
    )
    top_p: float = Field(
        default=_DEFAULTS.top_p,
        ge=0,
        le=1,
        description="Draw from the likeliest tokens up to this sum.",
    )
    cfg_filter_top_k: int = Field(
        default=_DEFAULTS.cfg_filter_top_k,
        ge=1,
        lt=2**31,
        description="Candidates that guidance lets through.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        lt=2**31,
        description="The most decoder steps of each chunk, 86 to the second; by default the "
        "model's.",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        """Null is the default, as some clients send it for all that they leave out."""
        if not isinstance(given, dict):
            return given
        optional = {name for name, info in cls.model_fields.items() if not info.is_required()}
        return {key: x for key, x in given.items() if x is not None or key not in optional}

    @property
    def voice_id(self) -> str:
        """The voice, however it was given."""
        return self.voice if isinstance(self.voice, str) else self.voice.id

    def generation(self, seed: int) -> GenerationConfig:
        """The settings of generation.

        Raises:
            InvalidConfigError: A field is out of its range.
        """
        return GenerationConfig(
            max_tokens=self.max_tokens,
            cfg_scale=self.cfg_scale,
            temperature=self.temperature,
            top_p=self.top_p,
            cfg_filter_top_k=self.cfg_filter_top_k,
            seed=seed,
        )


class SpeechRequest(SpeechSettings):
    """A script of any length, to be spoken."""

    input: str = Field(
        min_length=1,
        description="The script: with [S1] and [S2] before the speakers' turns, or lines like "
        "`Ann: Hello.`, or one speaker's words; pauses are [pause 0.8s].",
    )
    stream_format: Literal["audio", "sse"] = Field(
        default="audio", description="The bytes of the audio, or events that carry them."
    )
    progress: bool = Field(
        default=False,
        description="With sse: events begin at once, and tell the place in the queue and how far "
        "it is.",
    )


class ErrorDetail(BaseModel):
    """What is wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error's body."""

    error: ErrorDetail


class ModelInfo(BaseModel):
    """A name that the model has."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All names that the model has."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class AudioModel(BaseModel):
    """A model, for Open WebUI."""

    id: str
    name: str


class AudioModelList(BaseModel):
    """All models, for Open WebUI."""

    models: list[AudioModel]


class VoiceInfo(BaseModel):
    """A voice that can be spoken with."""

    id: str
    name: str
    kind: Literal["default", "stored", "built-in", "broken"] = Field(
        description="`default` is none; `built-in` ones cannot be deleted; `broken` cannot be "
        "spoken with, and `origin` says why."
    )
    transcript: Annotated[str, Field(description="What its recording says.")] = ""
    seconds: Annotated[float, Field(description="How long its recording is.")] = 0
    origin: Annotated[str, Field(description="Where it came from.")] = ""


class VoiceList(BaseModel):
    """All voices, the default first."""

    voices: list[VoiceInfo]


class VoiceDeleted(BaseModel):
    """A voice that is gone."""

    id: str
    object: Literal["audio.voice.deleted"] = "audio.voice.deleted"
    deleted: Literal[True] = True


class Health(BaseModel):
    """Whether the process lives."""

    status: Literal["ok", "dead"]
    reason: str | None = None


class Readiness(BaseModel):
    """Whether requests are taken."""

    status: State


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the OpenAPI document."""
    return {status: {"model": ErrorBody} for status in statuses}


AUDIO_RESPONSE: dict[str, Any] = {
    "description": "The audio, as it is made; or events, each `data: ` and a JSON object.",
    "content": {
        **{spec.media_type: {} for spec in AUDIO_FORMATS.values()},
        "text/event-stream": {},
    },
}
