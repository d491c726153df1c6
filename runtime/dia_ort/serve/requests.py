"""Each request's id, its line in the log, its count, and what is left when it fails."""

import re
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dia_ort.serve.errors import to_api_error
from dia_ort.serve.logs import request_id
from dia_ort.serve.metrics import Metrics
from dia_ort.serve.service import log

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_GONE = 499  # as nginx has it: nothing is sent
_QUIET = {"/health", "/ready", "/metrics"}


class Requests:
    """The outermost layer.

    Args:
        app: The application.
        metrics: Counts requests.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if _ID.fullmatch(given) else uuid4().hex
        token = request_id.set(identity)
        started, status = time.monotonic(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = identity
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except ClientDisconnect:
            status = status or _CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the last resort
            answer = to_api_error(error)  # which logs it
            if status == 0:
                await answer.answer(scope, receive, send_noted)
        finally:
            self._note(scope, status, time.monotonic() - started)
            request_id.reset(token)

    def _note(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        self._metrics.requests.labels(route or "none", status).inc()
        fields = {
            "method": scope.get("method", "WEBSOCKET"),
            "path": scope["path"],
            "status": status,
            "duration": round(seconds, 4),
            "client": (scope.get("client") or [None])[0],
        }
        (log.debug if scope["path"] in _QUIET else log.info)("request", extra=fields)
