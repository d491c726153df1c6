"""Who may ask, and how much: middleware around the whole application."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dia_ort.serve.errors import ApiError

_OPEN = {"/", "/health", "/ready", "/docs", "/openapi.json"}
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_PORT = re.compile(r":\d+$")


class Guard:
    """Wants an API key if there are any, and refuses other sites' pages.

    A page of another origin can send some requests, and open WebSockets, without asking first:
    what it sends says where it comes from. The page of this server comes from the host that it
    asks. So does one of a site that has given its own name this machine's address (DNS rebinding),
    so without API keys, which that site does not have, the host has to be one that no site has.
    What only reads is not checked so: monitoring asks by names of all kinds.
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str], origins: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in api_keys]
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] in {"http", "websocket"}:
            headers = Headers(scope=scope)
            try:
                self._check_key(scope, headers)
                self._check_origin(scope, headers)
            except ApiError as error:
                await error.answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if not self._digests or (scope["path"] in _OPEN and scope["type"] == "http"):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "this server wants an API key: send `Authorization: Bearer KEY` with a valid one.",
                "invalid_api_key",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        is_safe = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
        if origin is None or is_safe or not self._origins.isdisjoint({origin, "*"}):
            return
        host = headers.get("host", "")
        if origin.partition("://")[2] != host or not (self._digests or _is_local(host)):
            raise ApiError(
                403,
                f"pages of {origin} may not ask here: allow them with --cors-origin {origin}.",
                "origin_not_allowed",
            )


def _is_local(host: str) -> bool:
    """Whether no site of the internet has this host: an address, or a name of a local network."""
    name = _PORT.sub("", host)
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        is_plain = bool(name) and "." not in name
        return is_plain or name.endswith((".localhost", ".local"))
    return True


def _digest(key: str) -> bytes:
    """Of one length for all keys, so that a comparison tells nothing of them."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class BodyLimit:
    """Refuses bodies that are too large, before or while they come.

    Args:
        app: The application.
        most: Bytes of a body.
        most_upload: Bytes of a body of multipart/form-data.
    """

    def __init__(self, app: ASGIApp, most: int, most_upload: int) -> None:
        self._app = app
        self._most = most
        self._most_upload = most_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, as far as it is not too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_upload = headers.get("content-type", "").lower().startswith("multipart/form-data")
        most = self._most_upload if is_upload else self._most
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            await _too_large(most).answer(scope, receive, send)
            return
        received = 0

        async def receive_within() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        await self._app(scope, receive_within, send)


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than {most} bytes, the most that is taken.", "body_too_large"
    )
