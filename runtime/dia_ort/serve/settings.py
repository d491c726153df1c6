"""The settings of the server."""

import ipaddress
import re
from dataclasses import dataclass, field, fields
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

from dia_ort.errors import InvalidConfigError
from dia_ort.providers import check_provider_name, parse_provider_options

LOG_FORMATS = ("json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
MASK = "***"
"""What is shown in place of an API key; it is no key itself."""

_MOST = 2**31 - 1
_MOST_BYTES = 2**63 - 1
_DAY = 86400.0

_ORIGIN = re.compile(r"\*|https?://[^/\s?#]+")
_KEY = re.compile(r"[!-~]+")  # what goes into a header and comes out the same
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(|kB|MB|GB|KiB|MiB|GiB)")
_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How to serve. Each has a flag, an environment variable and a key in the file by its name.

    Attributes:
        model: A name from ``dia-ort models``, or a folder; None: the one that ``speak`` takes.
        provider: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"webgpu"``, ``"coreml"``, or another of
            onnxruntime's.
        provider_option: For the provider, as onnxruntime names them, each ``"KEY=VALUE"``.
        threads: CPU threads, 1 or more; None: all physical cores.
        host: The address to listen on.
        port: From 0 (any free one) to 65535.
        max_batch: The most requests that speak at once, 1 to 1024.
        max_queue: The most that wait besides, 0 or more.
        queue_timeout: The most seconds that one waits, over 0, up to a day.
        drain_timeout: Seconds that running requests have to finish when the server is told to
            stop, 0 to a day.
        send_timeout: Seconds that a client may let its answer wait, over 0, up to a day.
        memory_limit: The most bytes that the caches of running requests may take; None: half of
            the memory that is available.
        max_input: The most characters of one request's text, 1 or more.
        max_upload: The most bytes of one uploaded recording, 1 or more.
        voice_upload: Whether clients may add and delete voices.
        max_voices: The most voices that are kept; above it uploads are refused. 0 or more.
        voice_alias: Further names of voices, each ``"ALIAS=VOICE"``.
        model_alias: Further names that clients may give as the model.
        api_keys: Clients have to bring one of these; none: anybody may ask. Visible ASCII.
        cors_origins: Origins of web pages that may ask, as ``"https://example.org"``;
            ``"*"`` is all.
        log_format: ``"json"`` or ``"text"``.
        log_level: ``"debug"``, ``"info"``, ``"warning"``, ``"error"`` or ``"critical"``.
        log_text: Whether what is spoken goes into the log.

    Raises:
        InvalidConfigError: A field has the wrong type or is out of its range.
    """

    model: str | None = None
    provider: str = "auto"
    provider_option: tuple[str, ...] = ()
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = 8
    max_queue: int = 32
    queue_timeout: float = 30.0
    drain_timeout: float = 60.0
    send_timeout: float = 60.0
    memory_limit: int | None = None
    max_input: int = 20_000
    max_upload: int = 20_000_000
    voice_upload: bool = True
    max_voices: int = 100
    voice_alias: tuple[str, ...] = ()
    model_alias: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    log_format: str = "json"
    log_level: str = "info"
    log_text: bool = False

    def __post_init__(self) -> None:
        if self.model is not None:
            self._check_text("model")
        self._check_text("provider")
        check_provider_name(self.provider)
        self._set_texts("provider_option")
        if self.threads is not None:
            self._set_int("threads", 1, _MOST)
        self._check_text("host")
        self._set_int("port", 0, 65535)
        self._set_int("max_batch", 1, 1024)
        self._set_int("max_queue", 0, _MOST)
        self._set_seconds("queue_timeout", above=0)
        self._set_seconds("drain_timeout")
        self._set_seconds("send_timeout", above=0)
        if self.memory_limit is not None:
            self._set_int("memory_limit", 1, _MOST_BYTES)
        self._set_int("max_input", 1, _MOST)
        self._set_int("max_upload", 1, _MOST_BYTES)
        self._check_switch("voice_upload")
        self._set_int("max_voices", 0, _MOST)
        self._set_texts("voice_alias")
        self._set_texts("model_alias")
        self._set_keys()
        self._set_texts("cors_origins")
        self._check_choice("log_format", LOG_FORMATS)
        self._check_choice("log_level", LOG_LEVELS)
        self._check_switch("log_text")
        self._check_aliases()
        self._check_origins()
        parse_provider_options(self.provider_option)

    @property
    def provider_options(self) -> dict[str, str]:
        """What :attr:`provider_option` gives, by key."""
        return parse_provider_options(self.provider_option)

    @property
    def voice_aliases(self) -> dict[str, str]:
        """The voices that :attr:`voice_alias` names, by alias."""
        return dict(_split_alias(entry) for entry in self.voice_alias)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def _set_int(self, name: str, low: int, high: int) -> None:
        value: Any = getattr(self, name)
        valid = isinstance(value, Integral) and not isinstance(value, bool)
        if not valid or not low <= value <= high:
            raise InvalidConfigError(
                f"{name} is {value!r}: give a whole number from {low} to {high}"
            )
        object.__setattr__(self, name, int(value))

    def _set_seconds(self, name: str, above: float | None = None) -> None:
        value: Any = getattr(self, name)
        valid = isinstance(value, Real) and not isinstance(value, bool)
        if not valid or not 0 <= value <= _DAY or value == above:  # NaN fails every comparison
            low = "from 0" if above is None else f"over {above:g}"
            raise InvalidConfigError(f"{name} is {value!r}: give seconds {low} to {_DAY:g}")
        object.__setattr__(self, name, float(value))

    def _check_switch(self, name: str) -> None:
        value: Any = getattr(self, name)
        if not isinstance(value, bool):
            raise InvalidConfigError(f"{name} is {value!r}: give true or false")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value: Any = getattr(self, name)
        if value not in choices:
            raise InvalidConfigError(f"{name} is {value!r}: take one of {', '.join(choices)}")

    def _check_text(self, name: str) -> None:
        value: Any = getattr(self, name)
        if not is_text(value):
            raise InvalidConfigError(f"{name} is {value!r}: give a text of printable characters")

    def _set_texts(self, name: str) -> None:
        value: Any = getattr(self, name)
        if not isinstance(value, tuple | list) or not all(map(is_text, value)):
            raise InvalidConfigError(
                f"{name} is {value!r}: give a list of texts of printable characters"
            )
        object.__setattr__(self, name, tuple(value))

    def _set_keys(self) -> None:
        """The keys, each once. No message shows them."""
        value: Any = self.api_keys
        if not isinstance(value, tuple | list) or not all(isinstance(key, str) for key in value):
            raise InvalidConfigError("api_keys is no list of texts: give one")
        for number, key in enumerate(value, 1):
            if key == MASK:
                raise InvalidConfigError(
                    f"key {number} of api_keys is {MASK}, which stands for a key in what "
                    "--print-config prints: put the key itself there"
                )
            if not _KEY.fullmatch(key):
                raise InvalidConfigError(
                    f"key {number} of api_keys is empty or has a character that is not visible "
                    "ASCII: take letters, digits and punctuation, without spaces"
                )
        object.__setattr__(self, "api_keys", tuple(dict.fromkeys(value)))

    def _check_aliases(self) -> None:
        aliases = [_split_alias(entry)[0] for entry in self.voice_alias]
        if twice := [alias for alias in aliases if aliases.count(alias) > 1]:
            raise InvalidConfigError(f"voice_alias gives {twice[0]!r} two voices: leave one out")

    def _check_origins(self) -> None:
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise InvalidConfigError(
                    f"cors_origins has {origin!r}: give scheme, host and perhaps port, as "
                    "https://example.org, without a path or a / at the end; or *"
                )


SETTINGS = tuple(setting.name for setting in fields(ServerSettings))
"""The names of all settings."""


def parse_size(name: str, text: str) -> int:
    """A number of bytes: ``"20000000"``, ``"20MB"``, ``"1.5GiB"``.

    Args:
        name: Of the setting, for the message.
        text: In decimal (kB, MB, GB) or binary (KiB, MiB, GiB) units, or in bytes.

    Raises:
        InvalidConfigError: It is no such text.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InvalidConfigError(
            f"{name} is {text!r}: give bytes, or a number with kB, MB, GB, KiB, MiB or GiB, as 20MB"
        )
    return int(Fraction(match[1]) * _UNITS[match[2]])


def is_text(value: object) -> bool:
    """Whether a setting may have this value: printable (so it fits on a line), and not blank."""
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _split_alias(entry: str) -> tuple[str, str]:
    alias, _, voice = (part.strip() for part in entry.partition("="))
    if not alias or not voice:
        raise InvalidConfigError(f"voice_alias has {entry!r}: write ALIAS=VOICE, as alloy=ann")
    return alias, voice
