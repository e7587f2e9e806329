"""The one way from HTTP to the engine, for whole answers and for streams: counts what becomes of every request.

    a request ─► too long for the context? ─► its share of thinking ─► engine.submit ─► pieces ─► Finished
                 refused, not counted         (engine/budget.py)        │ nothing for    │ timed, counted
                 in tokens                                              │ long after the │
                                                                        │ deadline:      └─ no words: NoAnswer
                                                                        └─ EngineStalled

Used by `api`. Looks like an engine's `submit`, so that `engine.answer` can collect from it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from inference_server.engine.budget import thinking_budget, tokens_per_second
from inference_server.engine.protocol import (
    EngineBusy,
    EngineUnavailable,
    Event,
    Finished,
    FinishReason,
    GenerationFailed,
    GenerationRequest,
    PromptTooLong,
    ReasoningDelta,
    TextDelta,
)
from inference_server.lifecycle import Lifecycle
from inference_server.telemetry.metrics import CANCELLED, FAILED, GenerationMetrics
from inference_server.telemetry.tracing import Tracing

_REFUSALS: dict[type[Exception], str] = {
    EngineBusy: "queue_full",
    EngineUnavailable: "unavailable",
    PromptTooLong: "prompt_too_long",
}
# A union would be made anew for every piece.
_PIECES = (TextDelta, ReasoningDelta)
_READER_SECONDS = 1.0
# No text has more; what has is refused before its tokens are counted, which for a megabyte takes seconds.
_CHARACTERS_A_TOKEN = 8


class EngineStalled(GenerationFailed):
    """The deadline of a request is long over, and the engine, which should have ended it, does not answer."""


class NoAnswer(Exception):
    """An answer ended before its first word. It must not pass for one. `waited`: it never had its turn."""

    def __init__(self, reason: FinishReason, *, waited: bool = False) -> None:
        super().__init__(f"no answer: {reason}")
        self.reason = reason
        self.waited = waited


class PromptTooLarge(PromptTooLong):
    """More characters than the context can hold: nobody counts its tokens. Here in characters."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`patience_seconds`: how long after its deadline an answer is still waited for. The rest is what holds where a
    request does not say; `thinking_budget` None: as much as leaves room for the answer.
    """

    patience_seconds: float = 30.0
    max_new_tokens: int = 512
    thinking_budget: int | None = None


class TrackedEngine:
    def __init__(self, lifecycle: Lifecycle, metrics: GenerationMetrics, tracing: Tracing, limits: Limits) -> None:
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._tracing = tracing
        self._limits = limits

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """As an engine's. Refuses what comes before the engine is ready and after the server has begun to end.

        Raises EngineStalled where an engine says nothing any more: nobody waits for ever; NoAnswer where an answer has
        no words; PromptTooLarge, which costs the engine nothing.
        """
        if not self._lifecycle.accepting:
            self._metrics.refused(_REFUSALS[EngineUnavailable])
            raise EngineUnavailable(f"the server is {self._lifecycle.phase}")
        engine = self._lifecycle.engine
        self._refuse_too_large(request)
        request = self._budgeted(request)
        seen = self._metrics.begin()
        span = self._tracing.begin(request, engine.info)
        # What it stays when the generator is closed or its task cancelled.
        outcome: str | None = CANCELLED
        watchdog = _Watchdog(request, self._limits.patience_seconds)
        # Whoever names texts to end before may get nothing else.
        has_words = bool(request.sampling.stop)
        try:
            async with aclosing(engine.submit(request)) as events:
                async for event in events:
                    if isinstance(event, _PIECES):
                        seen.piece()
                        has_words = has_words or (isinstance(event, TextDelta) and bool(event.text.strip()))
                    elif isinstance(event, Finished):
                        outcome = None
                        seen.finished(event)
                        span.finished(event)
                        if not has_words:
                            raise _no_answer(event)
                    watchdog.waiting = False
                    yield event
                    watchdog.waiting = True
            if outcome is not None:
                raise RuntimeError("the engine ended an answer without a Finished event")
        except NoAnswer:
            raise
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

    def _refuse_too_large(self, request: GenerationRequest) -> None:
        context = self._lifecycle.engine.info.context_tokens
        if context is None:
            return
        characters, limit = sum(len(message.content) for message in request.messages), context * _CHARACTERS_A_TOKEN
        if characters > limit:
            self._metrics.refused(_REFUSALS[PromptTooLong])
            raise PromptTooLarge(characters, limit)

    def _budgeted(self, request: GenerationRequest) -> GenerationRequest:
        engine, sampling = self._lifecycle.engine, request.sampling
        if not engine.info.thinks and engine.info.predicted_tokens_per_second is None:
            return request
        budget = thinking_budget(
            self._limits.thinking_budget if sampling.thinking_budget is None else sampling.thinking_budget,
            max_new_tokens=sampling.max_new_tokens or self._limits.max_new_tokens,
            deadline_seconds=request.deadline_seconds,
            tokens_per_second=tokens_per_second(engine.info, engine.stats()),
        )
        return replace(request, sampling=replace(sampling, thinking_budget=budget))


def _no_answer(end: Finished) -> NoAnswer:
    return NoAnswer(end.reason, waited=end.timing is not None and end.timing.first_token is None)


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
