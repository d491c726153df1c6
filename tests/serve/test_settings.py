"""The server's settings: ranges, types, and the file that has them."""

import codecs
import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_ort.errors import InvalidConfigError
from dia_ort.serve.config_file import read_config, read_keys, to_toml
from dia_ort.serve.settings import MASK, SETTINGS, ServerSettings, parse_size

WRONG = {
    "model": ["", " ", "a\nb", "\udce9", 1],
    "provider": ["gpu", "", None],
    "provider_option": ["device_id=1", ("device_id",), ("a=1", "a=2")],
    "threads": [0, 1.5, True],
    "host": ["", "a\tb", None],
    "port": [-1, 65536, 80.0, "80", True, None],
    "max_batch": [0, 1025],
    "max_queue": [-1],
    "queue_timeout": [0, -1, 86401, float("nan"), float("inf"), "30", True],
    "drain_timeout": [-1, float("nan")],
    "send_timeout": [0],
    "memory_limit": [0, 1e9],
    "max_input": [0],
    "max_upload": [0, "20MB"],
    "voice_upload": [1, "yes", None],
    "max_voices": [-1],
    "voice_alias": ["alloy=ann", ["alloy"], ["=ann"], ["alloy="], ["a=b", "a=c"], [1]],
    "model_alias": ["tts-1", [""], None],
    "api_keys": ["key", [""], ["two words"], ["schlüssel"], ["a\n"], [1], None],
    "cors_origins": [["example.org"], ["https://example.org/"], ["ftp://example.org"], ["null"]],
    "log_format": ["xml"],
    "log_level": ["INFO", "all"],
    "log_text": [0],
}

TEXTS = st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip())
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
VALID = st.builds(
    ServerSettings,
    model=st.none() | TEXTS,
    host=TEXTS,
    port=st.integers(0, 65535),
    queue_timeout=st.floats(0, 86400, exclude_min=True),
    memory_limit=st.none() | st.integers(1, 2**63 - 1),
    voice_upload=st.booleans(),
    model_alias=st.lists(TEXTS).map(tuple),
    api_keys=st.lists(KEYS.filter(lambda key: key != MASK), unique=True).map(tuple),
)


def test_every_setting_has_wrong_values_here():
    assert tuple(WRONG) == SETTINGS


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=ascii,
)
def test_wrong_values_are_refused_by_name(name, value):
    with pytest.raises(InvalidConfigError, match=name):
        ServerSettings(**{name: value})


def test_numbers_have_one_type_and_lists_are_tuples():
    settings = ServerSettings(queue_timeout=5, model_alias=["tts-1"], api_keys=["a", "b", "a"])
    assert isinstance(settings.queue_timeout, float)
    assert settings.model_alias == ("tts-1",)
    assert settings.api_keys == ("a", "b")


@pytest.mark.parametrize("keys", [["secret"], ["secret", "not a key"], ["secret", MASK]])
def test_keys_are_not_shown(keys):
    try:
        shown = repr(ServerSettings(api_keys=keys))
    except InvalidConfigError as error:
        shown = str(error)
    assert "secret" not in shown
    assert "not a key" not in shown


def test_voice_aliases():
    settings = ServerSettings(voice_alias=["alloy=ann", "echo = /voices/a=b.voice"])
    assert settings.voice_aliases == {"alloy": "ann", "echo": "/voices/a=b.voice"}


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
    ],
)
def test_what_is_reached_by_this_machine_alone(host, is_loopback):
    assert ServerSettings(host=host).is_loopback is is_loopback


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("20MB", 20_000_000), ("1.5 GiB", 3 << 29), ("0.1kB", 100), (" 7 KiB ", 7168)],
)
def test_sizes(text, size):
    assert parse_size("max_upload", text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e6", "20mb", "20 M", "1,5MB", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(InvalidConfigError, match=r"max_upload is .*give bytes"):
        parse_size("max_upload", text)


@pytest.fixture
def file(tmp_path):
    """Writes a file; returns its path."""

    def write(content):
        path = tmp_path / "serve.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_a_file_gives_settings(file):
    given = read_config(file('port = 80\nmax_upload = "5MB"\napi_key_file = "keys"\n# port = 81'))
    assert given == {"port": 80, "max_upload": "5MB", "api_key_file": "keys"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 80", "there is no setting 'prot'; there are api_key_file, api_keys, "),
        ("[server]\nport = 80", r"\[server\] is a section, and there are none; there are api"),
        ("[port]\na = 1", r"\[port\] is a section"),
        ('port = "80"', "port is '80': give a whole number"),
        ("port = true", "port is True: give a whole number"),
        ("max_queue = 1.0", "max_queue is 1.0: give a whole number"),
        ("queue_timeout = nan", "queue_timeout is nan: give seconds"),
        ("model_alias = 'tts-1'", "model_alias is 'tts-1': give a list"),
        ("api_key_file = 1", "api_key_file is 1: give the name of a file"),
        ('max_upload = "20 M"', "max_upload is '20 M': give bytes"),
        ("host = 2026-01-01", "host is datetime.date"),
        ("port = \nhost = 'a'", "is no TOML: .* line 1"),
        ("port = 1\nport = 2\n", "is no TOML: .* line 2"),
        (b"host = '\xe9'", "is not UTF-8 at byte 8: save it as UTF-8"),
        ("port = 80".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
    ],
)
def test_mistakes_in_a_file_are_named(file, content, message):
    with pytest.raises(InvalidConfigError, match=f"^{re.escape(file(content))}:? .*{message}"):
        read_config(file(content))


def test_a_byte_order_mark_is_no_setting_and_no_key(file):
    assert read_config(file(codecs.BOM_UTF8 + b"port = 80")) == {"port": 80}
    assert read_keys(file(codecs.BOM_UTF8 + b"# ours\nfirst")) == ["first"]


@pytest.mark.parametrize("read", [read_config, read_keys])
@pytest.mark.parametrize("name", ["missing", ".", "", "a\nb"])
def test_a_file_that_cannot_be_read(read, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfigError):
        read(name)


@given(VALID)
def test_what_is_printed_is_what_is_read(tmp_path_factory, settings):
    values = dataclasses.asdict(settings)
    path = tmp_path_factory.getbasetemp() / "printed.toml"
    path.write_text(to_toml(values, dict.fromkeys(values, "default")), "utf-8")
    assert ServerSettings(**read_config(str(path))) == settings


def test_keys_of_a_file(file):
    assert read_keys(file("# ours\nfirst  \r\n\n second#2\nthird")) == [
        "first",
        " second#2",
        "third",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no API key"), ("# none\n \n", "no API key"), (b"a\xff\n", "not UTF-8 at byte 1")],
)
def test_a_file_without_keys(file, content, message):
    with pytest.raises(InvalidConfigError, match=message):
        read_keys(file(content))
