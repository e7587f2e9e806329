"""A server whose engine is dead or stuck does not end as if all had been well."""

import json
import signal
import threading
from pathlib import Path

import httpx2
import pytest

from tests.unit.server.engines import DyingEngine
from tests.unit.server.running import MORTAL, PATIENCE_SECONDS, QUESTION, ServerProcess, a_server, an_app, events_of

BODIES: dict[str, dict[str, object]] = {
    "/triage": {**QUESTION},
    "/v1/chat/completions": {"model": "mock", "messages": [{"role": "user", "content": "I feel dizzy."}]},
}
BUSY = "llm_server_engine_active_requests"


def last_words(directory: Path) -> dict[str, str]:
    record: dict[str, str] = json.loads((directory / "termination-log").read_text())
    return record


def a_mortal_server(directory: Path, **environment: str) -> dict[str, str]:
    log = directory / "termination-log"
    log.touch()
    return {"TERMINATION_LOG_PATH": str(log), **environment}


def test_a_dead_engine_ends_the_server_and_is_told(tmp_path: Path) -> None:
    with a_server(tmp_path, MORTAL, **a_mortal_server(tmp_path)) as server:
        (tmp_path / "dead").touch()
        assert server.wait_exit() == 70
    assert last_words(tmp_path)["reason"] == "EngineDied"


@pytest.mark.parametrize(
    ("file", "reason"),
    [pytest.param("dead", "EngineDied", id="dead"), pytest.param("stuck", "EngineStalled", id="stuck")],
)
def test_an_engine_that_goes_during_the_drain_is_told(tmp_path: Path, file: str, reason: str) -> None:
    drain = {"DRAIN_GRACE_SECONDS": "0", "DRAIN_TIMEOUT_SECONDS": "3600"}
    with a_server(tmp_path, MORTAL, **a_mortal_server(tmp_path, **drain)) as server:
        asking = threading.Thread(target=ask_for_ever, args=(server,))
        asking.start()
        server.wait_metric(BUSY, 1.0)
        server.signal(signal.SIGTERM)
        server.wait_closed()
        (tmp_path / file).touch()
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 70
        asking.join()
    assert last_words(tmp_path)["reason"] == reason


def test_a_stuck_engine_that_is_stopped_for_it_is_told(tmp_path: Path) -> None:
    with a_server(tmp_path, MORTAL, **a_mortal_server(tmp_path, DRAIN_GRACE_SECONDS="0")) as server:
        (tmp_path / "stuck").touch()
        assert server.get("/livez").status_code == 503
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 70
    assert last_words(tmp_path)["reason"] == "EngineStalled"


def test_a_healthy_engine_ends_without_a_word(tmp_path: Path) -> None:
    with a_server(tmp_path, MORTAL, **a_mortal_server(tmp_path, DRAIN_GRACE_SECONDS="0")) as server:
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
    assert (tmp_path / "termination-log").read_text() == ""


@pytest.mark.parametrize("late", [False, True], ids=["at once", "in the middle"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("dies", "status", "reason"),
    [
        pytest.param(True, 503, "EngineDied", id="the engine is dead"),
        pytest.param(False, 500, "GenerationFailed", id="the engine goes on"),
    ],
)
async def test_an_answer_that_fails_says_what_of_the_engine_is_left(
    path: str, stream: bool, late: bool, dies: bool, status: int, reason: str
) -> None:
    async with an_app(DyingEngine(dies=dies, late=late)) as app:
        answer = await app.client.post(path, json={**BODIES[path], "stream": stream})
    begun = stream and late
    assert answer.status_code == (200 if begun else status)
    document = events_of(answer.text)[-1][1] if begun else answer.json()
    if path == "/triage":
        assert (document["status"], document["reason"]) == (status, reason)
        words = document["detail"]
    else:
        assert (
            document["error"]["code"] == {"EngineDied": "engine_died", "GenerationFailed": "generation_failed"}[reason]
        )
        words = document["error"]["message"]
    # Whether others go on is more than one answer can know; that the server is restarted is known of a dead engine.
    assert "others" not in words
    assert ("restarted" in words) == dies
    assert ("retry-after" in answer.headers) == (dies and not begun)


def ask_for_ever(server: ServerProcess) -> None:
    httpx2.post(f"{server.url}/triage", json=QUESTION, timeout=PATIENCE_SECONDS)
