"""Streams of /triage and of /v1: what is said, and what happens when somebody leaves or the server must stop."""

import asyncio
import json
import math

import pytest

from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import EngineBusy, EngineUnavailable, GenerationFailed, PromptTooLong
from tests.unit.server.engines import (
    CountingEngine,
    CrashingEngine,
    FailingEngine,
    HangingEngine,
    RefusingEngine,
    SlowEngine,
    ThinkingEngine,
)
from tests.unit.server.running import QUESTION, RawRequest, an_app, events_of, until

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "What are my current medications?"}]}
BODIES = {"/triage": QUESTION, "/v1/chat/completions": CHAT}
PATHS = pytest.mark.parametrize("path", BODIES)
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def ended(text: str) -> str:
    """How a stream says that it ended."""
    for name, data in reversed(events_of(text)):
        if name in {"done", "error"}:
            return str(data.get("finish_reason") or data["reason"])
        if data != "[DONE]" and ("llm_server" in data or "error" in data):
            return str(data["llm_server"]["finish_reason"] if "llm_server" in data else data["error"]["code"])
    return "cut"


async def test_a_stream_has_the_text_and_the_end_of_the_whole_answer() -> None:
    async with an_app() as app:
        whole = (await app.client.post("/triage", json=QUESTION)).json()
        answer = await app.client.post("/triage", json={**QUESTION, "stream": True})
    *deltas, (last, end) = events_of(answer.text)
    assert {name for name, _ in deltas} == {"delta"}
    assert "".join(data["text"] for _, data in deltas) == whole.pop("response")
    assert (last, end.pop("request_id")) == ("done", answer.headers["x-request-id"])
    del whole["request_id"]
    assert end == whole
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")


@pytest.mark.parametrize("asked", [False, True])
async def test_reasoning_is_sent_only_to_who_asks_for_it(asked: bool) -> None:
    body = {**QUESTION, "include_reasoning": asked}
    async with an_app(CountingEngine()) as app:
        whole = (await app.client.post("/triage", json=body)).json()
        stream = events_of((await app.client.post("/triage", json={**body, "stream": True})).text)
    assert whole.get("reasoning") == ("Thirsty?" if asked else None)
    assert ("reasoning" in whole) == asked
    assert [data["text"] for name, data in stream if name == "reasoning"] == (["Thirsty?"] if asked else [])
    assert stream[-1][1]["usage"]["reasoning_tokens"] == 1


@PATHS
@STREAM
@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        pytest.param(EngineBusy(7.2), 429, "QueueFull rate_limit_exceeded", "8", id="busy"),
        pytest.param(EngineBusy(0.0), 429, "QueueFull rate_limit_exceeded", "1", id="busy for a moment"),
        pytest.param(EngineBusy(math.inf), 429, "QueueFull rate_limit_exceeded", "3600", id="busy for ever"),
        pytest.param(EngineUnavailable("gone"), 503, "NotReady not_ready", "2", id="unavailable"),
        pytest.param(PromptTooLong(5000, 4096), 422, "PromptTooLong context_length_exceeded", None, id="too long"),
        pytest.param(GenerationFailed("x"), 500, "GenerationFailed generation_failed", None, id="failed at once"),
    ],
)
async def test_a_refusal_has_its_own_status_in_streams_too(
    path: str, stream: bool, error: Exception, status: int, code: str, retry: str | None
) -> None:
    async with an_app(RefusingEngine(error)) as app:
        answer = await app.client.post(path, json={**BODIES[path], "stream": stream})
    body = answer.json()
    ours, openais = code.split()
    assert answer.headers.get("retry-after") == retry
    if path == "/triage":
        assert (answer.status_code, body["reason"]) == (status, ours)
    else:
        assert (answer.status_code, body["error"]["code"]) == (400 if status == 422 else status, openais)
    if isinstance(error, EngineUnavailable):
        assert "its engine has ended" in answer.text
    if isinstance(error, PromptTooLong):
        assert all(number in answer.text for number in ("5000", "4096"))


@PATHS
@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        pytest.param(FailingEngine, {"GenerationFailed", "generation_failed"}, id="foreseen"),
        pytest.param(CrashingEngine, {"InternalError", "internal_error"}, id="unforeseen"),
    ],
)
async def test_a_failure_in_the_middle_is_the_last_event_and_harms_nobody_else(
    path: str, engine: type[MockEngine], reason: set[str]
) -> None:
    async with an_app(engine()) as app:
        answer = await app.client.post(path, json={**BODIES[path], "stream": True})
        assert (await app.client.get("/readyz")).status_code == 200
    assert answer.status_code == 200
    assert ended(answer.text) in reason
    assert "[DONE]" not in answer.text


@PATHS
async def test_a_silent_stream_sends_comments(path: str) -> None:
    engine = ThinkingEngine()
    async with an_app(engine, stream_ping_seconds=0.01) as app:
        request = RawRequest(app.asgi, path, {**BODIES[path], "stream": True})
        await until(lambda: request.received.count(b": still working\n\n") > 2)
        engine.release.set()
        await request.task
    assert ended(request.received.decode()) == "stop"


@PATHS
@STREAM
async def test_a_client_that_leaves_ends_its_request(path: str, stream: bool) -> None:
    engine = SlowEngine()
    async with an_app(engine) as app:
        request = RawRequest(app.asgi, path, {**BODIES[path], "stream": stream})
        await until(lambda: engine.running == 1 and (bool(request.received) or not stream))
        request.left.set()
        await request.task
        assert (engine.running, engine.cancelled) == (0, 1)
        metrics = (await app.client.get("/metrics")).text
    assert 'llm_server_generations_total{outcome="cancelled"} 1.0' in metrics
    assert f'code="499",method="POST",route="{path}"' in metrics
    assert not app.lifecycle.useless


