"""Gives every request an id: in the log, in the response's header, in its body."""

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.logs import request_id_var

HEADER = "X-Request-ID"
_RAW_HEADER = HEADER.lower().encode()

# Ids are logged and sent back, so a client's own is taken only where it cannot break a log line or be prose.
_ACCEPTABLE = re.compile(rb"[A-Za-z0-9._-]{8,64}")


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
