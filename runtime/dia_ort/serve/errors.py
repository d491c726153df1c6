"""Errors as OpenAI's API has them: ``{"error": {"message", "type", "param", "code"}}``."""

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from dia_ort.errors import (
    DiaError,
    EngineClosedError,
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
    QueueFullError,
)

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_FORESEEN: tuple[tuple[type[DiaError], int, str, int | None], ...] = (
    (InvalidTextError, 422, "invalid_script", None),
    (InvalidConfigError, 422, "invalid_setting", None),
    (InvalidAudioError, 422, "invalid_audio", None),
    (QueueFullError, 429, "queue_full", 5),
    (EngineClosedError, 503, "stopping", 5),
    (DiaError, 500, "failed", None),
)


class ApiError(HTTPException):
    """A request that cannot be answered. FastAPI lets it pass from wherever it is raised.

    Args:
        status: Of HTTP.
        message: What is wrong, and what to do.
        code: For programs.
        param: The field that is wrong.
        retry_after: Seconds after which it may be tried again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code = code
        self.param = param

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent."""
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        return {
            "error": {
                "message": self.detail,
                "type": _TYPES.get(self.status_code, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """As a whole answer."""
        return JSONResponse(self.body, self.status_code, self.headers)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it as the answer, to a WebSocket's handshake too."""
        await self.response()(scope, receive, send)


def to_api_error(error: Exception) -> ApiError:
    """Any error as the client is to see it: of those that nobody foresaw, that it happened."""
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, HTTPException):
        if isinstance(error, ApiError):
            return error
        answer = ApiError(error.status_code, f"{error.detail}: /docs tells what there is.")
        answer.headers = error.headers  # as Allow
        return answer
    for kind, status, code, retry_after in _FORESEEN:
        if isinstance(error, kind):
            param = "input" if isinstance(error, InvalidTextError) else None
            return ApiError(status, str(error), code, param=param, retry_after=retry_after)
    return ApiError(
        500, "the server failed; its log says why, under this X-Request-ID.", "internal_error"
    )


def _invalid(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's complaints, without what the client sent."""
    first = errors[0]
    param = next((part for part in first["loc"][1:] if isinstance(part, str)), None)
    where = f"{param}: " if param else ""
    message = f"{where}{first['msg']}"
    if first["type"] == "extra_forbidden":
        message = f"{where}there is no such field; /docs has those that there are"
    return ApiError(422, message, first["type"], param=param)
