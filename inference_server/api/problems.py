"""Errors end here: every 4xx and 5xx becomes a document that repeats nothing of the request; see `error_bodies`.

FastAPI's own 422 quotes the input (for a missing field the whole body), and pydantic's messages and locations can
quote it too: an unknown field's name is the client's text. So both pass through lists of what is known to be safe.
"""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from inference_server.api.error_bodies import CLIENT_CLOSED_REQUEST, ProblemError, error_answer
from inference_server.api.schemas import FieldProblem

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
