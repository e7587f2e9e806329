"""The engine as the server sees it: `engine.protocol` over a pipe to the worker. Imports no model library.

Runs on the server's event loop and never blocks it. When the worker dies, the running requests fail at once and the
heartbeat says so for ever: starting again is the platform's job.
"""

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from inference_server.engine.answer import collect
from inference_server.engine.protocol import (
    Accepted,
    EngineBusy,
    EngineInfo,
    EngineStats,
    EngineUnavailable,
    Event,
    Finished,
    GenerationFailed,
    GenerationRequest,
    Message,
    PromptTooLong,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Timing,
    Usage,
)
from inference_server.engine.qwen import wire
from inference_server.engine.qwen.admission import retry_after, seconds_until_start
from inference_server.engine.qwen.hardware import child_environment
from inference_server.termination import ExitCode, StartupError

logger = logging.getLogger(__name__)

_WARM_UP = GenerationRequest(
    "warm-up", (Message("user", "Is this service ready?"),), Sampling(max_new_tokens=4, thinking_budget=0)
)
_END_SECONDS = 1.0


@dataclass
class Tracked:
    """A request that the worker has. `remaining`: tokens that it may still generate. Times are of the host's clock."""

    remaining: int
    submitted: float
    started: float | None = None
    first_token: float | None = None
    usage: Usage | None = None
    reports: asyncio.Queue[wire.Report | wire.Piece] = field(default_factory=asyncio.Queue)

    def timing(self) -> Timing:
        """How long it waited; all of its time if it never had its turn."""
        started = time.monotonic() if self.started is None else self.started
        first = None if self.first_token is None else self.first_token - self.submitted
        return Timing(started - self.submitted, first)


