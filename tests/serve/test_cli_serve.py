"""``dia-ort serve`` up to the server itself: where settings come from, and in which order."""

import os
import subprocess
import sys
import tomllib
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from dia_ort import cli_serve
from dia_ort.cli import main
from dia_ort.dia import Dia
from dia_ort.serve.config_file import read_config
from dia_ort.serve.settings import SETTINGS, ServerSettings
from support.logs import kept_logging


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def logging_is_kept():
    with kept_logging():
        yield


@pytest.fixture
def serve(monkeypatch, capsys, tmp_path):
    """Runs ``dia-ort serve`` in this process, in an empty folder, with no setting from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path / "models"))
    for name in (*SETTINGS, "config", "api_key_file"):
        monkeypatch.delenv(f"DIA_ORT_{name.upper()}", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dia-ort", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        return Outcome(leaving.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def server(monkeypatch):
    """Stands in for the server, and for the extra's packages; has what it was run with."""
    seen = SimpleNamespace(dia=None, settings=None, code=0)

    def run(dia, settings):
        seen.dia, seen.settings = dia, settings
        return seen.code

    monkeypatch.setitem(sys.modules, "dia_ort.serve.server", SimpleNamespace(run=run))
    monkeypatch.setattr(cli_serve, "_EXTRA", ())
    return seen


@pytest.fixture
def nothing_loads(monkeypatch):
    monkeypatch.setattr(Dia, "load", lambda *_, **__: pytest.fail("a model was loaded"))


def comments(toml):
    """What the comments say, by setting."""
    rows = [line.partition("  # ") for line in toml.splitlines()]
    return {row.removeprefix("# ").split()[0]: comment for row, _, comment in rows}


def test_every_setting_is_printed_and_can_be_read_again(serve, tmp_path, nothing_loads):
    code, out, err = serve("--print-config")
    assert (code, err) == (0, "")
    assert comments(out) == dict.fromkeys([*SETTINGS, "api_key_file"], "default")
    assert ServerSettings(**tomllib.loads(out)) == ServerSettings()
    (tmp_path / "serve.toml").write_text(out, "utf-8")
    again = serve("--config", "serve.toml", "--print-config").out
    assert tomllib.loads(again) == tomllib.loads(out)
    assert comments(again)["port"] == "file serve.toml"


def test_what_is_printed_can_be_read_whatever_the_consoles_encoding_is(tmp_path):
    given = {"--model-alias": "J\xf6rg", "--voice-alias": "\u65e5=ann", "--host": "\U0001f600"}
    flags = [word for pair in given.items() for word in pair]
    code = "import sys; from dia_ort.cli import main; sys.argv[0] = 'dia-ort'; main()"
    printed = subprocess.run(
        [sys.executable, "-c", code, "serve", *flags, "--print-config"],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "serve.toml").write_bytes(printed)
    read = read_config(str(tmp_path / "serve.toml"))
    values = [*read["model_alias"], *read["voice_alias"], read["host"]]
    assert values == list(given.values())


@pytest.mark.parametrize(
    ("name", "flags", "variable", "line", "values"),
    [
        ("port", ("--port", 1), "2", "port = 3", (1, 2, 3)),
        ("model", ("--model", "a"), "b", "model = 'c'", ("a", "b", "c")),
        ("queue_timeout", ("--queue-timeout", 1), "2.5", "queue_timeout = 3", (1, 2.5, 3)),
        ("voice_upload", ("--voice-upload",), "0", "voice_upload = false", (True, False, False)),
        ("log_text", ("--no-log-text",), "true", "log_text = true", (False, True, True)),
        (
            "model_alias",
            ("--model-alias", "a", "--model-alias", "b"),
            "c d",
            "model_alias = ['e', 'f']",
            (["a", "b"], ["c", "d"], ["e", "f"]),
        ),
        (
            "voice_alias",
            ("--voice-alias", "a=b"),
            "c=d e=f",
            "voice_alias = ['g=h']",
            (["a=b"], ["c=d", "e=f"], ["g=h"]),
        ),
        (
            "cors_origins",
            ("--cors-origin", "https://a"),
            "https://b https://c:1",
            "cors_origins = ['*']",
            (["https://a"], ["https://b", "https://c:1"], ["*"]),
        ),
        (
            "max_upload",
            ("--max-upload", "1kB"),
            "2KiB",
            "max_upload = '3MB'",
            (1000, 2048, 3_000_000),
        ),
        ("memory_limit", ("--memory-limit", 1), "2GB", "memory_limit = 3", (1, 2 * 10**9, 3)),
    ],
)
def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    serve, monkeypatch, tmp_path, nothing_loads, name, flags, variable, line, values
):
    (tmp_path / "serve.toml").write_text(line)
    file = ("--config", "serve.toml", "--print-config")
    by_file = serve(*file)
    monkeypatch.setenv(f"DIA_ORT_{name.upper()}", variable)
    by_environment = serve(*file)
    by_flag = serve(*file, *flags)
    printed = [outcome.out for outcome in (by_flag, by_environment, by_file)]
    assert tuple(tomllib.loads(toml)[name] for toml in printed) == values
    sources = [comments(toml)[name] for toml in printed]
    assert sources == ["flag", "environment", "file serve.toml"]


