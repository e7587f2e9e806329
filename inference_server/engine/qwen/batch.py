"""All answers that are being generated, and the step that advances them.

What goes wrong with one answer ends that answer, and the others go on. Called by `worker`, which owns the only one;
the model comes in as an object, so that tests can bring one that fails.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from torch import Tensor

from inference_server.engine.protocol import EngineStats, FinishReason, Usage
from inference_server.engine.qwen.cache import Cache
from inference_server.engine.qwen.sampling import Draw, choose
from inference_server.engine.qwen.scheduler import Scheduler
from inference_server.engine.qwen.scheduler import Sequence as Scheduled
from inference_server.engine.qwen.thinking import Course, Part
from inference_server.engine.qwen.wire import Piece
from inference_server.engine.qwen.writer import Writer

_SPEED_SECONDS = 5.0


class Forward(Protocol):
    """What `model.Model` does."""

    cache: Cache

    def fill(self, slot: int, start: int, tokens: Sequence[int]) -> Tensor: ...

    def advance(self, slots: list[int], stored: list[int], tokens: Sequence[int]) -> Tensor: ...


@dataclass(eq=False, kw_only=True)
class Answer(Scheduled):
    """One answer in the making. `pending` begins as the prompt."""

    course: Course
    draw: Draw
    random: random.Random
    reasoning: Writer | None
    answer: Writer
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.pending)
        self.pending.extend(self.course.begin())

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.course.tokens, self.course.reasoning_tokens)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one step: what was added to answers, which failed of what, and whose turn it is from now on."""

    pieces: list[Piece] = field(default_factory=list)
    failures: list[tuple[int, Exception]] = field(default_factory=list)
    started: list[int] = field(default_factory=list)


class Batch:
    def __init__(self, model: Forward, *, piece_tokens: int) -> None:
        self._model = model
        self._scheduler: Scheduler[Answer] = Scheduler(slots=model.cache.slots, piece_tokens=piece_tokens)
        self._beginning: list[int] = []
        self._kept: list[Tensor] = []
        self._outcome = Outcome()
        self._tally = Tally()

    @property
    def busy(self) -> bool:
        return bool(self._scheduler.running or self._scheduler.waiting)

    def add(self, answer: Answer) -> None:
        if not self.busy:
            self._tally.rested()
        self._scheduler.add(answer)

    def cancel(self, number: int) -> None:
        answer = self._scheduler.find(number)
        if answer is not None:
            self._scheduler.remove(answer)

    def keep_beginning(self, tokens: list[int], *, progressed: Callable[[], None] = lambda: None) -> None:
        """Compute once what many prompts begin with. Only while nothing runs. `progressed` is called now and then."""
        piece = self._scheduler.piece_tokens
        for start in range(0, len(tokens), piece):
            self._model.fill(0, start, tokens[start : start + piece])
            progressed()
        self._kept = self._model.cache.copy_out(0, len(tokens))
        self._beginning = tokens

    def stats(self, now: float) -> EngineStats:
        return self._tally.snapshot(len(self._scheduler.running), len(self._scheduler.waiting), now)

    def step(self, now: float) -> Outcome:
        """Advance everybody once. `now`: seconds of the clock that the deadlines are of."""
        self._outcome = Outcome()
        for answer in self._scheduler.expired(now):
            self._end(answer, "deadline")
        for answer in self._scheduler.admit():
            self._outcome.started.append(answer.id)
            self._guarded([answer], partial(self._take_kept, answer))
        plan = self._scheduler.plan()
        if plan.fill is not None:
            self._guarded([plan.fill], partial(self._fill, plan.fill, plan.piece))
        if plan.advance:
            self._guarded(plan.advance, partial(self._advance, plan.advance))
        self._tally.stepped(now)
        return self._outcome

    def _guarded(self, answers: Sequence[Answer], work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # Whatever it is, it is reported to those whom it concerns.
            for answer in answers:
                self._fail(answer, error)

    def _take_kept(self, answer: Answer) -> None:
        # The last token is computed in any case, because its logits are needed.
        common = _common(self._beginning, answer.pending[:-1])
        if common:
            self._model.cache.copy_in(answer.slot, self._kept, common)
            answer.stored, answer.pending = common, answer.pending[common:]
        self._tally.prompt_tokens += answer.prompt_tokens
        self._tally.cached_prompt_tokens += common

    def _fill(self, answer: Answer, count: int) -> None:
        logits = self._model.fill(answer.slot, answer.stored, answer.pending[:count])
        answer.stored += count
        answer.pending = answer.pending[count:]
        if not answer.pending:
            self._continue(answer, logits)

    def _advance(self, answers: Sequence[Answer]) -> None:
        logits = self._model.advance(
            [answer.slot for answer in answers],
            [answer.stored for answer in answers],
            [answer.pending[0] for answer in answers],
        )
        for answer, row in zip(answers, logits, strict=True):
            answer.stored += 1
            answer.pending = []
            self._guarded([answer], partial(self._continue, answer, row))

    def _continue(self, answer: Answer, logits: Tensor) -> None:
        """Choose the next token, and put it to use."""
        before = answer.course.tokens
        token = choose(logits, answer.draw, answer.random.random())
        verdict = answer.course.take(token)
        self._tally.completion_tokens += answer.course.tokens - before
        reasoning, text = self._written(answer, verdict.part, token)
        if answer.answer.stopped:
            self._end(answer, "stop", reasoning, text)
        elif verdict.end is not None:
            self._end(answer, verdict.end, reasoning, text)
        else:
            answer.pending = [*(() if verdict.replaced else (token,)), *verdict.forced]
            self._outcome.pieces.append(Piece(answer.id, answer.usage, reasoning, text))

    def _written(self, answer: Answer, part: Part | None, token: int) -> tuple[str, str]:
        if part is Part.ANSWER:
            # What the reasoning still held back comes before the first word of the answer.
            left = "" if answer.reasoning is None else answer.reasoning.flush()
            return left, answer.answer.feed(token)
        if part is Part.REASONING and answer.reasoning is not None:
            return answer.reasoning.feed(token), ""
        return "", ""

    def _end(self, answer: Answer, reason: FinishReason, reasoning: str = "", text: str = "") -> None:
        self._scheduler.remove(answer)
        reasoning += "" if answer.reasoning is None else answer.reasoning.flush()
        text += answer.answer.flush()
        truncated = answer.course.truncated
        self._outcome.pieces.append(Piece(answer.id, answer.usage, reasoning, text, reason, truncated))

    def _fail(self, answer: Answer, error: Exception) -> None:
        self._scheduler.remove(answer)
        self._tally.failed_requests += 1
        self._outcome.failures.append((answer.id, error))


class Tally:
    """Counts since the start, and the speed of the last seconds."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.completion_tokens = 0
        self.failed_requests = 0
        self._steps: deque[tuple[float, int]] = deque()

    def rested(self) -> None:
        """Nothing was to be done: that time says nothing about the speed."""
        self._steps.clear()

    def stepped(self, now: float) -> None:
        self._steps.append((now, self.completion_tokens))
        while now - self._steps[0][0] > _SPEED_SECONDS and len(self._steps) > 2:
            self._steps.popleft()

    def snapshot(self, active: int, queued: int, now: float) -> EngineStats:
        began, count = self._steps[0] if self._steps else (now, self.completion_tokens)
        speed = (self.completion_tokens - count) / (now - began) if now > began else 0.0
        return EngineStats(
            active_requests=active,
            queued_requests=queued,
            tokens_per_second=speed,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            completion_tokens=self.completion_tokens,
            failed_requests=self.failed_requests,
        )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
