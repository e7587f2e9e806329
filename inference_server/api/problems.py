"""Errors end here: every 4xx and 5xx becomes a problem document that repeats nothing of the request.

FastAPI's own 422 quotes the input (for a missing field the whole body), and pydantic's messages and locations can
quote it too: an unknown field's name is the client's text. So both pass through lists of what is known to be safe.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from inference_server.api.schemas import FieldProblem, Problem
from inference_server.logs import request_id_var

CLIENT_CLOSED_REQUEST = 499

_UNKNOWN_FIELD = "(unknown field)"
_PARTS_OF_A_REQUEST = frozenset({"body", "query", "path", "header"})
# pydantic's messages for these are built from our schema alone.
_SAFE_MESSAGES = frozenset(
    {
        "extra_forbidden",
        "missing",
        "model_attributes_type",
        "string_too_long",
        "string_too_short",
        "string_type",
        "string_unicode",
    }
)
_BY_STATUS = {
    400: ("InvalidBody", "The body could not be read as JSON."),
    404: ("NotFound", "There is nothing at this path; see /docs."),
    405: ("MethodNotAllowed", "This path does not take this method; see the Allow header."),
}


class ProblemError(HTTPException):
    """Raise to answer with a problem document. An HTTPException, because FastAPI lets only those out of a body read."""

    def __init__(self, status: int, reason: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.reason = reason


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[FieldProblem] | None = None,
    ) -> None:
        problem = Problem(
            type="about:blank",
            title=_title(status),
            status=status,
            reason=reason,
            detail=detail,
            request_id=request_id_var.get(),
            errors=list(errors) if errors is not None else None,
        )
        super().__init__(problem.model_dump(mode="json", exclude_none=True), status, headers)


def install(app: FastAPI, *, known_fields: Iterable[str]) -> None:
    """Register the handlers. `known_fields` are the field names that a validation error may name."""
    nameable = _PARTS_OF_A_REQUEST.union(known_fields)

    async def invalid_request(_: Request, error: RequestValidationError) -> Response:
        return _answer_invalid(error, nameable)

    app.add_exception_handler(HTTPException, _answer_http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid_request)  # type: ignore[arg-type]


async def _answer_http_exception(_: Request, error: HTTPException) -> Response:
    status, headers = error.status_code, error.headers
    if isinstance(error, ProblemError):
        return ProblemResponse(status, error.reason, str(error.detail), headers=headers)
    if isinstance(error.__cause__, ClientDisconnect):
        return ProblemResponse(CLIENT_CLOSED_REQUEST, "ClientClosedRequest", "The client left.")
    # Not the exception's own detail: a library may have put a value into it.
    reason, detail = _BY_STATUS.get(status, ("RequestRefused", "The request was refused."))
    return ProblemResponse(status, reason, detail, headers=headers)


def _answer_invalid(error: RequestValidationError, nameable: frozenset[str]) -> Response:
    errors = error.errors()
    if any(detail["type"] == "json_invalid" for detail in errors):
        return ProblemResponse(400, *_BY_STATUS[400])
    if isinstance(error.body, bytes):
        # FastAPI parses only bodies that say they are JSON, and hands on the bytes of others.
        return ProblemResponse(415, "UnsupportedMediaType", "Send the body as content-type application/json.")
    problems = [_describe(detail, nameable) for detail in errors]
    return ProblemResponse(422, "InvalidRequest", "Some fields are not valid; see errors.", errors=problems)


def _describe(detail: dict[str, Any], nameable: frozenset[str]) -> FieldProblem:
    loc = [part if isinstance(part, int) or part in nameable else _UNKNOWN_FIELD for part in detail["loc"]]
    kind = detail["type"]
    return FieldProblem(loc=loc, type=kind, msg=detail["msg"] if kind in _SAFE_MESSAGES else "The value is not valid.")


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
