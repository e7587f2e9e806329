"""The engine as the server sees it, with its real child process."""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference_server.engine.answer import Answer, collect
from inference_server.engine.protocol import (
    Accepted,
    EngineBusy,
    EngineUnavailable,
    Event,
    Finished,
    GenerationFailed,
    GenerationRequest,
    Message,
    PromptTooLong,
    ReasoningDelta,
    Sampling,
)
from inference_server.engine.qwen.host import QwenEngine
from inference_server.engine.qwen.wire import EngineConfig
from inference_server.termination import ExitCode, StartupError
from tests.unit.engine.checkpoints import PLAIN_TEMPLATE, a_model, a_tokenizer
from tests.unit.engine.conftest import POISON

LONG = Sampling(max_new_tokens=1500, temperature=0)


def a_request(
    text: str = "hello", sampling: Sampling | None = None, *, system: str = "", **over: Any
) -> GenerationRequest:
    messages = (Message("user", text),)
    if system:
        messages = (Message("system", system), *messages)
    return GenerationRequest("r", messages, sampling or Sampling(max_new_tokens=40), **over)


def config(folder: Path, **over: Any) -> EngineConfig:
    # Named: what else is computed differs from machine to machine, and a seed promises the same answer in float32 only.
    formats = {"device": "cpu", "dtype": "float32", "quantization": "none"}
    settings = formats | {"threads": 1, "concurrent_requests": 2, "system_prompt": "Help."} | over
    return EngineConfig(str(folder), "tiny/model", "0" * 40, **settings)


@asynccontextmanager
async def an_engine(folder: Path, **over: Any) -> AsyncIterator[QwenEngine]:
    engine = QwenEngine(config(folder, **over), queued_requests=1)
    try:
        await engine.load()
        await engine.warm_up()
        yield engine
    finally:
        await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(thinking_model: Path) -> AsyncIterator[QwenEngine]:
    async with an_engine(thinking_model) as engine:
        yield engine


async def test_a_system_prompt_that_leaves_no_room_is_refused(thinking_model: Path) -> None:
    with pytest.raises(StartupError) as caught:
        async with an_engine(thinking_model, system_prompt="x" * 2000):
            pass
    assert (caught.value.reason, caught.value.exit_code) == ("SystemPromptTooLong", ExitCode.CONFIG)


