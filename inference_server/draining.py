"""uvicorn's server with a shutdown that loses no request.

uvicorn closes its socket at SIGTERM, while Kubernetes still routes to the pod for some seconds. Here the first
signal only turns /readyz to 503; the socket closes after the grace, and accepted requests may still finish.

    SIGTERM ── grace: accepts, answers, closes each connection ── socket closed: finishes ── timeout: cut answers
"""

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Generator

import uvicorn

from inference_server.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

# Connections that wait in the kernel.
BACKLOG = 2048
# How long the engine may take to end its answers; then how long requests that were given up may take to say so, and
# clients that never finish sending may hang on.
_CUT_SECONDS = 1
_LAST_WORDS_SECONDS = 1
# How much of that may come late: at its own timeout uvicorn cuts the requests without a word.
_LATE_SECONDS = 2


class DrainingServer(uvicorn.Server):
    """Stops with the exit of `run()`, not by re-raising the signal: a stop that was asked for is a success."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, *, grace_seconds: float, timeout_seconds: float
    ) -> None:
        own_end = math.ceil(timeout_seconds) + _CUT_SECONDS + _LAST_WORDS_SECONDS
        config.timeout_graceful_shutdown = own_end + _LATE_SECONDS
        super().__init__(config)
        self._lifecycle = lifecycle
        self._grace_seconds = grace_seconds
        self._timeout_seconds = timeout_seconds
        self._hurry = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio has shortened the queue to what it accepts in one go.
            listener.listen(BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        self._lifecycle.look()
        return await super().on_tick(counter) or self._lifecycle.failure is not None

    def _on_signal(self, number: signal.Signals) -> None:
        logger.info("signal", extra={"fields": {"signal": number.name}})
        if self._stopping is not None:
            self._hurry.set()
            return
        self._lifecycle.begin_drain()
        # Ctrl+C comes from a terminal: there is no load balancer to wait for.
        grace = 0.0 if number is signal.SIGINT else self._grace_seconds
        self._stopping = asyncio.create_task(self._stop(grace))

    async def _stop(self, grace: float) -> None:
        await self._hurried_within(grace)
        self.should_exit = True
        hurried = await self._hurried_within(self._timeout_seconds)
        logger.warning("drain_cut_short", extra={"fields": {"by": "signal" if hurried else "timeout"}})
        self._lifecycle.abort()
        await asyncio.sleep(_CUT_SECONDS)
        self._lifecycle.give_up()
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        self.force_exit = True

    async def _hurried_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._hurry.wait(), seconds)
        except TimeoutError:
            return False
        return True
