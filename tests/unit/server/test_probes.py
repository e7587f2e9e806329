import math

import pytest

from inference_server.engine.protocol import Engine
from inference_server.lifecycle import Phase
from tests.unit.server.engines import BrokenEngine, NeverLoadedEngine, NeverWarmEngine, SlowEngine, StuckEngine
from tests.unit.server.running import App, an_app, until

PROBES = ("/livez", "/startupz", "/readyz", "/health")


async def statuses(app: App) -> dict[str, int]:
    return {path: (await app.client.get(path)).status_code for path in PROBES}


@pytest.mark.parametrize(
    ("engine", "phase", "expected"),
    [
        pytest.param(NeverLoadedEngine, Phase.LOADING, [200, 503, 503, 503], id="alive while it loads"),
        pytest.param(NeverWarmEngine, Phase.WARMING, [200, 503, 503, 503], id="not ready before a warm-up answer"),
        pytest.param(StuckEngine, Phase.READY, [200, 200, 200, 200], id="ready after the warm-up answer"),
        pytest.param(BrokenEngine, Phase.FAILED, [503, 503, 503, 503], id="dead when the engine failed to load"),
    ],
)
async def test_the_probes_follow_the_phase(engine: type[Engine], phase: Phase, expected: list[int]) -> None:
    async with an_app(engine(), wait=False) as app:
        await until(lambda: app.lifecycle.phase is phase)
        assert list((await statuses(app)).values()) == expected


async def test_a_stuck_engine_is_neither_alive_nor_ready() -> None:
    engine = StuckEngine()
    async with an_app(engine) as app:
        engine.stuck = True
        assert await statuses(app) == {"/livez": 503, "/startupz": 200, "/readyz": 503, "/health": 503}


async def test_a_draining_server_is_alive_but_not_ready_and_closes_connections() -> None:
    async with an_app() as app:
        assert "connection" not in (await app.client.get("/livez")).headers
        app.lifecycle.begin_drain()
        assert await statuses(app) == {"/livez": 200, "/startupz": 200, "/readyz": 503, "/health": 503}
        assert (await app.client.get("/livez")).headers["connection"] == "close"


async def test_draining_before_the_load_ends_stops_the_load() -> None:
    async with an_app(NeverLoadedEngine(), wait=False) as app:
        app.lifecycle.begin_drain()
        assert (await app.client.get("/readyz")).json()["detail"].startswith("phase: draining")
    assert not app.lifecycle.started


async def test_a_good_probe_names_the_phase() -> None:
    async with an_app() as app:
        assert (await app.client.get("/readyz")).json() == {"status": "ok", "phase": "ready"}


async def test_a_dead_engine_is_not_alive() -> None:
    engine = StuckEngine(math.inf)
    async with an_app(engine) as app:
        engine.stuck = True
        assert await statuses(app) == {"/livez": 503, "/startupz": 200, "/readyz": 503, "/health": 503}


@pytest.mark.parametrize(("queued", "ready"), [(8, True), (9, False), (10, False)])
async def test_a_server_whose_queue_is_nearly_full_is_not_ready_but_answers(queued: int, ready: bool) -> None:
    engine = SlowEngine()
    async with an_app(engine) as app:
        engine.queued = queued
        answer = await app.client.get("/readyz")
        assert answer.status_code == (200 if ready else 503)
        assert ready or answer.json()["reason"] == "QueueNearlyFull"
        assert app.lifecycle.alive
        assert app.lifecycle.accepting


async def test_loading_says_how_far_it_is() -> None:
    async with an_app(NeverLoadedEngine(), wait=False) as app:
        detail = (await app.client.get("/startupz")).json()["detail"]
    assert "40% of the model" in detail