@asynccontextmanager
async def three_taken(engine: QwenEngine) -> AsyncIterator[list[AsyncGenerator[Event, None]]]:
    """Long answers: two that run and one that waits."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(aclosing(engine.submit(a_request(sampling=LONG)))) for _ in range(3)]
        for client in clients:
            assert await anext(client) == Accepted()
        yield clients


def workers_of(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in children.read_text().split()]
    return [child for child in found if "qwen.worker" in command_of(child)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.01)


@pytest.mark.asyncio(loop_scope="module")
async def test_it_says_what_it_is(engine: QwenEngine) -> None:
    info = engine.info
    assert (info.mode, info.model, info.device, info.dtype, info.thinks) == (
        "qwen",
        "tiny/model",
        "cpu",
        "float32",
        True,
    )
    assert (info.concurrent_requests, info.context_tokens, info.threads) == (2, 2048, 1)
    assert info.predicted_tokens_per_second
    assert engine.load_progress() == 1
    assert engine.heartbeat() == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_an_endless_reasoning_is_closed_and_an_answer_given(engine: QwenEngine) -> None:
    answer = await collect(engine, a_request(sampling=Sampling(max_new_tokens=512, seed=1)))
    assert answer.text
    assert answer.reasoning == ""
    assert answer.thinking_truncated
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 512
    assert 0 < answer.usage.reasoning_tokens < answer.usage.completion_tokens


@pytest.mark.asyncio(loop_scope="module")
async def test_the_reasoning_comes_on_request(engine: QwenEngine) -> None:
    sampling = Sampling(max_new_tokens=60, thinking_budget=10, temperature=0)
    shown = await collect(engine, a_request(sampling=sampling, include_reasoning=True))
    hidden = await collect(engine, a_request(sampling=sampling))
    assert shown.reasoning
    assert (shown.text, shown.usage) == (hidden.text, hidden.usage)
    assert shown.usage is not None
    assert shown.usage.reasoning_tokens <= 11


@pytest.mark.asyncio(loop_scope="module")
async def test_a_seed_repeats_an_answer_and_none_does_not(engine: QwenEngine) -> None:
    seeded, free = Sampling(max_new_tokens=40, seed=7, temperature=2), Sampling(max_new_tokens=40, temperature=2)
    answers = await asyncio.gather(*(collect(engine, a_request(sampling=one)) for one in (seeded, free)))
    again = await collect(engine, a_request(sampling=seeded))
    assert answers[0] == again
    assert answers[1] != again


@pytest.mark.asyncio(loop_scope="module")
async def test_the_settings_say_how_it_draws_unless_the_request_does(engine: QwenEngine, thinking_model: Path) -> None:
    said = Sampling(max_new_tokens=40, thinking_budget=3, seed=7)
    advised, drawn, greedy = [
        (await collect(engine, a_request(sampling=replace(said, **over))))
        for over in ({}, {"temperature": 2, "top_p": 1, "top_k": 0}, {"temperature": 0})
    ]
    assert len({advised.text, drawn.text, greedy.text}) == 3
    settings = {"max_new_tokens": 40, "thinking_budget": 3, "top_p": 1, "top_k": 0}
    async with an_engine(thinking_model, **settings, temperature=2) as other:
        assert await collect(other, a_request(sampling=Sampling(seed=7))) == drawn
        assert await collect(other, a_request(sampling=Sampling(seed=7, temperature=0))) == greedy
    async with an_engine(thinking_model, **settings, do_sample=False) as other:
        assert await collect(other, a_request(sampling=Sampling(seed=7))) == greedy
        assert await collect(other, a_request(sampling=Sampling(seed=7, temperature=2))) == drawn


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_patient_writes_is_no_end_of_a_turn(engine: QwenEngine) -> None:
    plain, marked = [
        await collect(engine, a_request(text, Sampling(max_new_tokens=2))) for text in ("x" * 10, "<|im_end|>")
    ]
    assert plain.usage is not None
    assert plain.usage == marked.usage


@pytest.mark.asyncio(loop_scope="module")
async def test_a_system_message_replaces_the_usual_one(engine: QwenEngine) -> None:
    usual, own = [
        await collect(engine, a_request(system=system, sampling=Sampling(max_new_tokens=2)))
        for system in ("", "A much longer instruction.")
    ]
    assert usual.usage is not None
    assert own.usage is not None
    assert own.usage.prompt_tokens - usual.usage.prompt_tokens == len("A much longer instruction.") - len("Help.")


@pytest.mark.asyncio(loop_scope="module")
async def test_common_beginnings_are_computed_once(engine: QwenEngine) -> None:
    before = engine.stats()
    await collect(engine, a_request("abc", Sampling(max_new_tokens=2)))
    after = engine.stats()
    assert after.prompt_tokens - before.prompt_tokens > after.cached_prompt_tokens - before.cached_prompt_tokens > 20


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stop_text_ends_the_answer_before_it(engine: QwenEngine) -> None:
    sampling = Sampling(max_new_tokens=80, thinking_budget=0, temperature=0)
    whole = await collect(engine, a_request(sampling=sampling))
    stop = next(letter for letter in whole.text[3:] if letter.isascii() and letter not in whole.text[:3])
    cut = await collect(engine, a_request(sampling=replace(sampling, stop=(stop,))))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_prompt_over_the_limit_is_refused_with_the_numbers(engine: QwenEngine) -> None:
    with pytest.raises(PromptTooLong) as caught:
        await collect(engine, a_request("x" * 3000))
    assert caught.value.tokens > 3000 > 2048 > caught.value.limit


@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_ends_at_its_deadline(engine: QwenEngine) -> None:
    answer = await collect(engine, a_request(sampling=LONG, deadline_seconds=0.2))
    assert answer.finish_reason == "deadline"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < 1500


@pytest.mark.asyncio(loop_scope="module")
async def test_a_full_queue_refuses_and_a_client_that_leaves_makes_room(engine: QwenEngine) -> None:
    async with three_taken(engine) as clients:
        with pytest.raises(EngineBusy) as caught:
            await collect(engine, a_request())
        assert 1 <= caught.value.retry_after_seconds <= 600
        await clients[0].aclose()
        with pytest.raises(EngineBusy):
            # There is room again, but not in time.
            await collect(engine, a_request(deadline_seconds=1e-9))
        await clients[1].aclose()
        assert (await collect(engine, a_request())).text
    await until(lambda: engine.stats().active_requests <= 1)
    assert engine.heartbeat() == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_when_all_leave_at_once_nobody_waits_any_more(engine: QwenEngine) -> None:
    async with three_taken(engine):
        await until(lambda: engine.stats().queued_requests == 1)
    # Whatever the worker said last, and says of the step in which they left.
    for _ in range(20):
        stats = engine.stats()
        assert (stats.active_requests, stats.queued_requests, stats.tokens_per_second) == (0, 0, 0)
        await asyncio.sleep(0.01)


async def test_a_stuck_worker_shows_also_when_its_clients_give_up_one_by_one(thinking_model: Path) -> None:
    async with an_engine(thinking_model) as engine:
        worker = workers_of(os.getpid())[-1]
        os.kill(worker, signal.SIGSTOP)
        before = 0.0
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await collect(engine, a_request())
            assert engine.heartbeat() > before + 0.1
            before = engine.heartbeat()
        os.kill(worker, signal.SIGCONT)
        await until(lambda: engine.heartbeat() == 0)


async def test_signals_for_all_processes_leave_the_worker_to_finish(thinking_model: Path) -> None:
    async with an_engine(thinking_model) as engine:
        worker = workers_of(os.getpid())[-1]
        assert os.getpgid(worker) != os.getpgid(0), "a terminal's Ctrl+C does not reach it"
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, number)
        assert (await collect(engine, a_request())).usage is not None
        assert engine.heartbeat() == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_one_failure_leaves_the_others_and_a_death_ends_all(
    poisoned_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with an_engine(poisoned_model) as engine:
        assert not engine.info.thinks
        fine = asyncio.create_task(collect(engine, a_request("secret", Sampling(max_new_tokens=300, temperature=0))))
        with pytest.raises(GenerationFailed) as caught:
            await collect(engine, a_request(f"secret {POISON}"))
        assert "secret" not in str(caught.value)
        answer = await fine
        assert isinstance(answer, Answer)
        assert not answer.thinking_truncated
        assert engine.stats().failed_requests == 1

        running = asyncio.create_task(collect(engine, a_request(sampling=LONG)))
        await until(lambda: engine.stats().active_requests == 1)
        os.kill(workers_of(os.getpid())[-1], signal.SIGKILL)
        with pytest.raises(GenerationFailed):
            await running
        assert engine.heartbeat() == math.inf
        with pytest.raises(EngineUnavailable):
            await collect(engine, a_request())
    printed = capfd.readouterr()
    assert "secret" not in printed.out + printed.err


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stuck_worker_shows_and_an_abort_ends_what_runs(thinking_model: Path) -> None:
    async with an_engine(thinking_model, quantization="int8") as engine:
        assert engine.info.quantization == "int8"
        worker = workers_of(os.getpid())[-1]
        async with aclosing(engine.submit(a_request(sampling=LONG, include_reasoning=True))) as events:
            while not isinstance(await anext(events), ReasoningDelta):
                pass
            os.kill(worker, signal.SIGSTOP)
            await until(lambda: engine.heartbeat() > 0.3)
            os.kill(worker, signal.SIGCONT)
            await until(lambda: engine.heartbeat() < 0.3)
            # Again, so that the answer cannot come to its end meanwhile.
            os.kill(worker, signal.SIGSTOP)
            draining = asyncio.create_task(engine.drain())
            await asyncio.sleep(0)
            with pytest.raises(EngineUnavailable):
                await collect(engine, a_request())
            engine.abort()
            last = [event async for event in events][-1]
            assert isinstance(last, Finished)
            assert last.reason == "shutdown"
            os.kill(worker, signal.SIGCONT)
        await draining
    await engine.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_token_that_the_model_does_not_know_fails_its_own_request(tmp_path: Path) -> None:
    folder = a_model(tmp_path, thinks=False)
    tokenizer = a_tokenizer(thinks=False)
    # The model has five tokens more than the tokenizer had.
    tokenizer.add_tokens([f"unknown{number}" for number in range(6)])
    tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.save_pretrained(folder)
    async with an_engine(folder) as engine:
        fine = asyncio.create_task(collect(engine, a_request("unknown4", Sampling(max_new_tokens=300, temperature=0))))
        with pytest.raises(GenerationFailed):
            await collect(engine, a_request("and unknown5"))
        assert (await fine).usage is not None


@pytest.mark.asyncio(loop_scope="module")
async def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = a_model(tmp_path, vocab_size=len(a_tokenizer()) - 1)
    with pytest.raises(StartupError) as caught:
        async with an_engine(folder):
            pass
    assert caught.value.reason == "ModelCorrupt"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_model_that_cannot_run_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(StartupError) as caught:
        async with an_engine(tmp_path):
            pass
    assert (caught.value.reason, caught.value.exit_code) == ("ModelNotSupported", 78)


def test_the_worker_dies_with_its_parent(thinking_model: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LOADS, thinking_model], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"loaded\n"
        (worker,) = workers_of(parent.pid)
        parent.kill()
    end = time.monotonic() + 30
    while "qwen.worker" in command_of(worker):
        assert time.monotonic() < end
        time.sleep(0.01)


LOADS = """
import asyncio, sys
from inference_server.engine.qwen.host import QwenEngine
from inference_server.engine.qwen.wire import EngineConfig

async def main():
    await QwenEngine(EngineConfig(sys.argv[1], "m"), queued_requests=1).load()
    print("loaded", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
