"""Errors as OpenAI's API has them: ``{"error": {"message", "type", "param", "code"}}``."""

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dia_ort.errors import (
    DiaError,
    EngineClosedError,
    EngineDiedError,
    GenerationCancelledError,
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
    NumericalError,
    QueueFullError,
    VoiceFileError,
)
from dia_ort.voices import list_built_in_voices, voices_folder

log = logging.getLogger("dia_ort.serve")

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
    (VoiceFileError, 500, "broken_voice", None),
    (NumericalError, 500, "failed", None),
    (GenerationCancelledError, 500, "failed", None),
    (EngineDiedError, 500, "failed", None),
)
"""Whose messages are for clients; those of others may tell where the server's files are."""

_NO_OBJECT = {"missing", "model_attributes_type"}


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

    def response(self) -> Response:
        """As a whole answer, in ASCII: what a client sent may have no form in UTF-8."""
        content = json.dumps(self.body)
        return Response(content, self.status_code, self.headers, "application/json")

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it as the answer, to a WebSocket's handshake too."""
        await self.response()(scope, receive, send)


def to_api_error(error: Exception) -> ApiError:
    """Any error as the client is to see it: of those that nobody foresaw, that it happened.

    What is no client's fault goes into the log.
    """
    answer = _translate(error)
    if answer.status_code >= 500:
        is_busy = answer.status_code == 503
        is_known = isinstance(error, ApiError | DiaError)
        log.log(
            logging.WARNING if is_busy else logging.ERROR,
            "unavailable" if is_busy else "failed",
            extra={"reason": str(error)},
            exc_info=None if is_known else error,
        )
    return answer


def hide_folders(error: DiaError) -> str:
    """An error of a voice's file with the file's name alone: where it is concerns no client."""
    text = str(error)
    for folder in {voices_folder(), *(path.parent for path in list_built_in_voices())}:
        text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name)
    return text


def _translate(error: Exception) -> ApiError:
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
            message = hide_folders(error) if kind is VoiceFileError else str(error)
            return ApiError(status, message, code, param=param, retry_after=retry_after)
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
    elif first["type"] == "json_invalid":
        position = "".join(f" at character {part}" for part in first["loc"][1:])
        message = f"this is no JSON: {first['ctx']['error']}{position}"
    elif first["loc"] == ("body",) and first["type"] in _NO_OBJECT:
        message = "send a JSON object, with Content-Type: application/json"
    return ApiError(422, message, first["type"], param=param)
