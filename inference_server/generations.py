"""The one way from HTTP to the engine, for whole answers and for streams: counts what becomes of every request.

Used by `api`. Looks like an engine's `submit`, so that `engine.answer` can collect from it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from inference_server.engine.protocol import (
    EngineBusy,
    EngineUnavailable,
    Event,
    Finished,
    GenerationFailed,
    GenerationRequest,
    PromptTooLong,
    ReasoningDelta,
    TextDelta,
)
from inference_server.generation_metrics import CANCELLED, FAILED, GenerationMetrics
from inference_server.lifecycle import Lifecycle
from inference_server.tracing import Tracer

_REFUSALS: dict[type[Exception], str] = {
    EngineBusy: "queue_full",
    EngineUnavailable: "unavailable",
    PromptTooLong: "prompt_too_long",
}
# A union would be made anew for every piece.
_PIECES = (TextDelta, ReasoningDelta)
_READER_SECONDS = 1.0


class EngineStalled(GenerationFailed):
    """The deadline of a request is long over, and the engine, which should have ended it, does not answer."""


class Generations:
    """`patience_seconds`: how long after its deadline an answer is still waited for."""

    def __init__(
        self, lifecycle: Lifecycle, metrics: GenerationMetrics, tracer: Tracer, *, patience_seconds: float
    ) -> None:
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._tracer = tracer
        self._patience_seconds = patience_seconds

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """As an engine's. Refuses what comes before the engine is ready and after the server has begun to end.

        Raises EngineStalled where an engine says nothing any more: nobody waits for ever.
        """
        if not self._lifecycle.accepting:
            self._metrics.refused(_REFUSALS[EngineUnavailable])
            raise EngineUnavailable(f"the server is {self._lifecycle.phase}")
        engine = self._lifecycle.engine
        seen = self._metrics.begin()
        span = self._tracer.begin(request, engine.info)
        # What it stays when the generator is closed or its task cancelled.
        outcome: str | None = CANCELLED
        watchdog = _Watchdog(request, self._patience_seconds)
        try:
            async with aclosing(engine.submit(request)) as events:
                async for event in events:
                    if isinstance(event, _PIECES):
                        seen.piece()
                    elif isinstance(event, Finished):
                        outcome = None
                        seen.finished(event)
                        span.finished(event)
                    watchdog.waiting = False
                    yield event
                    watchdog.waiting = True
            if outcome is not None:
                raise RuntimeError("the engine ended an answer without a Finished event")
        except tuple(_REFUSALS) as error:
            outcome = None
            seen.refused(_REFUSALS[type(error)])
            span.failed(_REFUSALS[type(error)])
            raise
        except asyncio.CancelledError:
            if not watchdog.caused():
                raise
            outcome = FAILED
            raise EngineStalled("the engine says nothing, also after the deadline") from None
        except Exception:
            outcome = FAILED
            raise
        finally:
            watchdog.stop()
            if outcome is not None:
                seen.stopped(outcome)
                span.failed(outcome)
            span.end()


class _Watchdog:
    """Ends a wait for the engine once the time of the request is long over. Only the wait: a client may read slowly.

    One timer for all of it, which begins when the request first waits: a timeout for each piece takes longer than the
    mock takes to answer.
    """

    def __init__(self, request: GenerationRequest, patience_seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self.waiting = True
        self._barked = False
        self._timer: asyncio.Handle | None = None
        if request.deadline_seconds is not None:
            longest = request.deadline_seconds + patience_seconds
            self._timer = asyncio.get_running_loop().call_soon(self._look_in, longest)

    def caused(self) -> bool:
        """Of a cancellation: whether it is its own, and nobody else's too. Asked once."""
        return self._barked and not self._task.uncancel()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        if self.waiting:
            self._barked = True
            self._task.cancel()
        else:
            self._look_in(_READER_SECONDS)
