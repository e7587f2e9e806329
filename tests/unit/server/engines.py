"""Engines that misbehave, or tell what they saw: real implementations of the interface, for tests."""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import (
    Accepted,
    EngineInfo,
    EngineStats,
    Event,
    Finished,
    GenerationFailed,
    GenerationRequest,
    ReasoningDelta,
    TextDelta,
    Timing,
    Usage,
)
from inference_server.termination import ExitCode, StartupError


class CountingEngine(MockEngine):
    """Has a tokenizer and a revision, thinks, is cut at its limit, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[GenerationRequest] = []

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(mode="qwen", model="Qwen/Qwen3-4B-Thinking-2507", revision="0123abc", thinks=True)

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        if request.include_reasoning:
            yield ReasoningDelta("Thirsty?")
        yield TextDelta("Drink ")
        yield TextDelta("water.")
        yield Finished("length", Usage(prompt_tokens=12, completion_tokens=3, reasoning_tokens=1))


class RefusingEngine(MockEngine):
    """Takes no request but the warm-up."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id != "warm-up":
            raise self._error
        yield Finished("stop", None)


class FailingEngine(MockEngine):
    """Fails in the middle of every answer, as engines are allowed to."""

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield Accepted()
        if request.request_id != "warm-up":
            yield TextDelta("half an ")
            raise GenerationFailed("the step failed")
        yield Finished("stop", None)


class SlowEngine(MockEngine):
    """Writes a word at a time, for ever, until somebody or a deadline ends it; a queue of ten places.

    `silent`: it thinks, and writes nothing.
    """

    def __init__(self, *, silent: bool = False) -> None:
        super().__init__()
        self.silent = silent
        self.running = 0
        self.queued = 0
        self.cancelled = 0
        self._ended = False

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, queued_requests=10, concurrent_requests=2)

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id == "warm-up":
            yield Finished("stop", None)
            return
        self.running += 1
        end = asyncio.get_running_loop().time() + (request.deadline_seconds or 3600)
        try:
            yield Accepted()
            while asyncio.get_running_loop().time() < end:
                if not self.silent:
                    yield TextDelta("word ")
                await asyncio.sleep(0.005)
                if self._ended:
                    yield Finished("shutdown", None)
                    return
            yield Finished("deadline", None)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def stats(self) -> EngineStats:
        return EngineStats(active_requests=self.running, queued_requests=self.queued)

    def abort(self) -> None:
        self._ended = True


class CrashingEngine(MockEngine):
    """Fails every request but the warm-up, and quotes the request in the exception, as libraries do."""

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id == "warm-up":
            yield TextDelta("warm")
            yield Finished("stop", None)
            return
        yield TextDelta("half an ")
        try:
            raise ValueError(f"cannot encode {request.messages[-1].content!r}")
        except ValueError as error:
            raise RuntimeError(f"step failed for {request.messages}: {error}") from error


class UnfinishedEngine(MockEngine):
    """Ends answers without saying so."""

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id == "warm-up":
            yield Finished("stop", None)
        yield TextDelta("no end")


class BlockedEngine(MockEngine):
    """Answers (warm-up excepted) when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.cancelled = 0

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        events = super().submit(request)
        try:
            async for event in events:
                if request.request_id != "warm-up":
                    await self.release.wait()
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            await events.aclose()


class HangingEngine(MockEngine):
    """Says nothing more once it has, or has not, accepted a request; not even at its deadline."""

    def __init__(self, *, accepts: bool) -> None:
        super().__init__()
        self._accepts = accepts

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id == "warm-up":
            yield Finished("stop", None)
            return
        if self._accepts:
            yield Accepted()
        await asyncio.Event().wait()


class ThinkingEngine(BlockedEngine):
    """Thinks, and says nothing, until it is told to answer."""

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield Accepted()
        if request.request_id != "warm-up":
            await self.release.wait()
        yield TextDelta("Water.")
        timing = Timing(queued=0.5, first_token=0.75)
        yield Finished("stop", Usage(10, 6, 4), thinking_truncated=True, timing=timing)


class StuckEngine(MockEngine):
    """Makes no progress once `stuck` is set."""

    def __init__(self, age: float = 3601.0) -> None:
        super().__init__()
        self.stuck = False
        self._age = age

    def heartbeat(self) -> float:
        return self._age if self.stuck else 0.0


class ThinkingForEver(SlowEngine):
    """Thinks aloud, in the patient's words, until its deadline, and never comes to an answer; a model of 40 tokens a
    second.
    """

    def __init__(self) -> None:
        super().__init__(silent=True)
        self.seen: list[GenerationRequest] = []

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, thinks=True, predicted_tokens_per_second=40.0, context_tokens=4096)

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        async with aclosing(super().submit(request)) as events:
            async for event in events:
                if isinstance(event, Accepted):
                    yield event
                    if request.include_reasoning:
                        yield ReasoningDelta(request.messages[-1].content)
                elif isinstance(event, Finished):
                    yield replace(event, usage=Usage(12, 106, 106), timing=Timing(0.0, 0.1))


class WordlessEngine(MockEngine):
    """Ends with these events, none of which has a word."""

    def __init__(self, *events: Event) -> None:
        super().__init__()
        self._events = events

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield Accepted()
        for event in self._events if request.request_id != "warm-up" else (Finished("stop", None),):
            yield event


class DyingEngine(MockEngine):
    """Fails at every answer, says so in the patient's words, and is dead then if `dies`. Says half a sentence first if
    `late`.
    """

    def __init__(self, *, dies: bool, late: bool) -> None:
        super().__init__()
        self._dies = dies
        self._late = late
        self._dead = False

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id != "warm-up":
            if self._late:
                yield Accepted()
                yield TextDelta("half an ")
            self._dead = self._dies
            raise GenerationFailed(f"while reading {request.messages[-1].content}")
        yield Finished("stop", None)

    def heartbeat(self) -> float:
        return math.inf if self._dead else 0.0


class MortalEngine(SlowEngine):
    """Makes no progress once there is a file `stuck` in its folder, and is dead once there is a file `dead`."""

    def heartbeat(self) -> float:
        if Path("dead").exists():
            return math.inf
        return 3601.0 if Path("stuck").exists() else 0.0


class NeverLoadedEngine(MockEngine):
    async def load(self) -> None:
        await asyncio.Event().wait()

    def load_progress(self) -> float:
        return 0.4


class NeverWarmEngine(MockEngine):
    async def warm_up(self) -> None:
        await asyncio.Event().wait()


class BrokenEngine(MockEngine):
    """Fails to load in a way nobody foresaw."""

    async def load(self) -> None:
        raise OSError("weights are torn")


class HopelessEngine(MockEngine):
    """Fails to load and knows why."""

    async def load(self) -> None:
        raise StartupError("ModelCorrupt", "The weights are torn.", "Fetch them again.", ExitCode.ENGINE)


class ClingingEngine(MockEngine):
    """Never finishes draining."""

    async def drain(self) -> None:
        await asyncio.Event().wait()
