"""One log line and one set of metrics per request. Holds no more of it than the route's template."""

import logging
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.api.error_bodies import CLIENT_CLOSED_REQUEST
from inference_server.api.sse import LEFT_EARLY
from inference_server.logs import QuickLogger
from inference_server.metrics import Metrics

logger = QuickLogger("inference_server.access")

UNMATCHED = "(unmatched)"
# A method is the client's text, too.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Records:
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
        literal: str = scope["path"] if scope["path"] in self._routes else UNMATCHED
        route: str = getattr(scope.get("route"), "path", literal)
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        self._metrics.end(route=route, method=method, code=status, seconds=seconds)
        level = logging.DEBUG if route in self._routine else logging.INFO
        fields = {"method": method, "route": route, "status": status, "duration_ms": round(seconds * 1000, 3)}
        logger.log(level, "request", fields)
