"""Work that ends when nobody waits for its result any more.

FastAPI does not cancel a handler when its client leaves, so a model would go on generating for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from starlette.types import Receive

from inference_server.lifecycle import Lifecycle


class Disconnected(Exception):
    """The client left before the result was there."""


class Aborted(Exception):
    """The server gives the work up, because it must stop."""


class CancelOnDisconnect:
    """Cancels the work inside `async with`, and raises one of the above, when it has become useless.

    The work stays in the request's own task. A watching task begins when the work first waits for something, so that an
    answer that is there at once, such as the mock's, does not pay for it. `ping` is awaited after every `ping_seconds`
    of waiting.
    """

    def __init__(
        self,
        receive: Receive,
        lifecycle: Lifecycle,
        *,
        ping: Callable[[], Awaitable[None]] | None = None,
        ping_seconds: float | None = None,
    ) -> None:
        self._receive = receive
        self._lifecycle = lifecycle
        self._ping = ping
        self._ping_seconds = ping_seconds
        self._watching: asyncio.Task[None] | None = None
        self._why: type[Disconnected | Aborted] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._start = loop.call_soon(self._watch)
        self._lifecycle.useless.add(self._abort)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._lifecycle.useless.discard(self._abort)
        self._start.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._why is not None and self._task is not None:
            # Somebody else's cancellation goes on.
            others = self._task.uncancel()
            if not others and kind is asyncio.CancelledError:
                raise self._why from None

    def _watch(self) -> None:
        self._watching = asyncio.create_task(self._until_disconnect())

    async def _until_disconnect(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._ping_seconds):
                    message = await self._receive()
            except TimeoutError:
                if self._ping is not None:
                    await self._ping()
                continue
            if message["type"] == "http.disconnect":
                break
        self._interrupt(Disconnected)

    def _abort(self) -> None:
        self._interrupt(Aborted)

    def _interrupt(self, why: type[Disconnected | Aborted]) -> None:
        if self._why is None and self._task is not None:
            self._why = why
            self._task.cancel()
