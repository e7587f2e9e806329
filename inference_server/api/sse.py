"""Server-sent events over HTTP: the wire format, and a response that ends its work when the client leaves."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference_server.api.cancellation import Aborted, CancelOnDisconnect, Disconnected
from inference_server.lifecycle import Lifecycle

# Set in the scope of a request whose client left its stream; read by the middleware that counts.
LEFT_EARLY = "inference_server.left_early"

# JSON leaves these as they are.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}
_PING = b": still working\n\n"
# Answers are about one person: nobody keeps them.
NOT_KEPT = {"Cache-Control": "no-store"}
_HEADERS = {
    **NOT_KEPT,
    # nginx and its like would collect the events before they pass them on.
    "X-Accel-Buffering": "no",
}


def frame(data: Any, *, event: str | None = None) -> bytes:
    """One event. `data` is always one line, also for clients that end lines where Unicode does."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    text = text.translate(_LINE_ENDS)
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {text}\n\n".encode("utf-8", "replace")


def streamed(description: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entry of a route whose answer may be a stream, of the form described."""
    return {
        200: {"description": "The answer.", "content": {"text/event-stream": {"schema": {"description": description}}}}
    }


class EventStream(Response):
    """`frames` is closed in any case. `aborted`: what to say when the server must stop before they end.

    A client that stops reading, and stays, has left after `longest_seconds`: else it would hold its place for ever.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        lifecycle: Lifecycle,
        ping_seconds: float,
        longest_seconds: float,
        aborted: bytes,
    ) -> None:
        self._frames = frames
        self._longest_seconds = longest_seconds
        self._lifecycle = lifecycle
        self._ping_seconds = ping_seconds
        self._aborted = aborted
        super().__init__(headers=_HEADERS)
        # Its length is not known.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last_words = b""
        async with aclosing(self._frames):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async with asyncio.timeout(self._longest_seconds):
                    await self._send_frames(receive, send)
            except (Disconnected, TimeoutError):
                scope[LEFT_EARLY] = True
                return
            except Aborted:
                last_words = self._aborted
        await send({"type": "http.response.body", "body": last_words, "more_body": False})

    async def _send_frames(self, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()

        async def ping() -> None:
            if loop.time() - last >= self._ping_seconds:
                await send({"type": "http.response.body", "body": _PING, "more_body": True})

        async with CancelOnDisconnect(receive, self._lifecycle, ping=ping, ping_seconds=self._ping_seconds):
            async for piece in self._frames:
                if piece:
                    last = loop.time()
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
