"""Engines that misbehave, or tell what they saw: real implementations of the interface, for tests."""

import asyncio
from collections.abc import AsyncGenerator

from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import EngineInfo, Event, Finished, GenerationRequest, TextDelta, Usage
from inference_server.failure import ExitCode, StartupError


class CountingEngine(MockEngine):
    """Has a tokenizer and a revision, is cut at its limit, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[GenerationRequest] = []

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(mode="qwen", model="Qwen/Qwen3-4B-Thinking-2507", revision="0123abc")

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        yield TextDelta("Drink ")
        yield TextDelta("water.")
        yield Finished("length", Usage(prompt_tokens=12, completion_tokens=3))


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


class StuckEngine(MockEngine):
    """Makes no progress once `stuck` is set."""

    stuck = False

    def heartbeat(self) -> float:
        return 3601.0 if self.stuck else 0.0


class NeverLoadedEngine(MockEngine):
    async def load(self) -> None:
        await asyncio.Event().wait()


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
