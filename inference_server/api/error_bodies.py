"""One error, two shapes: a problem document (RFC 9457), and under /v1 what OpenAI's clients expect.

Used by the exception handlers, by the middlewares, and by streams, which can only send an error as their last event.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from inference_server.api.schemas import FieldProblem, OpenAIError, OpenAIErrorBody, Problem
from inference_server.logs import request_id_var

CLIENT_CLOSED_REQUEST = 499
OPENAI_PREFIX = "/v1"

# OpenAI's own codes, where programs look for them; others are our reasons in small letters.
_CODES = {
    "InvalidKey": "invalid_api_key",
    "PromptTooLong": "context_length_exceeded",
    "QueueFull": "rate_limit_exceeded",
}
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ProblemError(HTTPException):
    """Raise to answer with an error. An HTTPException, because FastAPI lets only those out of a body read."""

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[FieldProblem] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.reason = reason
        self.errors = errors
        # The field that is wrong, where it is one.
        self.param = param


def error_answer(scope: Scope, error: ProblemError) -> Response:
    """The response in the shape of the request's path."""
    if is_openai(scope):
        return JSONResponse(openai_error(error), _openai_status(error), error.headers)
    return JSONResponse(problem(error), error.status_code, error.headers, media_type="application/problem+json")


def is_openai(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == OPENAI_PREFIX or path.startswith(OPENAI_PREFIX + "/")


def problem(error: ProblemError) -> dict[str, Any]:
    body = Problem(
        type="about:blank",
        title=_title(error.status_code),
        status=error.status_code,
        reason=error.reason,
        detail=str(error.detail),
        request_id=request_id_var.get(),
        errors=list(error.errors) if error.errors is not None else None,
    )
    return body.model_dump(mode="json", exclude_none=True)


def openai_error(error: ProblemError) -> dict[str, Any]:
    # Where a field may have two forms, the deepest mistake is in the form that was meant.
    first = max(error.errors, key=_depth) if error.errors else None
    message = str(error.detail)
    param = error.param
    if first is not None:
        param = ".".join(str(part) for part in first.loc[1:] if part != "(unknown field)") or None
        message = f"{param or 'body'}: {first.msg}"
    kind = _TYPES.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "server_error")
    body = OpenAIErrorBody(message=message, type=kind, param=param, code=_CODES.get(error.reason, _snake(error.reason)))
    return OpenAIError(error=body).model_dump(mode="json")


def _depth(wrong: FieldProblem) -> tuple[int, bool]:
    """A wrong kind says least: it may be the other form's."""
    return len(wrong.loc), not wrong.type.endswith("_type")


def _openai_status(error: ProblemError) -> int:
    # OpenAI answers 400 to whatever is wrong with a body.
    return 400 if error.status_code == 422 else error.status_code


def _snake(reason: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", reason).lower()


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
