"""Where one answer stands between reasoning and its end, and which tokens the engine puts in by itself.

A model that thinks may never close its reasoning within its limit of tokens; its user would get nothing, or the
reasoning as advice. So the reasoning has a budget, at which the engine writes the closing words itself, and the rest
of the limit is left for the answer. Pure; called by `batch` for every token.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

# A reasonable triage answer; of a small limit, half.
ANSWER_TOKENS = 160


class Part(Enum):
    REASONING = "reasoning"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Marks:
    """Token ids of the model: `closing_words` bring a reasoning to its end politely and contain `close`.

    `open` and `close` are None for a model that does not think.
    """

    ends: frozenset[int]
    open: int | None = None
    close: int | None = None
    closing_words: tuple[int, ...] = ()

    @property
    def briefest_close(self) -> tuple[int, ...]:
        return () if self.close is None else (self.close,)


@dataclass(frozen=True, slots=True)
class Limits:
    """`tokens`: all that may be generated. `reasoning`: how many of them before `closing` is put in."""

    tokens: int
    reasoning: int
    closing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from one token: where it belongs (None: shown to nobody), what is put in after it, and the end.

    `replaced`: the forced tokens come in its place, and the model never sees it.
    """

    part: Part | None
    forced: tuple[int, ...] = ()
    replaced: bool = False
    end: Literal["stop", "length"] | None = None


def limits(marks: Marks, *, tokens: int, budget: int | None) -> Limits:
    """Share out `tokens` so that an answer fits behind every reasoning. `budget` None: as much as there is."""
    reserved = min(ANSWER_TOKENS, max(tokens // 2, 1))
    closing = marks.closing_words if len(marks.closing_words) + reserved < tokens else marks.briefest_close
    # Of a limit of one token nothing would be left for the answer.
    tokens = max(tokens, len(closing) + 1)
    room = max(tokens - reserved - len(closing), 0)
    return Limits(tokens, room if budget is None else min(budget, room), closing)


def opens_thinking(marks: Marks, prompt: list[int]) -> bool:
    """Whether the prompt, as the model's template ends it, has the model begin with its reasoning."""
    for token in reversed(prompt):
        if token == marks.open:
            return True
        if token == marks.close:
            return False
    return False


class Course:
    """Follows one answer, token by token. Mutable; owned by its sequence."""

    def __init__(self, marks: Marks, limits: Limits, *, thinking: bool) -> None:
        self._marks = marks
        self._limits = limits
        self.thinking = thinking
        self.reasoning_tokens = 0
        self.tokens = 0
        self.truncated = False

    @property
    def remaining(self) -> int:
        return self._limits.tokens - self.tokens

    def begin(self) -> tuple[int, ...]:
        """What to put in before the first token: with a budget of 0 the end of the reasoning."""
        return self._close() if self.thinking and self._limits.reasoning == 0 else ()

    def take(self, token: int) -> Verdict:
        """Count a token that the model chose."""
        self.tokens += 1
        return self._take_reasoning(token) if self.thinking else self._take_answer(token)

    def _take_reasoning(self, token: int) -> Verdict:
        self.reasoning_tokens += 1
        if token == self._marks.close:
            self.thinking = False
            return self._unless_full(Verdict(None))
        if token in self._marks.ends:
            # It would end without an answer. The end itself is replaced, so that the model goes on.
            self.tokens -= 1
            self.reasoning_tokens -= 1
            return Verdict(None, forced=self._close(), replaced=True)
        if self.reasoning_tokens >= self._limits.reasoning:
            return Verdict(Part.REASONING, forced=self._close())
        return Verdict(Part.REASONING)

    def _take_answer(self, token: int) -> Verdict:
        if token in self._marks.ends:
            return Verdict(None, end="stop")
        if token == self._marks.open and self.tokens == 1:
            # Models that may think, or not, begin by saying so.
            self.thinking = True
            self.reasoning_tokens += 1
            return Verdict(None, forced=self.begin())
        return self._unless_full(Verdict(None if token == self._marks.close else Part.ANSWER))

    def _unless_full(self, verdict: Verdict) -> Verdict:
        return Verdict(verdict.part, end="length") if self.remaining <= 0 else verdict

    def _close(self) -> tuple[int, ...]:
        self.thinking = False
        self.truncated = True
        self.tokens += len(self._limits.closing)
        self.reasoning_tokens += len(self._limits.closing)
        return self._limits.closing
