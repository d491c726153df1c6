"""The application: its routes, its page, and the layers around them."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from dia_ort._version import __version__
from dia_ort.config import GenerationConfig
from dia_ort.errors import DiaError
from dia_ort.script import NON_VERBALS
from dia_ort.serve import catalogue, probes, speech, websocket
from dia_ort.serve.errors import to_api_error
from dia_ort.serve.page import build_page
from dia_ort.serve.requests import Requests
from dia_ort.serve.security import BodyLimit, Guard
from dia_ort.serve.service import Service
from dia_ort.voice import MAX_SECONDS, MIN_SECONDS

_REST = 1 << 16  # bytes of a body beside its text or recording
_ESCAPED = 6  # bytes of a character in JSON, at most but for those outside the BMP

_DESCRIPTION = """Dia text-to-speech. `POST /v1/audio/speech` is OpenAI's speech API, with Dia's own
settings as further fields; the WebSocket `/v1/audio/stream` speaks text while it is written."""


def create_app(service: Service) -> FastAPI:
    """The application of a service. Whoever runs it warms the service up."""
    settings = service.settings
    app = FastAPI(
        title="dia-ort",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        middleware=[
            Middleware(Requests, metrics=service.metrics),
            *_cors(settings.cors_origins),
            Middleware(Guard, api_keys=settings.api_keys, origins=settings.cors_origins),
            Middleware(
                BodyLimit,
                most=2 * _ESCAPED * settings.max_input + _REST,
                most_upload=settings.max_upload + _ESCAPED * settings.max_input + _REST,
            ),
        ],
    )
    app.state.service = service
    for kind in (RequestValidationError, HTTPException, DiaError):
        app.add_exception_handler(kind, _answer_error)
    for routes in (speech, catalogue, probes, websocket):
        app.include_router(routes.router)
    page = build_page(_page_config(service))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def get_page() -> Response:
        return Response(page.html, headers=page.headers, media_type="text/html")

    return app


def _cors(origins: tuple[str, ...]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "X-Dia-Seed", "X-Dia-Sample-Rate", "Retry-After"],
        )
    ]


async def _answer_error(_: Request, error: Exception) -> Response:
    return to_api_error(error).response()


def _page_config(service: Service) -> dict[str, Any]:
    """What the page is to know."""
    settings, defaults = service.settings, GenerationConfig()
    manifest = service.engine.dia.manifest
    names = ("cfg_scale", "temperature", "top_p", "cfg_filter_top_k")
    return {
        "version": __version__,
        "model": service.model_names[0],
        "max_input": settings.max_input,
        "max_upload_bytes": settings.max_upload,
        "voice_seconds": [MIN_SECONDS, MAX_SECONDS],
        "needs_key": bool(settings.api_keys),
        "voice_upload": settings.voice_upload,
        "sample_rate": manifest.codec.sample_rate,
        "defaults": {name: getattr(defaults, name) for name in names},
        "max_tokens": manifest.model.max_steps,
        "non_verbals": NON_VERBALS,
    }
