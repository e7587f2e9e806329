"""Closes connections after their answer while the server drains, so that clients reconnect to another pod.

An idle connection that is closed later, with the socket, could lose a request that is just being sent on it.
"""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.lifecycle import Lifecycle, Phase


class HangUp:
    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._lifecycle.phase is Phase.DRAINING:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_and_close)
