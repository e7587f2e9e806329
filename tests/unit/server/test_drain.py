import asyncio
import signal
import socket
from pathlib import Path

import httpx2
import pytest

from tests.unit.server.gated_server import GATE
from tests.unit.server.running import GATED, PATIENCE_SECONDS, QUESTION, SLOW, ServerProcess, a_server, events_of

BUSY = "llm_server_engine_active_requests"


async def ask(client: httpx2.AsyncClient, server: ServerProcess) -> httpx2.Response:
    return await client.post(server.url + "/triage", json=QUESTION, timeout=PATIENCE_SECONDS)


async def wait_busy(server: ServerProcess, requests: int) -> None:
    await asyncio.to_thread(server.wait_metric, BUSY, float(requests))


async def test_requests_in_flight_and_in_the_grace_are_answered(tmp_path: Path) -> None:
    with a_server(tmp_path, GATED, DRAIN_GRACE_SECONDS="3600") as server:
        async with httpx2.AsyncClient() as client:
            early = [asyncio.create_task(ask(client, server)) for _ in range(20)]
            await wait_busy(server, 20)
            server.signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait_metric, "llm_server_ready", 0.0)
            assert (await asyncio.to_thread(server.get, "/readyz")).status_code == 503
            assert (await asyncio.to_thread(server.get, "/livez")).status_code == 200
            late = [asyncio.create_task(ask(client, server)) for _ in range(20)]
            await wait_busy(server, 40)
            (tmp_path / GATE).touch()
            answers = await asyncio.gather(*early, *late)
        assert [answer.status_code for answer in answers] == [200] * 40
        assert {answer.headers.get("connection") for answer in answers} == {"close"}
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


async def test_requests_that_outlast_the_grace_are_answered(tmp_path: Path) -> None:
    with a_server(tmp_path, GATED, DRAIN_GRACE_SECONDS="0", DRAIN_TIMEOUT_SECONDS="3600") as server:
        async with httpx2.AsyncClient() as client:
            asking = [asyncio.create_task(ask(client, server)) for _ in range(20)]
            await wait_busy(server, 20)
            server.signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait_closed)
            (tmp_path / GATE).touch()
            assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 20
        assert server.wait_exit() == 0
        assert server.events[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("environment", "signals"),
    [
        pytest.param({"DRAIN_TIMEOUT_SECONDS": "0"}, [signal.SIGTERM], id="when the timeout is over"),
        pytest.param({"DRAIN_GRACE_SECONDS": "3600"}, [signal.SIGTERM, signal.SIGTERM], id="at a second SIGTERM"),
        pytest.param({"DRAIN_TIMEOUT_SECONDS": "3600"}, [signal.SIGINT, signal.SIGINT], id="at a second Ctrl+C"),
    ],
)
async def test_a_request_that_cannot_finish_is_told_so(
    tmp_path: Path, environment: dict[str, str], signals: list[signal.Signals]
) -> None:
    with a_server(tmp_path, GATED, **{"DRAIN_GRACE_SECONDS": "0", **environment}) as server:
        async with httpx2.AsyncClient() as client:
            asking = asyncio.create_task(ask(client, server))
            await wait_busy(server, 1)
            for count, number in enumerate(signals, start=1):
                server.signal(number)
                await asyncio.to_thread(server.wait_event, event="signal", count=count)
            answer = await asking
        assert (answer.status_code, answer.json()["reason"]) == (503, "ShuttingDown")
        assert server.wait_exit() == 0


async def test_the_mock_finishes_its_answer_after_sigterm(tmp_path: Path) -> None:
    with a_server(tmp_path, MOCK_DELAY_SECONDS="2", DRAIN_GRACE_SECONDS="0") as server:
        async with httpx2.AsyncClient() as client:
            asking = asyncio.create_task(ask(client, server))
            # On a slow machine the answer may be there before anybody has seen that it is on its way.
            while not asking.done() and f"{BUSY} 1.0" not in (await asyncio.to_thread(server.get, "/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            server.signal(signal.SIGTERM)
            assert (await asking).status_code == 200
        assert server.wait_exit() == 0


def test_ctrl_c_does_not_wait_for_a_load_balancer(tmp_path: Path) -> None:
    with a_server(tmp_path, DRAIN_GRACE_SECONDS="3600") as server:
        server.signal(signal.SIGINT)
        assert server.wait_exit() == 0
    assert list(tmp_path.iterdir()) == [], "the server wrote a file; its file system is read-only in a pod"


def test_a_client_that_never_finishes_sending_cannot_hold_the_server(tmp_path: Path) -> None:
    head = b"POST /triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with (
        a_server(tmp_path, DRAIN_GRACE_SECONDS="0", DRAIN_TIMEOUT_SECONDS="0") as server,
        socket.create_connection(server.address) as connection,
    ):
        connection.sendall(head)
        # The other one is the scrape that asks.
        server.wait_metric("llm_server_http_requests_in_flight", 2.0)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


async def test_a_stream_that_cannot_finish_ends_with_what_is_there(tmp_path: Path) -> None:
    with a_server(tmp_path, SLOW, DRAIN_GRACE_SECONDS="0", DRAIN_TIMEOUT_SECONDS="0") as server:
        async with (
            httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client,
            client.stream("POST", server.url + "/triage", json={**QUESTION, "stream": True}) as answer,
        ):
            received = ""
            async for text in answer.aiter_text():
                if not received:
                    server.signal(signal.SIGTERM)
                received += text
        assert server.wait_exit() == 0
    *deltas, (last, end) = events_of(received)
    assert (last, end["finish_reason"]) == ("done", "shutdown")
    assert {name for name, _ in deltas} == {"delta"}
