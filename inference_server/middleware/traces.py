"""Continues the caller's trace. Installed only where spans are exported."""

from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.tracing import Tracer


class Traces:
    def __init__(self, app: ASGIApp, *, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        detach = self._tracer.attach(scope)
        try:
            await self._app(scope, receive, send)
        finally:
            detach()
