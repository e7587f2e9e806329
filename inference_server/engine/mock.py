"""The mock engine: hard-coded answers through the same interface as a real model.

For tests, demos, and as the answer of last resort while no model can run. Needs no model files and no memory.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from functools import lru_cache

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
_INFO = EngineInfo(mode="mock", model="mock", revision=None)
_ACCEPTED = Accepted()
_WORDS_A_PIECE = 12


class MockEngine:
    """`delay_seconds` is how long each answer takes, for tests and demonstrations of draining; `max_new_tokens` its
    length where the request does not say.

    Has no tokenizer: where an engine counts tokens, it counts words. It draws nothing, so that seeds and the like
    make no difference.
    """

    def __init__(self, *, delay_seconds: float = 0.0, max_new_tokens: int | None = None) -> None:
        self._delay_seconds = delay_seconds
        self._max_new_tokens = max_new_tokens
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = False
        self._aborting = asyncio.Event()

    @property
    def info(self) -> EngineInfo:
        return _INFO

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
            yield _ACCEPTED
            deadline = request.deadline_seconds
            in_time = deadline is None or deadline >= self._delay_seconds
            await self._think(self._delay_seconds if in_time else deadline or 0.0)
            if not in_time:
                yield Finished("deadline", usage=None)
                return
            text = _cut(generate_response_mock(request.messages[-1].content), request.sampling.stop)
            pieces, end = _pieces(text, request.sampling.max_new_tokens or self._max_new_tokens)
            for piece in pieces:
                if self._aborting.is_set():
                    break
                yield piece
            yield Finished("shutdown", usage=None) if self._aborting.is_set() else end
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
        self._aborting.set()

    async def close(self) -> None:
        self._open = False

    async def _think(self, seconds: float) -> None:
        if seconds:
            try:
                async with asyncio.timeout(seconds):
                    await self._aborting.wait()
            except TimeoutError:
                pass


def _cut(text: str, stops: tuple[str, ...]) -> str:
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


@lru_cache(maxsize=64)
def _pieces(text: str, max_words: int | None) -> tuple[tuple[TextDelta, ...], Finished]:
    """A text as it is streamed. Kept, because there are three texts, and nothing of a request is among them."""
    words = re.findall(r"\S+\s*", text)
    whole = max_words is None or len(words) <= max_words
    words = words[:max_words]
    starts = range(0, len(words), _WORDS_A_PIECE)
    pieces = tuple(TextDelta("".join(words[start : start + _WORDS_A_PIECE])) for start in starts)
    return pieces, Finished("stop" if whole else "length", usage=None)