class QwenEngine:
    """`queued_requests`: how many may wait beyond those that run."""

    def __init__(self, config: wire.EngineConfig, *, queued_requests: int) -> None:
        self._config = config
        self._queued_requests = queued_requests
        self._info = EngineInfo(mode="qwen", model=config.model, revision=config.revision, engine="transformers")
        self._stats = EngineStats(active_requests=0)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers_to_load: asyncio.Queue[wire.Loaded | wire.LoadFailed] = asyncio.Queue()
        self._requests: dict[int, Tracked] = {}
        # Requests of which the worker has not said yet whether it takes them; also of clients that have left.
        self._unanswered: set[int] = set()
        self._next_id = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._share = 0.0
        self._last_report = time.monotonic()
        self._open = False
        self._bringing_up = False
        self._dead = False

    @property
    def info(self) -> EngineInfo:
        return self._info

    def load_progress(self) -> float:
        return self._share

    async def load(self) -> None:
        self._bringing_up = True
        self._last_report = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "inference_server.engine.qwen.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl+C in a terminal is for the server, which lets the worker finish.
            start_new_session=True,
            env=child_environment(os.environ),
        )
        self._reading = asyncio.create_task(self._read(self._process))
        self._send(wire.Load(self._config))
        self._info = await self._loaded()
        self._share = 1.0
        self._open = True

    async def warm_up(self) -> None:
        self._last_report = time.monotonic()
        self._send(wire.WarmUp())
        self._info = await self._loaded()
        try:
            await collect(self, _WARM_UP)
        except GenerationFailed:
            if self._dead:
                await self._loaded()
            raise
        self._bringing_up = False
        logger.info("engine", extra={"fields": _facts(self._info)})
        if self._info.unheeded_advice:
            logger.warning("advice_not_heeded", extra={"fields": {"advice": self._info.unheeded_advice}})

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if not self._open or self._dead:
            raise EngineUnavailable("the engine takes no requests now")
        self._refuse_when_busy(request)
        number, tracked = self._track(request)
        try:
            self._send(wire.Submit(number, request))
            self._unanswered.add(number)
            while True:
                for event in _events(await tracked.reports.get(), tracked):
                    yield event
                    if isinstance(event, Finished):
                        return
        finally:
            self._forget(number)

    def stats(self) -> EngineStats:
        if not self._requests:
            # The worker's last report may be of before the last ones left, and it says nothing while it has none.
            return replace(self._stats, active_requests=0, queued_requests=0, tokens_per_second=0.0)
        return self._stats

    def heartbeat(self) -> float:
        if self._dead:
            return math.inf
        if not self._is_expected_to_report and not self._bringing_up:
            return 0.0
        return time.monotonic() - self._last_report

    @property
    def _is_expected_to_report(self) -> bool:
        return bool(self._requests or self._unanswered)

    async def drain(self) -> None:
        self._open = False
        await self._idle.wait()

    def abort(self) -> None:
        self._open = False
        for number, tracked in self._requests.items():
            tracked.reports.put_nowait(wire.Piece(number, tracked.usage or Usage(0, 0), end="shutdown"))

    async def close(self) -> None:
        self._open = False
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _refuse_when_busy(self, request: GenerationRequest) -> None:
        slots, ahead = self._slots, [one.remaining for one in self._requests.values()]
        speed = self._tokens_per_second()
        if len(ahead) >= slots + self._queued_requests:
            raise EngineBusy(retry_after(ahead, tokens_per_second=speed))
        wait = seconds_until_start(ahead, slots=slots, tokens_per_second=speed)
        if request.deadline_seconds is not None and wait > request.deadline_seconds:
            raise EngineBusy(retry_after(ahead, tokens_per_second=speed))

    @property
    def _slots(self) -> int:
        return self._info.concurrent_requests or 1

    def _tokens_per_second(self) -> float:
        """Of one answer beside those that run, and at least its share of what one alone would have: while prompts are
        computed hardly a token is measured.
        """
        predicted = self._info.predicted_tokens_per_second or 0.0
        if self._stats.active_requests and self._stats.tokens_per_second:
            measured = self._stats.tokens_per_second / self._stats.active_requests
            return max(measured, predicted / self._slots)
        return predicted

    def _track(self, request: GenerationRequest) -> tuple[int, Tracked]:
        if not self._is_expected_to_report:
            # Whoever has nothing to do does not report: the time starts now.
            self._last_report = time.monotonic()
        self._next_id += 1
        remaining = request.sampling.max_new_tokens or self._config.max_new_tokens
        tracked = Tracked(remaining, submitted=time.monotonic())
        self._requests[self._next_id] = tracked
        self._idle.clear()
        return self._next_id, tracked

    def _forget(self, number: int) -> None:
        """Also tells the worker, which may have ended the request by itself: then it does nothing."""
        self._send(wire.Cancel(number))
        del self._requests[number]
        if not self._requests:
            self._idle.set()

    async def _loaded(self) -> EngineInfo:
        answer = await self._answers_to_load.get()
        if isinstance(answer, wire.LoadFailed):
            raise StartupError(answer.reason, answer.message, answer.remedy, answer.exit_code)
        return replace(answer.info, queued_requests=self._queued_requests)

    def _send(self, command: wire.Command) -> None:
        if self._process is not None and not self._dead:
            assert self._process.stdin is not None
            self._process.stdin.write(wire.frame_command(command))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while True:
                header = await process.stdout.readexactly(wire.HEADER_BYTES)
                body = await process.stdout.readexactly(wire.body_bytes(header))
                self._take(wire.parse_report(body))
        except asyncio.IncompleteReadError:
            # It has closed its pipe, and says by its exit code why.
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_SECONDS)
        finally:
            # Also when something came that is no report: who cannot be understood cannot go on.
            with suppress(ProcessLookupError):
                process.kill()
            await self._bury(process)

    def _take(self, report: wire.Report) -> None:
        self._last_report = time.monotonic()
        match report:
            case wire.Progress(share=share):
                self._share = share
            case wire.Loaded() | wire.LoadFailed():
                self._answers_to_load.put_nowait(report)
            case wire.Taken() | wire.TooLong() | wire.Failed():
                self._unanswered.discard(report.id)
                if isinstance(report, wire.Taken) and report.id in self._requests:
                    self._requests[report.id].remaining = report.max_new_tokens
                    self._requests[report.id].usage = Usage(report.prompt_tokens, 0)
                self._pass_on(report.id, report)
            case wire.Stepped(pieces=pieces, stats=stats, started=started):
                self._stats = stats
                for number in started:
                    if number in self._requests:
                        self._requests[number].started = self._last_report
                for piece in pieces:
                    self._progressed(piece)

    def _progressed(self, piece: wire.Piece) -> None:
        tracked = self._requests.get(piece.id)
        if tracked is not None:
            done = piece.usage.completion_tokens - (tracked.usage.completion_tokens if tracked.usage else 0)
            tracked.remaining = max(tracked.remaining - done, 0)
            tracked.usage = piece.usage
            if tracked.first_token is None and piece.usage.completion_tokens:
                tracked.first_token = self._last_report
            tracked.reports.put_nowait(piece)

    def _pass_on(self, number: int, report: wire.Report) -> None:
        # Of a request that was just cancelled something may still come.
        if number in self._requests:
            self._requests[number].reports.put_nowait(report)

    async def _bury(self, process: asyncio.subprocess.Process) -> None:
        self._dead = self._process is not None
        self._stats = EngineStats(active_requests=0)
        code = await process.wait()
        if self._dead:
            logger.error("engine_died", extra={"fields": {"exit_code": code}})
        self._answers_to_load.put_nowait(_died(code))
        for number in self._requests:
            self._pass_on(number, wire.Failed(number, "its process died"))


def _events(report: wire.Report | wire.Piece, tracked: Tracked) -> list[Event]:
    match report:
        case wire.Taken():
            return [Accepted()]
        case wire.TooLong(tokens=tokens, limit=limit):
            raise PromptTooLong(tokens, limit)
        case wire.Failed(error=error):
            raise GenerationFailed(f"the engine failed: {error}")
        case wire.Piece():
            return _events_of(report, tracked)
        case _:
            raise AssertionError(f"{type(report).__name__} is about no request")


def _events_of(piece: wire.Piece, tracked: Tracked) -> list[Event]:
    events: list[Event] = []
    if piece.reasoning:
        events.append(ReasoningDelta(piece.reasoning))
    if piece.text:
        events.append(TextDelta(piece.text))
    if piece.end is not None:
        events.append(Finished(piece.end, piece.usage, piece.thinking_truncated, tracked.timing()))
    return events


def _died(code: int) -> wire.LoadFailed:
    return wire.LoadFailed(
        "EngineDied",
        f"The engine's process ended with code {code} before the model was ready.",
        "Code -9 mostly means that the memory was not enough: raise the memory limit, or choose a smaller model. "
        "Otherwise the log line uncaught_exception before this one has the place in the code.",
        ExitCode.ENGINE,
    )


def _facts(info: EngineInfo) -> dict[str, object]:
    speed = info.predicted_tokens_per_second
    return {
        "device": info.device,
        "dtype": info.dtype,
        "quantization": info.quantization,
        "threads": info.threads,
        "context_tokens": info.context_tokens,
        "concurrent_requests": info.concurrent_requests,
        "tokens_per_second": None if speed is None else round(speed, 2),
    }