@PATHS
@pytest.mark.parametrize("accepts", [False, True])
@STREAM
async def test_nobody_waits_for_ever_for_an_engine_that_is_stuck(path: str, stream: bool, accepts: bool) -> None:
    async with an_app(
        HangingEngine(accepts=accepts), request_timeout_seconds=0.05, engine_patience_seconds=0.05
    ) as app:
        answer = await app.client.post(path, json={**BODIES[path], "stream": stream})
        metrics = (await app.client.get("/metrics")).text
    assert answer.status_code == (200 if stream and accepts else 503)
    assert "EngineStalled" in answer.text or "engine_stalled" in answer.text
    assert 'llm_server_generations_total{outcome="failed"} 1.0' in metrics


@PATHS
async def test_a_client_that_reads_slowly_still_gets_what_the_engine_has(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_server.tracked_engine._READER_SECONDS", 0.01)
    soon = {"request_timeout_seconds": 0.01, "engine_patience_seconds": 0.01}
    async with an_app(MockEngine(), **soon) as app:
        request = RawRequest(app.asgi, path, {**BODIES[path], "stream": True})
        request.reading.clear()
        await asyncio.sleep(0.2)
        request.reading.set()
        await request.task
    assert ended(request.received.decode()) == "stop"


@PATHS
async def test_a_client_that_stops_reading_loses_its_place(path: str) -> None:
    engine = SlowEngine()
    async with an_app(
        engine, request_timeout_seconds=0.05, engine_patience_seconds=0, stream_patience_seconds=0.05
    ) as app:
        request = RawRequest(app.asgi, path, {**BODIES[path], "stream": True})
        await until(lambda: engine.running == 1)
        request.reading.clear()
        await request.task
        assert engine.running == 0


@PATHS
async def test_a_storm_of_clients_that_leave_leaves_nothing_behind(path: str) -> None:
    engine = SlowEngine()
    async with an_app(engine) as app:
        requests = [RawRequest(app.asgi, path, {**BODIES[path], "stream": turn % 2 == 0}) for turn in range(300)]
        # Some leave before they are even read, some in the middle.
        for request in requests[:50]:
            request.left.set()
        await until(lambda: engine.running >= 200)
        for request in requests:
            request.left.set()
        for request in requests:
            await request.task
        assert engine.running == 0
        assert not app.lifecycle.useless
        assert "llm_server_http_requests_in_flight 1.0" in (await app.client.get("/metrics")).text


@PATHS
@STREAM
async def test_an_answer_is_cut_at_its_deadline(path: str, stream: bool) -> None:
    body = {**BODIES[path], "stream": stream, "timeout_seconds": 0.5}
    async with an_app(SlowEngine()) as app:
        answer = await app.client.post(path, json=body)
    assert answer.status_code == 200
    assert "word" in answer.text
    assert "deadline" in answer.text


async def test_a_request_cannot_ask_for_more_time_than_the_setting() -> None:
    engine = CountingEngine()
    async with an_app(engine, request_timeout_seconds=30) as app:
        for asked in ({}, {"timeout_seconds": 5}, {"timeout_seconds": 3600}):
            await app.client.post("/triage", json={**QUESTION, **asked})
    assert [request.deadline_seconds for request in engine.seen[-3:]] == [30, 5, 30]


@PATHS
@STREAM
async def test_at_the_end_of_a_drain_an_answer_is_cut_and_says_so(path: str, stream: bool) -> None:
    engine = SlowEngine()
    async with an_app(engine) as app:
        request = RawRequest(app.asgi, path, {**BODIES[path], "stream": stream})
        await until(lambda: engine.running == 1)
        app.lifecycle.begin_drain()
        app.lifecycle.abort()
        await request.task
        refused = await app.client.post(path, json=BODIES[path])
    text = request.received.decode()
    assert (request.status, refused.status_code) == (200, 503)
    assert "word" in text
    assert (ended(text) if stream else find_reason(json.loads(text))) == "shutdown"


@PATHS
async def test_an_answer_of_nothing_is_an_error_when_the_server_must_stop(path: str) -> None:
    engine = SlowEngine(silent=True)
    async with an_app(engine) as app:
        request = RawRequest(app.asgi, path, {**BODIES[path], "stream": True})
        whole = RawRequest(app.asgi, path, BODIES[path])
        await until(lambda: engine.running == 2 and request.status == 200)
        app.lifecycle.begin_drain()
        app.lifecycle.abort()
        await request.task
        await whole.task
    text = request.received.decode()
    assert "The server had to stop" in text
    assert '"finish_reason":"' not in text
    assert whole.status == 503


@PATHS
@STREAM
async def test_an_engine_that_does_not_end_an_answer_is_given_up(path: str, stream: bool) -> None:
    engine = ThinkingEngine()
    async with an_app(engine) as app:
        request = RawRequest(app.asgi, path, {**BODIES[path], "stream": stream})
        await until(lambda: len(app.lifecycle.useless) == 1 and (request.status == 200 or not stream))
        app.lifecycle.abort()
        app.lifecycle.give_up()
        await request.task
    assert request.status == (200 if stream else 503)
    text = request.received.decode()
    assert "ShuttingDown" in text or "shutting_down" in text


def find_reason(answer: dict[str, object]) -> object:
    details = answer.get("llm_server", answer)
    assert isinstance(details, dict)
    return details["finish_reason"]
