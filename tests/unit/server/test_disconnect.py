import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from inference_server.api.cancellation import CancelOnDisconnect, Disconnected
from inference_server.engine.answer import collect
from inference_server.engine.protocol import GenerationRequest, Message
from inference_server.lifecycle import Lifecycle
from tests.unit.server.engines import BlockedEngine, SlowEngine
from tests.unit.server.running import GATED, PATIENCE_SECONDS, QUESTION, a_served_app, a_server, until

BUSY = "llm_server_engine_active_requests"


def test_a_client_that_hangs_up_frees_the_engine(tmp_path: Path) -> None:
    content = json.dumps(QUESTION).encode()
    head = (
        f"POST /triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with a_server(tmp_path, GATED) as server:
        with socket.create_connection(server.address) as connection:
            connection.sendall(head.encode() + content)
            server.wait_metric(BUSY, 1.0)
        server.wait_metric(BUSY, 0.0)
        server.wait_event(route="/triage", status=499)


async def test_closing_an_answer_closes_the_engines_request() -> None:
    engine = BlockedEngine()
    await engine.load()

    async def hang_up() -> dict[str, str]:
        await until(lambda: engine.stats().active_requests == 1)
        return {"type": "http.disconnect"}

    request = GenerationRequest("r", (Message("user", "hello"),))
    with pytest.raises(Disconnected):
        async with CancelOnDisconnect(hang_up, Lifecycle(engine, heartbeat_timeout=60)):
            await collect(engine, request)
    assert engine.cancelled == 1
    await engine.drain()


def test_hundreds_of_clients_that_hang_up_at_once_leave_nothing_behind() -> None:
    engine = SlowEngine()
    with a_served_app(engine) as (url, lifecycle):
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        connections = []
        for turn in range(200):
            content = json.dumps({**QUESTION, "stream": turn % 2 == 0}).encode()
            head = (
                f"POST /triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
            )
            connection = socket.create_connection((address.hostname, address.port))
            connection.sendall(head.encode() + b"\r\n\r\n" + content)
            connections.append(connection)
        wait_until(lambda: engine.running == 200)
        for connection in connections:
            connection.close()
        wait_until(lambda: engine.running == 0 and not lifecycle.useless)
    assert engine.cancelled == 200


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
