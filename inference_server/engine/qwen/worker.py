"""The child process: `python -m inference_server.engine.qwen.worker`, started by `host` and by nothing else.

A process of its own, so that neither the interpreter's lock nor the threads of a computation delay a probe, and so
that a crash here is an answer there. One loop: take commands, advance the batch, report. It ends with its parent.
"""

import logging
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch

from inference_server.engine.protocol import EngineInfo, GenerationRequest, Sampling
from inference_server.engine.qwen import kernels, wire
from inference_server.engine.qwen.batch import Answer, Batch
from inference_server.engine.qwen.cache import Cache
from inference_server.engine.qwen.hardware import Choice, choose, read_machine
from inference_server.engine.qwen.linear import Storage, packs
from inference_server.engine.qwen.loading import Weights, exact_in_bfloat16, load_weights
from inference_server.engine.qwen.model import new_model
from inference_server.engine.qwen.sampling import Draw
from inference_server.engine.qwen.shape import Shape, corrupt, read_shape
from inference_server.engine.qwen.thinking import Course, limits, opens_thinking
from inference_server.engine.qwen.writer import Writer
from inference_server.telemetry.logs import configure_logging
from inference_server.termination import ExitCode, StartupError
from inference_server.triage.prompt import with_system_prompt

if TYPE_CHECKING:
    from inference_server.engine.qwen.text import Text

logger = logging.getLogger(__name__)

# A prompt must leave room for this many tokens, or for its own limit if that is lower.
_LEAST_ROOM = 128
# Tokens that the engine puts in beyond a limit, at worst.
_SLACK_TOKENS = 64
_TRIAL_TOKENS = 12
_TRIAL_SECONDS = 5.0
_REPORT_SECONDS = 0.5


class Worker:
    """A loaded model with its batch."""

    def __init__(self, config: wire.EngineConfig, progress: Callable[[float], None]) -> None:
        folder = Path(config.model_path)
        shape = read_shape(folder)
        as_stored = exact_in_bfloat16(folder)
        choice = _choose(config, shape, stored_bytes=2 if as_stored else 4)
        device, dtype = torch.device(choice.device), getattr(torch, choice.dtype)
        packed = packs(dtype, device)
        if packed:
            # What is left for torch is too little to share, and its threads would get into the way of the kernels'.
            torch.set_num_threads(1)
            choice = replace(choice, threads=kernels.set_threads(choice.threads))
        else:
            torch.set_num_threads(choice.threads)
        self._config = config
        self._progress = progress
        self._context = min(config.context_tokens, shape.context_tokens)
        self._vocabulary = shape.vocabulary
        storage = _storage(choice, halved=as_stored and packed)
        self._text, weights = _read_both(
            partial(_read_text, folder, config.do_sample, shape.vocabulary),
            partial(load_weights, folder, shape, dtype=dtype, device=device, storage=storage),
            progress,
        )
        self._draw = _drawn(config, self._text.advised)
        tokens = self._context + _SLACK_TOKENS
        cache = Cache(shape, slots=choice.concurrent_requests, tokens=tokens, dtype=dtype, device=device)
        self._model = new_model(shape, weights, cache, dtype=dtype, device=device)
        self.batch = Batch(self._model, piece_tokens=choice.piece_tokens)
        self.info = self._info(choice, storage)

    def _info(self, choice: Choice, storage: Storage) -> EngineInfo:
        return EngineInfo(
            mode="qwen",
            model=self._config.model,
            revision=self._config.revision,
            engine="transformers",
            device=choice.device,
            dtype=choice.dtype,
            quantization=None if storage == "dense" else storage,
            threads=choice.threads,
            context_tokens=self._context,
            concurrent_requests=choice.concurrent_requests,
            thinks=self._text.thinks,
            unheeded_advice=self._text.unheeded_advice,
        )

    def warm_up(self) -> EngineInfo:
        """Compute the common beginning of prompts, and measure how fast one answer alone is."""
        beginning = self._text.common_beginning(self._config.system_prompt)
        if len(beginning) >= self._context - _LEAST_ROOM:
            raise _too_long(len(beginning), self._context)
        self.batch.keep_beginning(beginning, progressed=partial(self._progress, 1.0))
        self._model.advance([0], [0], [0])
        began, count = time.perf_counter(), 0
        while count < _TRIAL_TOKENS and time.perf_counter() - began < _TRIAL_SECONDS:
            # Reading a result waits for a GPU.
            self._model.advance([0], [count], [0]).argmax().item()
            count += 1
        self.info = replace(self.info, predicted_tokens_per_second=count / (time.perf_counter() - began))
        return self.info

    def submit(self, number: int, request: GenerationRequest) -> wire.Taken | wire.TooLong:
        prompt = self._text.encode(with_system_prompt(self._config.system_prompt, request.messages))
        if max(prompt) >= self._vocabulary:
            # Of this request only: in a step with others it would end theirs, too.
            raise IndexError("a token that the model does not know")
        wanted = request.sampling.max_new_tokens or self._config.max_new_tokens
        limit = self._context - min(wanted, _LEAST_ROOM)
        if len(prompt) > limit:
            return wire.TooLong(number, len(prompt), limit)
        tokens = min(wanted, self._context - len(prompt))
        self.batch.add(self._answer(number, request, prompt, tokens))
        return wire.Taken(number, len(prompt), tokens)

    def _answer(self, number: int, request: GenerationRequest, prompt: list[int], tokens: int) -> Answer:
        sampling, marks = request.sampling, self._text.marks
        budget = self._config.thinking_budget if sampling.thinking_budget is None else sampling.thinking_budget
        shares = limits(marks, tokens=tokens, budget=budget)
        return Answer(
            id=number,
            pending=prompt,
            deadline=None if request.deadline_seconds is None else time.monotonic() + request.deadline_seconds,
            course=Course(marks, shares, thinking=opens_thinking(marks, prompt)),
            draw=_drawn(sampling, self._draw),
            random=random.Random(sampling.seed),  # noqa: S311 - it draws words
            reasoning=Writer(self._text.decode) if request.include_reasoning else None,
            answer=Writer(self._text.decode, sampling.stop),
        )


