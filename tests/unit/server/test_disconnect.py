import json
import socket
from pathlib import Path

import pytest

from inference_server.api.connected import Connected, Disconnected
from inference_server.engine.answer import collect
from inference_server.engine.protocol import GenerationRequest, Message
from inference_server.lifecycle import Lifecycle
from tests.unit.server.engines import BlockedEngine
from tests.unit.server.running import GATED, QUESTION, a_server, until

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
        async with Connected(hang_up, Lifecycle(engine, heartbeat_timeout=60)):
            await collect(engine, request)
    assert engine.cancelled == 1
    await engine.drain()
