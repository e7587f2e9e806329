"""The one way from HTTP to the engine, for whole answers and for streams: counts what becomes of every request.

Used by `api`. Looks like an engine's `submit`, so that `engine.answer` can collect from it.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from inference_server.engine.protocol import (
    EngineBusy,
    EngineUnavailable,
    Event,
    Finished,
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


class Generations:
    def __init__(self, lifecycle: Lifecycle, metrics: GenerationMetrics, tracer: Tracer) -> None:
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._tracer = tracer

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """As an engine's. Refuses what comes before the engine is ready and after the server has begun to end."""
        if not self._lifecycle.accepting:
            self._metrics.refused(_REFUSALS[EngineUnavailable])
            raise EngineUnavailable(f"the server is {self._lifecycle.phase}")
        engine = self._lifecycle.engine
        seen = self._metrics.begin()
        span = self._tracer.begin(request, engine.info)
        # What it stays when the generator is closed or its task cancelled.
        outcome: str | None = CANCELLED
        try:
            async with aclosing(engine.submit(request)) as events:
                async for event in events:
                    if isinstance(event, _PIECES):
                        seen.piece()
                    elif isinstance(event, Finished):
                        outcome = None
                        seen.finished(event)
                        span.finished(event)
                    yield event
            if outcome is not None:
                raise RuntimeError("the engine ended an answer without a Finished event")
        except tuple(_REFUSALS) as error:
            outcome = None
            seen.refused(_REFUSALS[type(error)])
            span.failed(_REFUSALS[type(error)])
            raise
        except Exception:
            outcome = FAILED
            raise
        finally:
            if outcome is not None:
                seen.stopped(outcome)
                span.failed(outcome)
            span.end()
