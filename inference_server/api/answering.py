"""Requests to the engine on behalf of HTTP: whole answers and streams, both ended when nobody waits for them.

Called by `triage` and `chat`, which know their bodies; what can go wrong is the same for both.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from starlette.requests import Request

from inference_server.api.cancellation import CancelOnDisconnect
from inference_server.api.config import ApiConfig
from inference_server.api.errors import EXPECTED, ProblemError, internal_error, refusal, shutting_down
from inference_server.api.sse import EventStream
from inference_server.engine.answer import Answer, collect
from inference_server.engine.protocol import Event, GenerationFailed, GenerationRequest
from inference_server.lifecycle import Lifecycle
from inference_server.tracked_engine import TrackedEngine

logger = logging.getLogger(__name__)


class Encoder(Protocol):
    """How a stream says what happens, as bytes of server-sent events."""

    def event(self, event: Event) -> bytes: ...

    def error(self, error: ProblemError) -> bytes: ...


class Answering:
    def __init__(self, lifecycle: Lifecycle, engine: TrackedEngine, config: ApiConfig) -> None:
        self.lifecycle = lifecycle
        self.config = config
        self._engine = engine

    def deadline(self, asked: float | None) -> float:
        longest = self.config.request_timeout_seconds
        return longest if asked is None else min(asked, longest)

    async def complete(self, generation: GenerationRequest, request: Request) -> Answer:
        """Raises ProblemError for everything that can be foreseen."""
        try:
            async with CancelOnDisconnect(request.receive, self.lifecycle):
                answer = await collect(self._engine, generation)
        except EXPECTED as error:
            raise self._explained(error) from None
        return answer

    async def stream(self, generation: GenerationRequest, request: Request, encoder: Encoder) -> EventStream:
        """A request that is refused still gets its own status: the stream begins once the engine has taken it."""
        events = self._engine.submit(generation)
        try:
            async with CancelOnDisconnect(request.receive, self.lifecycle):
                first = await anext(events)
        except EXPECTED as error:
            raise self._explained(error) from None
        patience = self.config.engine_patience_seconds + self.config.stream_patience_seconds
        return EventStream(
            self._frames(first, events, encoder),
            lifecycle=self.lifecycle,
            ping_seconds=self.config.stream_ping_seconds,
            longest_seconds=self.deadline(generation.deadline_seconds) + patience,
            aborted=encoder.error(shutting_down()),
        )

    async def _frames(
        self, first: Event, events: AsyncGenerator[Event, None], encoder: Encoder
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            yield encoder.event(first)
            try:
                async for event in events:
                    yield encoder.event(event)
            except EXPECTED as error:
                yield encoder.error(self._explained(error))
            except Exception:
                # The formatter writes its type and frames, not its message, which may quote the request.
                logger.exception("unhandled_exception")
                yield encoder.error(internal_error())

    def _explained(self, error: Exception) -> ProblemError:
        if isinstance(error, GenerationFailed):
            logger.error("generation_failed", exc_info=error)
        return refusal(error, self.lifecycle)
