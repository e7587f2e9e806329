"""A whole answer out of an engine's events, for callers that do not stream."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from inference_server.engine.protocol import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    ReasoningDelta,
    TextDelta,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Answer:
    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage | None
    reasoning: str = field(default="", repr=False)
    thinking_truncated: bool = False


class Submits(Protocol):
    """An engine, or whoever stands before one."""

    def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]: ...


async def collect(engine: Submits, request: GenerationRequest) -> Answer:
    """Run the request to its end. Cancelling this coroutine closes the generator, and so the request."""
    pieces: list[str] = []
    reasoning: list[str] = []
    end: Finished | None = None
    async with aclosing(engine.submit(request)) as events:
        async for event in events:
            match event:
                case TextDelta(text=text):
                    pieces.append(text)
                case ReasoningDelta(text=text):
                    reasoning.append(text)
                case Finished():
                    end = event
    if end is None:
        raise RuntimeError("the engine ended an answer without a Finished event")
    return Answer("".join(pieces), end.reason, end.usage, "".join(reasoning), end.thinking_truncated)
