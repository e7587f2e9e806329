"""Plain ASGI middlewares, the outermost first; app.py puts them around the routes.

    RequestIds       outermost: everything below, errors included, knows the id
    AccessLog        one line and one set of metrics for whatever becomes of the request
    CloseOnDrain     so that clients reconnect to another pod
    RequireKey       before anything reads the body
    UnhandledErrors  inside of the log, so that it sees the 500
    Framing          bodies that would be read otherwise than they are meant
    BodyLimit        innermost: it counts what is read

(Starlette's BaseHTTPMiddleware would hide a client's disconnect from the routes.)
"""

import logging
import re
import secrets
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.api.errors import CLIENT_CLOSED_REQUEST, ProblemError, error_answer, internal_error
from inference_server.api.keys import Keys
from inference_server.api.sse import LEFT_EARLY
from inference_server.lifecycle import Lifecycle, Phase
from inference_server.telemetry.logs import QuickLogger, request_id_var
from inference_server.telemetry.metrics import Metrics

REQUEST_ID_HEADER = "X-Request-ID"
_RAW_HEADER = REQUEST_ID_HEADER.lower().encode()
# Ids are logged and sent back, so a client's own is taken only where it cannot break a log line or be prose.
_ACCEPTABLE = re.compile(rb"[A-Za-z0-9._-]{8,64}")
logger = logging.getLogger(__name__)
access_log = QuickLogger("inference_server.access")
UNMATCHED_ROUTE = "(unmatched)"
# A method is the client's text, too.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OPEN_PATHS = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics", "/docs", "/openapi.json"})
_BEARER = b"bearer "


class RequestIds:
    """Outermost, so that everything else, errors included, knows the id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _choose([value for name, value in scope["headers"] if name == _RAW_HEADER])

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (_RAW_HEADER, request_id.encode())]
            await send(message)

        token = request_id_var.set(request_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id_var.reset(token)


def _choose(offered: list[bytes]) -> str:
    if len(offered) == 1 and _ACCEPTABLE.fullmatch(offered[0]):
        return offered[0].decode()
    return secrets.token_hex(16)


class AccessLog:
    """`routes`: paths that may be named as they are; `routine`: routes logged at DEBUG only."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: Collection[str], routine: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._routine = routine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Stays when the handler is cancelled before it answered.
        status = CLIENT_CLOSED_REQUEST
        begin = time.perf_counter()
        self._metrics.begin()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if scope.get(LEFT_EARLY):
                status = CLIENT_CLOSED_REQUEST
            self._record(scope, status, time.perf_counter() - begin)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        literal: str = scope["path"] if scope["path"] in self._routes else UNMATCHED_ROUTE
        route: str = getattr(scope.get("route"), "path", literal)
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        self._metrics.end(route=route, method=method, code=status, seconds=seconds)
        level = logging.DEBUG if route in self._routine else logging.INFO
        fields = {"method": method, "route": route, "status": status, "duration_ms": round(seconds * 1000, 3)}
        access_log.log(level, "request", fields)


class CloseOnDrain:
    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._lifecycle.phase is Phase.DRAINING:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_and_close)


class RequireKey:
    def __init__(self, app: ASGIApp, *, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._admitted(scope):
            await self._app(scope, receive, send)
            return
        error = ProblemError(
            401,
            "InvalidKey",
            "Send a key of this server as Authorization: Bearer <key>.",
            headers={"WWW-Authenticate": 'Bearer realm="llm-server"'},
        )
        await error_answer(scope, error)(scope, receive, send)

    def _admitted(self, scope: Scope) -> bool:
        offered = Headers(scope=scope).getlist("authorization")
        if len(offered) != 1:
            return False
        value = offered[0].encode("latin-1")
        return value[: len(_BEARER)].lower() == _BEARER and self._keys.admit(value[len(_BEARER) :].strip())


class UnhandledErrors:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        responding = False

        async def send_and_note(message: Message) -> None:
            nonlocal responding
            responding = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            # The formatter writes its type and frames, not its message, which may quote the request.
            logger.exception("unhandled_exception")
            if responding:
                # Too late for a status: let uvicorn cut the connection, so that the client sees a broken answer.
                raise
            await error_answer(scope, internal_error())(scope, receive, send)


class Framing:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wrong = _wrong(Headers(scope=scope)) if scope["type"] == "http" else None
        answer = self._app if wrong is None else error_answer(scope, wrong)
        await answer(scope, receive, send)


def _wrong(headers: Headers) -> ProblemError | None:
    if "content-length" in headers and "transfer-encoding" in headers:
        # Who stands in front may have read the other one: where the next request begins is not known.
        detail = "Send Content-Length or Transfer-Encoding, not both."
        return ProblemError(400, "AmbiguousLength", detail, headers={"Connection": "close"})
    if headers.get("content-encoding", "identity").lower() != "identity":
        return ProblemError(415, "UnsupportedMediaType", "Send the body as it is, without Content-Encoding.")
    return None


class BodyLimit:
    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._detail = f"The body is larger than {max_bytes} bytes."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await error_answer(scope, ProblemError(413, "BodyTooLarge", self._detail))(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise ProblemError(413, "BodyTooLarge", self._detail)
            return message

        await self._app(scope, receive_within_limit, send)
