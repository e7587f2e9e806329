"""Every error of the API: what went wrong, which status and Retry-After it has, and its document.

    an exception of the engine  ─► refusal()      ─┐
    a body that is not valid    ─► _invalid()      ├─► ProblemError ─► error_answer(): problem+json (RFC 9457),
    a middleware that says no   ─► ProblemError   ─┘                  and under /v1 what OpenAI's clients expect

Nothing of the request is repeated. FastAPI's own 422 quotes the input (for a missing field the whole body), and
pydantic's messages and locations can quote it too: an unknown field's name is the client's text. So both pass through
lists of what is known to be safe. Used by handlers, middlewares, and streams, which can only send an error as their
last event.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from inference_server.api.cancellation import Aborted, Disconnected
from inference_server.api.schemas import FieldProblem, OpenAIError, OpenAIErrorBody, Problem
from inference_server.engine.protocol import EngineBusy, EngineUnavailable, GenerationFailed, PromptTooLong
from inference_server.lifecycle import Lifecycle
from inference_server.telemetry.logs import request_id_var
from inference_server.tracked_engine import EngineStalled, NoAnswer, PromptTooLarge
from inference_server.triage.safe_text import SAFE_TEXT

CLIENT_CLOSED_REQUEST = 499
OPENAI_PREFIX = "/v1"
# OpenAI's own codes, where programs look for them; others are our reasons in small letters.
_OPENAI_CODES = {
    "InvalidKey": "invalid_api_key",
    "PromptTooLong": "context_length_exceeded",
    "QueueFull": "rate_limit_exceeded",
}
_OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_UNKNOWN_FIELD = "(unknown field)"
_PARTS_OF_A_REQUEST = frozenset({"body", "query", "path", "header"})
# pydantic's messages for these are built from our schema alone.
_SAFE_MESSAGES = frozenset(
    {
        "bool_type",
        "extra_forbidden",
        "finite_number",
        "float_type",
        "greater_than",
        "greater_than_equal",
        "int_type",
        "less_than_equal",
        "list_type",
        "literal_error",
        "missing",
        "model_attributes_type",
        "string_too_long",
        "string_too_short",
        "string_type",
        "string_unicode",
        "too_long",
        "too_short",
    }
)
_BY_STATUS = {
    400: ("InvalidBody", "The body could not be read as JSON."),
    404: ("NotFound", "There is nothing at this path; see /docs."),
    405: ("MethodNotAllowed", "This path does not take this method; see the Allow header."),
}
_RETRY_SECONDS = 2
EXPECTED = (EngineBusy, EngineUnavailable, PromptTooLong, GenerationFailed, NoAnswer, Disconnected, Aborted)


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
    kind = _OPENAI_TYPES.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "server_error")
    body = OpenAIErrorBody(
        message=message, type=kind, param=param, code=_OPENAI_CODES.get(error.reason, _snake(error.reason))
    )
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


def install(app: FastAPI, *, known_fields: Iterable[str]) -> None:
    """Register the handlers. `known_fields` are the field names that a validation error may name."""
    nameable = _PARTS_OF_A_REQUEST.union(known_fields)

    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        return _answer_invalid(request, error, nameable)

    app.add_exception_handler(HTTPException, _answer_http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid_request)  # type: ignore[arg-type]


async def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    if isinstance(error, ProblemError):
        return error_answer(request.scope, error)
    if isinstance(error.__cause__, ClientDisconnect):
        return error_answer(request.scope, client_left())
    # Not the exception's own detail: a library may have put a value into it.
    reason, detail = _BY_STATUS.get(error.status_code, ("RequestRefused", "The request was refused."))
    return error_answer(request.scope, ProblemError(error.status_code, reason, detail, headers=error.headers))


def client_left() -> ProblemError:
    return ProblemError(CLIENT_CLOSED_REQUEST, "ClientClosedRequest", "The client left.")


def _answer_invalid(request: Request, error: RequestValidationError, nameable: frozenset[str]) -> Response:
    return error_answer(request.scope, _invalid(error, nameable))


def _invalid(error: RequestValidationError, nameable: frozenset[str]) -> ProblemError:
    errors = error.errors()
    if any(detail["type"] == "json_invalid" for detail in errors):
        return ProblemError(400, *_BY_STATUS[400])
    if isinstance(error.body, bytes):
        # FastAPI parses only bodies that say they are JSON, and hands on the bytes of others.
        return ProblemError(415, "UnsupportedMediaType", "Send the body as content-type application/json.")
    problems = [_describe(detail, nameable) for detail in errors]
    return ProblemError(422, "InvalidRequest", "Some fields are not valid; see errors.", errors=problems)


def _describe(detail: dict[str, Any], nameable: frozenset[str]) -> FieldProblem:
    loc = [part if isinstance(part, int) or part in nameable else _UNKNOWN_FIELD for part in detail["loc"]]
    kind = detail["type"]
    return FieldProblem(loc=loc, type=kind, msg=detail["msg"] if kind in _SAFE_MESSAGES else "The value is not valid.")


def refusal(error: Exception, lifecycle: Lifecycle) -> ProblemError:
    """`error` is one of EXPECTED."""
    match error:
        case EngineBusy(retry_after_seconds=seconds):
            detail = "As many requests wait as may wait, or as can be answered in time. Try again later."
            return _later(429, "QueueFull", detail, seconds)
        case EngineUnavailable():
            why = "its engine has ended" if lifecycle.accepting else f"it is {lifecycle.phase}"
            detail = f"The server takes no requests now: {why}."
            return _later(503, "NotReady", detail, _RETRY_SECONDS)
        case PromptTooLarge(tokens=characters, limit=limit):
            detail = f"The prompt has {characters} characters; at most {limit} can fit. Send a shorter one."
            return ProblemError(422, "PromptTooLong", detail, param="messages")
        case PromptTooLong(tokens=tokens, limit=limit):
            detail = f"The prompt has {tokens} tokens; at most {limit} fit beside an answer. Send a shorter one."
            return ProblemError(422, "PromptTooLong", detail, param="messages")
        case NoAnswer():
            return _no_answer(error)
        case Disconnected():
            return client_left()
        case Aborted():
            return shutting_down()
        case EngineStalled():
            detail = "The engine does not answer any more. The server is restarted when that goes on."
            return _later(503, "EngineStalled", detail, _RETRY_SECONDS)
        case _ if math.isinf(lifecycle.engine.heartbeat()):
            return _later(
                503, "EngineDied", "The engine ended at this answer. The server is restarted.", _RETRY_SECONDS
            )
        case _:
            return ProblemError(500, "GenerationFailed", "The engine failed at this answer.")


def shutting_down() -> ProblemError:
    return _later(503, "ShuttingDown", "The server had to stop before the answer was ready.", _RETRY_SECONDS)


def _no_answer(error: NoAnswer) -> ProblemError:
    match error.reason:
        case "shutdown":
            return shutting_down()
        case "deadline":
            why = "it waited for its turn" if error.waited else "the model had not come to an answer"
            detail = f"There is no answer: the time of the request was over while {why}. {SAFE_TEXT}"
            return _later(504, "DeadlineExceeded", detail, _RETRY_SECONDS)
        case _:
            detail = f"There is no answer: the model ended without a word of it. {SAFE_TEXT}"
            return ProblemError(500, "EmptyAnswer", detail)


def internal_error() -> ProblemError:
    return ProblemError(500, "InternalError", "The server failed. Its log has more under this request id.")


def _later(status: int, reason: str, detail: str, seconds: float) -> ProblemError:
    whole = math.ceil(min(max(seconds, 1), 3600))
    return ProblemError(status, reason, detail, headers={"Retry-After": str(whole)})