def test_the_environment_names_the_file(serve, monkeypatch, tmp_path, nothing_loads):
    (tmp_path / "serve.toml").write_text("port = 1")
    monkeypatch.setenv("DIA_ORT_CONFIG", "serve.toml")
    assert tomllib.loads(serve("--print-config").out)["port"] == 1
    (tmp_path / "other.toml").write_text("port = 2")
    assert tomllib.loads(serve("--config", "other.toml", "--print-config").out)["port"] == 2


def test_an_empty_variable_is_none(serve, monkeypatch, nothing_loads):
    for name in ("API_KEYS", "CONFIG", "PORT"):
        monkeypatch.setenv(f"DIA_ORT_{name}", "")
    assert ServerSettings(**tomllib.loads(serve("--print-config").out)) == ServerSettings()


def test_keys_are_never_printed(serve, monkeypatch, tmp_path, nothing_loads):
    (tmp_path / "keys").write_text("secret-1\n")
    monkeypatch.setenv("DIA_ORT_API_KEYS", "secret-2 secret-3")
    code, out, err = serve("--api-key-file", "keys", "--print-config")
    assert (code, err) == (0, "")
    assert "secret" not in out
    assert tomllib.loads(out)["api_keys"] == ["***", "***"]
    assert tomllib.loads(out)["api_key_file"] == "keys"
    (tmp_path / "serve.toml").write_text(out)
    monkeypatch.delenv("DIA_ORT_API_KEYS")
    code, _, err = serve("--config", "serve.toml")
    assert code == 2
    assert "key 1 of api_keys is ***" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "http"), "--port"),
        (("--port", 65536), "port is 65536"),
        (("--max-batch", 0), "max_batch is 0"),
        (("--max-upload", "big"), "max_upload is 'big'"),
        (("--memory-limit", ""), "memory_limit is ''"),
        (("--provider", "gpu"), "provider is 'gpu'"),
        (("--api-key", ""), "key 1 of api_keys is empty"),
        (("--api-key-file", "missing"), "cannot read the API keys in missing"),
        (("--config", "missing"), "cannot read missing"),
        (("--config", ""), "config is ''"),
        (("--voice-alias", "alloy"), "voice_alias has 'alloy'"),
        (("--prot", 80), "--prot"),
    ],
    ids=str,
)
@pytest.mark.parametrize("more", [(), ("--print-config",)], ids=["serve", "print"])
def test_mistakes_are_found_before_a_model_is_loaded(
    serve, server, nothing_loads, arguments, message, more
):
    code, out, err = serve(*arguments, *more)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_it_serves_the_model_with_the_settings(serve, server, tmp_path):
    (tmp_path / "keys").write_text("from-file\n")
    keys = ("--api-key", "given", "--api-key-file", "keys")
    code, out, err = serve("--model", "demo", "--threads", 1, "--port", 0, *keys)
    assert (code, out) == (0, "")
    assert server.dia.artifact.name == "demo"
    assert server.settings == ServerSettings(
        model="demo", threads=1, port=0, api_keys=("given", "from-file")
    )
    assert '"message": "loaded the model", "model": "demo", "dtype": "int8"' in err


def test_its_exit_code_is_the_servers(serve, server):
    server.code = 3
    assert serve("--model", "demo").code == 3


def test_a_model_that_does_not_load(serve, server):
    code, _, err = serve("--model", "missing")
    assert code == 1
    assert "error: there is no model 'missing'" in err


def test_missing_packages_are_told_before_a_model_is_loaded(
    serve, server, nothing_loads, monkeypatch
):
    monkeypatch.setattr(cli_serve, "_EXTRA", ("no_such_package",))
    code, _, err = serve()
    assert code == 1
    assert "dia-ort serve needs FastAPI and more: pip install 'dia-ort[serve]'" in err


@pytest.mark.parametrize(
    ("arguments", "warns"),
    [
        (("--host", "0.0.0.0"), True),
        (("--host", "0.0.0.0", "--api-key", "secret"), False),
        (("--host", "::1"), False),
        ((), False),
    ],
)
def test_an_open_server_is_warned_of(serve, server, arguments, warns):
    code, _, err = serve("--model", "demo", *arguments)
    assert code == 0
    assert ("anybody who reaches 0.0.0.0 may use this server" in err) is warns


def test_help_loads_no_server():
    code = (
        "import atexit, sys; from dia_ort.cli import main; sys.argv = ['dia-ort', 'serve', '-h']; "
        "atexit.register(lambda: print(*sys.modules)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--print-config" in done.stdout
    heavy = {"asyncio", "av", "fastapi", "onnxruntime", "soundfile", "uvicorn", "websockets"}
    assert heavy.isdisjoint(done.stdout.splitlines()[-1].split())