class Inbox:
    """Commands from the host, read by a thread of its own. The end of the pipe is the end of the host."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._commands: queue.SimpleQueue[wire.Command] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> wire.Command:
        return self._commands.get()

    def waiting(self) -> list[wire.Command]:
        return [self._commands.get() for _ in range(self._commands.qsize())]

    def _read(self) -> None:
        while header := self._pipe.read(wire.HEADER_BYTES):
            self._commands.put(wire.parse_command(self._pipe.read(wire.body_bytes(header))))
        os._exit(0)


class Outbox:
    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe

    def send(self, report: wire.Report) -> None:
        try:
            self._pipe.write(wire.frame_report(report))
            self._pipe.flush()
        except BrokenPipeError:
            os._exit(0)


class ProgressReports:
    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._last = 0.0

    def report(self, share: float) -> None:
        if time.monotonic() - self._last >= _REPORT_SECONDS:
            self._last = time.monotonic()
            self._outbox.send(wire.Progress(share))


def serve(worker: Worker, inbox: Inbox, outbox: Outbox) -> None:
    """The loop. Ends with the process."""
    while True:
        for command in inbox.waiting() if worker.batch.busy else [inbox.next(), *inbox.waiting()]:
            _obey(worker, command, outbox)
        if worker.batch.busy:
            _step(worker, outbox)


def _obey(worker: Worker, command: wire.Command, outbox: Outbox) -> None:
    match command:
        case wire.Submit(id=number, request=request):
            try:
                outbox.send(worker.submit(number, request))
            except Exception as error:  # Of the tokenizer or the template: it concerns this request only.
                outbox.send(_failed(number, error))
        case wire.Cancel(id=number):
            worker.batch.cancel(number)
        case wire.WarmUp():
            try:
                outbox.send(wire.Loaded(worker.warm_up()))
            except StartupError as error:
                outbox.send(_load_failed(error))
        case wire.Load():
            raise RuntimeError("the model is loaded already")


def _step(worker: Worker, outbox: Outbox) -> None:
    outcome = worker.batch.step(time.monotonic())
    for number, error in outcome.failures:
        outbox.send(_failed(number, error))
    outbox.send(wire.Stepped(tuple(outcome.pieces), worker.batch.stats(time.monotonic()), tuple(outcome.started)))
    if any(isinstance(error, torch.AcceleratorError) for _, error in outcome.failures):
        # After one error of the device every further call fails: only a new process helps.
        os._exit(1)


def _read_both(
    read_text: Callable[[], "Text"], read_weights: Callable[..., Weights], progress: Callable[[float], None]
) -> tuple["Text", Weights]:
    """At the same time; what is wrong with the text is said before all of the weights are read."""
    with ThreadPoolExecutor(1) as aside:
        text = aside.submit(read_text)

        def report(share: float) -> None:
            if text.done():
                text.result()
            progress(share)

        weights = read_weights(progress=report)
        return text.result(), weights


def _read_text(folder: Path, do_sample: bool | None, vocabulary: int) -> "Text":
    # Imported here: transformers takes seconds, in which the weights are read.
    from inference_server.engine.qwen.text import Text

    text = Text(folder, do_sample=do_sample)
    if max(text.marks.closing_words, default=0) >= vocabulary:
        raise corrupt("the tokenizer has tokens that the model does not know")
    return text


def _drawn(wish: Sampling | wire.EngineConfig, otherwise: Draw) -> Draw:
    return Draw(
        temperature=otherwise.temperature if wish.temperature is None else wish.temperature,
        top_p=otherwise.top_p if wish.top_p is None else wish.top_p,
        top_k=otherwise.top_k if wish.top_k is None else wish.top_k,
    )


def _load_failed(error: StartupError) -> wire.LoadFailed:
    return wire.LoadFailed(error.reason, error.message, error.remedy, error.exit_code)


def _too_long(tokens: int, context: int) -> StartupError:
    return StartupError(
        "SystemPromptTooLong",
        f"The system prompt has {tokens} tokens; fewer than {context - _LEAST_ROOM} leave room for a question "
        f"and an answer among the {context} tokens of a conversation.",
        "Shorten SYSTEM_PROMPT, raise MAX_CONTEXT_TOKENS as far as the model allows, or choose another model.",
        ExitCode.CONFIG,
    )


def _failed(number: int, error: Exception) -> wire.Failed:
    logger.error("generation_failed", exc_info=error)
    return wire.Failed(number, type(error).__name__)


def _storage(choice: Choice, *, halved: bool) -> Storage:
    if choice.quantization == "int8":
        return "int8"
    return "bfloat16" if halved else "dense"


def _choose(config: wire.EngineConfig, shape: Shape, *, stored_bytes: int) -> Choice:
    gpu = torch.cuda.get_device_capability() if config.device != "cpu" and torch.cuda.is_available() else None
    return choose(
        read_machine(gpu=gpu),
        parameters=shape.parameters,
        stored_bytes=stored_bytes,
        answer_numbers=shape.token_numbers * min(config.context_tokens, shape.context_tokens),
        device=config.device,
        dtype=config.dtype,
        quantization=config.quantization,
        threads=config.threads,
        concurrent_requests=config.concurrent_requests,
        piece_tokens=config.piece_tokens,
    )


def main() -> int:
    """Entry point."""
    # Who stops all processes of a service at once stops the server, which lets this one finish: it ends with its pipe.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Also for uncaught exceptions: their messages may quote a patient.
    configure_logging("WARNING", sys.stderr)
    # What a library prints must not get between the reports.
    outbox = Outbox(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    inbox = Inbox(sys.stdin.buffer)
    first = inbox.next()
    assert isinstance(first, wire.Load)
    try:
        worker = Worker(first.config, ProgressReports(outbox).report)
    except StartupError as error:
        outbox.send(_load_failed(error))
        return 0
    outbox.send(wire.Loaded(worker.info))
    serve(worker, inbox, outbox)
    return 0


if __name__ == "__main__":
    sys.exit(main())
