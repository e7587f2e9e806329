"""The mock engine: hard-coded answers through the same interface as a real model.

For tests, demos, and as the answer of last resort while no model can run. Needs no model files and no memory.
"""

import asyncio
import re
from collections.abc import AsyncGenerator

from inference_server.engine.answer import collect
from inference_server.engine.protocol import (
    Accepted,
    EngineInfo,
    EngineStats,
    EngineUnavailable,
    Event,
    Finished,
    GenerationRequest,
    Message,
    TextDelta,
)
from inference_server.llm_client import generate_response_mock

_WARM_UP = GenerationRequest("warm-up", (Message("user", "Is this service ready?"),))


class MockEngine:
    """`delay_seconds` is how long each answer takes, for tests and demonstrations of draining."""

    def __init__(self, *, delay_seconds: float = 0.0) -> None:
        self._delay_seconds = delay_seconds
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = False
        self._aborted = False

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(mode="mock", model="mock", revision=None)

    async def load(self) -> None:
        self._open = True

    def load_progress(self) -> float:
        return 1.0

    async def warm_up(self) -> None:
        await collect(self, _WARM_UP)

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if not self._open:
            raise EngineUnavailable("the mock engine is not open")
        self._active += 1
        self._idle.clear()
        try:
            yield Accepted()
            await asyncio.sleep(self._delay_seconds)
            for word in re.findall(r"\S+\s*", generate_response_mock(request.messages[-1].content)):
                if self._aborted:
                    yield Finished("shutdown", usage=None)
                    return
                yield TextDelta(word)
            yield Finished("stop", usage=None)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    def stats(self) -> EngineStats:
        return EngineStats(active_requests=self._active)

    def heartbeat(self) -> float:
        # It runs on the event loop: whoever can ask has the proof that it is alive.
        return 0.0

    async def drain(self) -> None:
        self._open = False
        await self._idle.wait()

    def abort(self) -> None:
        self._open = False
        self._aborted = True

    async def close(self) -> None:
        self._open = False
