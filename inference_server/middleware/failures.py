"""Turns an unhandled exception into a 500 and one log line, before Starlette and uvicorn each log it again."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.api.error_bodies import error_answer
from inference_server.api.refusals import internal_error

logger = logging.getLogger(__name__)


class Failures:
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
