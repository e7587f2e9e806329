"""Refuses large bodies by their announced length, or as soon as too much has arrived."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.api.error_bodies import ProblemError, error_answer

_REASON = "BodyTooLarge"


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
            await error_answer(scope, ProblemError(413, _REASON, self._detail))(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise ProblemError(413, _REASON, self._detail)
            return message

        await self._app(scope, receive_within_limit, send)
