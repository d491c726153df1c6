"""``dia-ort serve``: the server's settings from flags, environment and file, and its start."""

import logging
import time
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from dia_ort.cli_options import Provider, ProviderOptions, Threads
from dia_ort.dia import Dia
from dia_ort.errors import MissingExtraError
from dia_ort.serve.config_file import KEYS, read_config, read_keys, to_toml
from dia_ort.serve.logs import configure_logging
from dia_ort.serve.settings import MASK, ServerSettings, parse_size

CONTEXT = {"auto_envvar_prefix": "DIA_ORT"}
"""Every option is an environment variable too."""

SOURCES = """\b
A setting is taken from the first of these that has it:
  1. its flag
  2. its environment variable; lists have spaces between
  3. the TOML file that --config names: names as in --print-config
  4. the default
"""

logger = logging.getLogger(__name__)

_DEFAULTS = ServerSettings()
_EXTRA = ("av", "fastapi", "prometheus_client", "python_multipart", "uvicorn", "websockets")


def _use_config(context: typer.Context, file: str | None) -> str | None:
    """Make a file's settings the defaults of the options that come after."""
    if file is not None:
        context.default_map = read_config(file)
    return file


def serve(
    context: typer.Context,
    *,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", is_eager=True, callback=_use_config, help="Settings, as TOML."
        ),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            allow_from_autoenv=False,
            help="Print the settings and where each came from, as TOML for --config, and leave.",
        ),
    ] = False,
    model: Annotated[
        str | None, typer.Option(metavar="NAME_OR_DIR", help="As in `dia-ort speak`.")
    ] = _DEFAULTS.model,
    provider: Provider = _DEFAULTS.provider,
    provider_option: ProviderOptions = None,
    threads: Threads = _DEFAULTS.threads,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 or :: is for everybody."),
    ] = _DEFAULTS.host,
    port: Annotated[int, typer.Option(metavar="N", help="0 is any free one.")] = _DEFAULTS.port,
    max_batch: Annotated[
        int, typer.Option(metavar="N", help="The most requests that speak at once.")
    ] = _DEFAULTS.max_batch,
    max_queue: Annotated[
        int, typer.Option(metavar="N", help="The most that wait besides; then 429.")
    ] = _DEFAULTS.max_queue,
    queue_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="The longest wait; then 503.")
    ] = _DEFAULTS.queue_timeout,
    drain_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="For running requests to finish after SIGTERM."),
    ] = _DEFAULTS.drain_timeout,
    send_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="For a client to take what is sent; then it is cut."),
    ] = _DEFAULTS.send_timeout,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most that the caches of running requests may take, as 4GB. By default half "
            "of the memory that is available.",
        ),
    ] = None,
    max_input: Annotated[
        int, typer.Option(metavar="N", help="The most characters of one text.")
    ] = _DEFAULTS.max_input,
    max_upload: Annotated[
        str, typer.Option(metavar="SIZE", help="The largest recording for a voice.")
    ] = "20MB",
    voice_upload: Annotated[
        bool, typer.Option(help="Whether clients may add and delete voices.")
    ] = _DEFAULTS.voice_upload,
    max_voices: Annotated[
        int, typer.Option(metavar="N", help="The most voices that are kept.")
    ] = _DEFAULTS.max_voices,
    voice_alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ALIAS=VOICE",
            help='A further name of a voice, as in "alloy=ann"; repeat it for more.',
        ),
    ] = None,
    model_alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A further name of the model, as tts-1; repeat it for more."
        ),
    ] = None,
    api_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help="Clients have to bring it; repeat it for more. Other users of this machine can "
            "see it in the list of processes: --api-key-file keeps it from them.",
        ),
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="API keys, one to the line; # begins a comment."),
    ] = None,
    cors_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            metavar="ORIGIN",
            help="Of web pages that may ask, as https://example.org, or *; repeat it for more.",
        ),
    ] = None,
    log_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="json or text.")
    ] = _DEFAULTS.log_format,
    log_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="debug, info, warning, error or critical.")
    ] = _DEFAULTS.log_level,
    log_text: Annotated[
        bool, typer.Option(help="Whether what is spoken goes into the log.")
    ] = _DEFAULTS.log_text,
) -> None:
    """Serve OpenAI's speech API, and a page to try it.

    SIGTERM and Ctrl-C let running requests finish; a second one does not.
    """
    file_keys = read_keys(api_key_file) if api_key_file is not None else []
    settings = ServerSettings(
        model=model,
        provider=provider,
        provider_option=tuple(provider_option or ()),
        threads=threads,
        host=host,
        port=port,
        max_batch=max_batch,
        max_queue=max_queue,
        queue_timeout=queue_timeout,
        drain_timeout=drain_timeout,
        send_timeout=send_timeout,
        memory_limit=None if memory_limit is None else parse_size("memory_limit", memory_limit),
        max_input=max_input,
        max_upload=parse_size("max_upload", max_upload),
        voice_upload=voice_upload,
        max_voices=max_voices,
        voice_alias=tuple(voice_alias or ()),
        model_alias=tuple(model_alias or ()),
        api_keys=(*(api_keys or ()), *file_keys),
        cors_origins=tuple(cors_origins or ()),
        log_format=log_format,
        log_level=log_level,
        log_text=log_text,
    )
    if print_config:
        shown = {
            **asdict(settings),
            "api_keys": [MASK for _ in api_keys or ()],
            "api_key_file": api_key_file,
        }
        typer.echo(to_toml(shown, _sources(context, config)), nl=False)
        raise typer.Exit
    _start(settings)


def _sources(context: typer.Context, config: str | None) -> dict[str, str]:
    """Where each setting came from."""
    names = {
        "COMMANDLINE": "flag",
        "ENVIRONMENT": "environment",
        "DEFAULT_MAP": f"file {config}",
        "DEFAULT": "default",
    }
    sources: dict[str, Any] = {name: context.get_parameter_source(name) for name in KEYS}
    return {name: names[source.name] for name, source in sources.items()}


def _start(settings: ServerSettings) -> None:
    """Load the model, and serve until the server ends."""
    if any(find_spec(name) is None for name in _EXTRA):
        raise MissingExtraError(
            "dia-ort serve needs FastAPI and more: pip install 'dia-ort[serve]'"
        )
    from dia_ort.serve.server import run  # noqa: PLC0415 - large, and needed only here

    configure_logging(settings)
    if not settings.is_loopback and not settings.api_keys:
        logger.warning(
            "anybody who reaches %s may use this server: give an API key, or listen on 127.0.0.1",
            settings.host,
        )
    start = time.perf_counter()
    dia = Dia.load(
        settings.model,
        provider=settings.provider,
        provider_options=settings.provider_options,
        threads=settings.threads,
    )
    logger.info(
        "loaded the model",
        extra={
            "model": dia.artifact.name,
            "dtype": dia.manifest.dtype,
            "provider": dia.provider.name,
            "seconds": round(time.perf_counter() - start, 3),
        },
    )
    raise typer.Exit(run(dia, settings))
