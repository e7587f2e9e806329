import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.unit.server.engines import BlockedEngine, CountingEngine
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
