import asyncio
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference_server.engine.protocol import EngineBusy, EngineUnavailable, PromptTooLong
from tests.unit.server.engines import (
    BlockedEngine,
    CountingEngine,
    FailingEngine,
    RefusingEngine,
    StuckEngine,
    ThinkingEngine,
)
from tests.unit.server.running import QUESTION, App, an_app, until


async def samples(app: App) -> dict[tuple[str, ...], float]:
    """{(name, label values in the order of their names…): value}"""
    text = (await app.client.get("/metrics")).text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_method_and_code() -> None:
    async with an_app() as app:
        await app.client.post("/triage", json=QUESTION)
        await app.client.post("/triage", json={})
        await app.client.get("/triage")
        await app.client.request("BREW", "/triage")
        await app.client.get("/secret/path")
        await app.client.get("/other/path")
        found = await samples(app)
    counted = {key[1:]: value for key, value in found.items() if key[0] == "llm_server_http_requests_total"}
    assert counted == {
        ("200", "POST", "/triage"): 1,
        ("422", "POST", "/triage"): 1,
        ("405", "GET", "/triage"): 1,
        ("405", "OTHER", "/triage"): 1,
        ("404", "GET", "(unmatched)"): 2,
    }
    assert found[("llm_server_http_request_duration_seconds_count", "/triage")] == 4


async def test_the_engine_and_the_build_are_named() -> None:
    async with an_app(CountingEngine()) as app:
        found = await samples(app)
    assert found[("llm_server_engine_info", "", "", "mock", "qwen", "Qwen/Qwen3-4B-Thinking-2507", "", "0123abc")] == 1
    assert [key[0] for key in found].count("llm_server_build_info") == 1
    assert found[("process_resident_memory_bytes",)] > 0


async def test_running_requests_and_readiness_are_gauges() -> None:
    engine = BlockedEngine()
    async with an_app(engine) as app:
        asking = asyncio.create_task(app.client.post("/triage", json=QUESTION))
        await until(lambda: engine.stats().active_requests == 1)
        busy = await samples(app)
        engine.release.set()
        await asking
        app.lifecycle.begin_drain()
        idle = await samples(app)
    names = ("llm_server_engine_active_requests", "llm_server_ready", "llm_server_http_requests_in_flight")
    assert [busy[(name,)] for name in names] == [1, 1, 2]
    assert [idle[(name,)] for name in names] == [0, 0, 1]


MODEL = ("chat", "llm_server", "Qwen/Qwen3-4B-Thinking-2507")


async def test_answers_are_counted_by_how_they_end_and_what_they_cost() -> None:
    async with an_app(CountingEngine()) as app:
        await app.client.post("/triage", json=QUESTION)
        await app.client.post("/triage", json={**QUESTION, "stream": True})
        found = await samples(app)
    assert found[("llm_server_generations_total", "length")] == 2
    assert found[("gen_ai_server_request_duration_seconds_count", "", *MODEL)] == 2
    assert found[("gen_ai_server_time_to_first_token_seconds_count", *MODEL)] == 2
    assert found[("gen_ai_server_time_per_output_token_seconds_count", *MODEL)] == 2
    assert found[("llm_server_longest_pause_seconds_count",)] == 2
    assert found[("gen_ai_client_token_usage_sum", *MODEL, "input")] == 24
    assert found[("gen_ai_client_token_usage_sum", *MODEL, "output")] == 6


async def test_what_only_the_engine_knows_is_taken_from_it() -> None:
    engine = ThinkingEngine()
    engine.release.set()
    async with an_app(engine) as app:
        await app.client.post("/triage", json=QUESTION)
        found = await samples(app)
    assert found[("llm_server_queue_seconds_sum",)] == 0.5
    assert found[("gen_ai_server_time_to_first_token_seconds_sum", "chat", "llm_server", "mock")] == 0.75
    assert found[("llm_server_thinking_truncated_total",)] == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineBusy(1), "queue_full"),
        (EngineUnavailable("x"), "unavailable"),
        (PromptTooLong(2, 1), "prompt_too_long"),
    ],
)
async def test_refusals_are_counted_by_reason_and_are_no_answers(error: Exception, reason: str) -> None:
    async with an_app(RefusingEngine(error)) as app:
        await app.client.post("/triage", json=QUESTION)
        found = await samples(app)
    assert found[("llm_server_rejected_total", reason)] == 1
    assert not [key for key in found if key[0] == "llm_server_generations_total"]


async def test_failures_are_answers_that_failed() -> None:
    async with an_app(FailingEngine()) as app:
        await app.client.post("/triage", json=QUESTION)
        found = await samples(app)
    assert found[("llm_server_generations_total", "failed")] == 1
    assert found[("gen_ai_server_request_duration_seconds_count", "failed", "chat", "llm_server", "mock")] == 1


async def test_a_dead_engine_shows_in_its_heartbeat() -> None:
    engine = StuckEngine(math.inf)
    engine.stuck = True
    async with an_app(engine, wait=False) as app:
        assert (await samples(app))[("llm_server_engine_heartbeat_age_seconds",)] == math.inf
