"""The one interface between the HTTP side and whatever generates text.

Implemented by `engine.mock`; called by `lifecycle` (load, warm-up, health, shutdown) and `api.triage` (requests).
Nothing here may import a model library, so that the mock server starts without one.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

Mode = Literal["mock", "qwen"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What answers: the mode, the model's name and, where the model comes from a hub, its commit."""

    mode: Mode
    model: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation. The text is kept out of repr, because reprs end up in logs."""

    role: Literal["system", "user", "assistant"]
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to generate. Carries no patient identifier: an engine never sees one."""

    request_id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the model's own tokenizer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every answer. `usage` is None where the engine has no tokenizer."""

    reason: FinishReason
    usage: Usage | None


Event = TextDelta | Finished


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /metrics."""

    active_requests: int


class EngineUnavailable(Exception):
    """The engine takes no request now: it is not loaded yet, is draining, or is closed."""


class Engine(Protocol):
    """Life: load → warm_up → any number of submit → drain → close.

    All methods are called on one event loop and must not block it.
    """

    @property
    def info(self) -> EngineInfo: ...

    async def load(self) -> None:
        """Make the model usable. Raises StartupError when that can never work with these settings."""
        ...

    async def warm_up(self) -> None:
        """Generate a short answer, so that the first user does not pay for it. Raises when none comes."""
        ...

    def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Yield TextDelta events, then one Finished. Closing the generator cancels the request.

        The first step raises EngineUnavailable when the engine takes no requests.
        """
        ...

    def stats(self) -> EngineStats: ...

    def heartbeat(self) -> float:
        """Seconds since the engine last proved that it makes progress; 0.0 when it has nothing to do."""
        ...

    async def drain(self) -> None:
        """Take no more requests, and return when the accepted ones have ended."""
        ...

    async def close(self) -> None:
        """Free everything. Safe to call in any state, and twice."""
        ...
