"""A server whose engine is dead or stuck does not end as if all had been well."""

import json
import signal
import threading
from pathlib import Path

import httpx2
import pytest

from tests.unit.server.running import MORTAL, PATIENCE_SECONDS, QUESTION, ServerProcess, a_server

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


def ask_for_ever(server: ServerProcess) -> None:
    httpx2.post(f"{server.url}/triage", json=QUESTION, timeout=PATIENCE_SECONDS)
