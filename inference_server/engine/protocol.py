"""The one interface between the HTTP side and whatever generates text.

Implemented by `engine.mock` and `engine.qwen`; called by `lifecycle` (load, warm-up, health, shutdown) and `api`
(requests). Nothing here may import a model library, so that the mock server starts without one, and nothing speaks
of tokens on a device, so that an engine behind an HTTP server fits too.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

Mode = Literal["mock", "qwen"]
# `stop`: complete. `length`: cut at its own limit of tokens or at the model's. `deadline`: cut at its deadline.
# `shutdown`: cut because the server had to stop. What was generated until then has been yielded.
FinishReason = Literal["stop", "length", "deadline", "shutdown"]

# Bounds of Sampling, for requests and settings alike. So many tokens are more than any context leaves room for.
MAX_TOKENS = 32_768
MAX_TEMPERATURE = 2


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What answers. A field is None where the engine has no such thing or does not know it (yet)."""

    mode: Mode
    model: str
    # The commit, where the model comes from a hub.
    revision: str | None
    # What computes: `mock`, `transformers`.
    engine: str = "mock"
    # `cpu`, `cuda`.
    device: str | None = None
    # The numbers in which the model computes: `float32`, `bfloat16`, `float16`.
    dtype: str | None = None
    # The numbers in which the weights are kept where that differs: `bfloat16` (as exact as the file), `int8`.
    quantization: str | None = None
    threads: int | None = None
    # The longest prompt and answer together.
    context_tokens: int | None = None
    # How many requests are answered at the same time; more wait.
    concurrent_requests: int | None = None
    # How many may wait beyond those; one more is refused.
    queued_requests: int | None = None
    # Whether the model writes its reasoning before the answer.
    thinks: bool = False
    # Of one answer alone on this machine, measured by the warm-up.
    predicted_tokens_per_second: float | None = None
    # What the model's authors advise and this engine does not do, such as `repetition_penalty=1.05`.
    unheeded_advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation. The text is kept out of repr, because reprs end up in logs."""

    role: Literal["system", "user", "assistant"]
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is drawn. None means the engine's default: its settings, else what the model's authors advise.

    `temperature` 0 always takes the likeliest token; `top_k` 0 and `top_p` 1 leave all tokens in. The same seed gives
    the same answer, whatever else runs. `max_new_tokens` counts reasoning and answer; of these at most
    `thinking_budget` are reasoning, then the engine closes it. An answer ends before any of the texts in `stop`.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    thinking_budget: int | None = None
    stop: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to generate. Carries no patient identifier: an engine never sees one.

    `deadline_seconds` counts from submit; what is there by then is the answer. Without `include_reasoning` no
    ReasoningDelta is yielded.
    """

    request_id: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    include_reasoning: bool = False
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request will be answered: it waits for its turn, or runs. From here on it can fail, but not be refused."""


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """The next piece of the reasoning. It repeats what the patient said: never log it."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the model's own tokenizer. `completion_tokens` includes `reasoning_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds since submit, by the engine's clock: what the caller cannot see while the model waits or thinks."""

    # Until the request had its turn.
    queued: float
    # Until its first token, reasoning included; None when there was none.
    first_token: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every answer. `usage` is None where the engine has no tokenizer, `timing` where it has no
    queue.

    `thinking_truncated`: the reasoning reached its budget and the engine closed it.
    """

    reason: FinishReason
    usage: Usage | None
    thinking_truncated: bool = False
    timing: Timing | None = None


Event = Accepted | ReasoningDelta | TextDelta | Finished


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /metrics: first what is, then sums since the start."""

    active_requests: int
    queued_requests: int = 0
    # Of all running answers together, over the last seconds.
    tokens_per_second: float = 0.0
    prompt_tokens: int = 0
    # Of the prompt tokens: taken from the cache of the common beginning of prompts.
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    # Requests that failed in the engine.
    failed_requests: int = 0


class EngineUnavailable(Exception):
    """The engine takes no request now: it is not loaded yet, is draining, is closed, or has died."""


class EngineBusy(Exception):
    """The queue is full, or the request would wait past its deadline."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_seconds:.0f} s")
        self.retry_after_seconds = retry_after_seconds


class PromptTooLong(Exception):
    """The messages and the least room for an answer do not fit. In tokens."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens; at most {limit} fit")
        self.tokens = tokens
        self.limit = limit


class GenerationFailed(Exception):
    """This answer ended in an error of the engine; others go on. The message never quotes the request."""


class Engine(Protocol):
    """Life: load → warm_up → any number of submit → drain → close.

    All methods are called on one event loop and must not block it.
    """

    @property
    def info(self) -> EngineInfo:
        """Known as far as the settings say before `load`, completely after it."""
        ...

    async def load(self) -> None:
        """Make the model usable. Raises StartupError when that can never work with these settings."""
        ...

    def load_progress(self) -> float:
        """How much of the loading is done, from 0 to 1."""
        ...

    async def warm_up(self) -> None:
        """Generate a short answer, so that the first user does not pay for it. Raises when none comes."""
        ...

    def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Yield Accepted, then deltas, then one Finished. Closing the generator cancels the request.

        The first step raises EngineUnavailable, EngineBusy or PromptTooLong when the request is refused; a later one
        raises GenerationFailed when it fails.
        """
        ...

    def stats(self) -> EngineStats: ...

    def heartbeat(self) -> float:
        """Seconds since the engine last proved that it makes progress; 0.0 when it has nothing to do.

        Infinity once it is dead: only a restart of the server can help then.
        """
        ...

    async def drain(self) -> None:
        """Take no more requests, and return when the accepted ones have ended."""
        ...

    def abort(self) -> None:
        """End the accepted requests now: each yields Finished("shutdown") next. Takes no more requests."""
        ...

    async def close(self) -> None:
        """Free everything. Safe to call in any state, and twice."""
        ...
