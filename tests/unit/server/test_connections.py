"""Connections that never finish a request: over real sockets, against a process with few file descriptors."""

import resource
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from inference_server.connections import _room
from tests.unit.server.running import PATIENCE_SECONDS, ServerProcess, a_server

HEAD = b"POST /triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
# As `ulimit -n 80` in a shell.
FEW_FILES = (
    "-c",
    "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80)); "
    "from inference_server.__main__ import main; sys.exit(main([]))",
)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "begun", [HEAD, HEAD + b"\r\n{"], ids=["in the middle of the head", "in the middle of the body"]
)
def test_a_request_that_never_comes_to_its_end_is_ended(tmp_path: Path, begun: bytes) -> None:
    with a_server(tmp_path, RECEIVE_TIMEOUT_SECONDS="1") as server:
        with socket.create_connection(server.address, timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(begun)
            assert read_all(connection).startswith(b"HTTP/1.1 408 ")
        # The other one is the scrape that asks.
        server.wait_metric("llm_server_http_requests_in_flight", 1.0)


@pytest.mark.parametrize("begun", [b"", HEAD, HEAD + b"\r\n{"], ids=["silent", "head", "body"])
def test_probes_are_answered_whoever_holds_connections(tmp_path: Path, begun: bytes) -> None:
    with a_server(tmp_path, FEW_FILES) as server, ExitStack() as held:
        for _ in range(120):
            connection = held.enter_context(socket.create_connection(server.address, timeout=PATIENCE_SECONDS))
            if begun:
                try_to_send(connection, begun)
        for _ in range(3):
            assert server.get("/livez").status_code == 200
        assert len(errors_of(server)) < 20


def try_to_send(connection: socket.socket, begun: bytes) -> None:
    # It may have had to make room for a later one.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(begun)


def errors_of(server: ServerProcess) -> list[str]:
    return [event["event"] for event in server.events if event["level"] == "ERROR"]


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(80, 16), (256, 192), (1024, 960), (1_048_576, 4096), (resource.RLIM_INFINITY, 4096), (10, 16)],
)
def test_files_leave_room_for_connections(descriptors: int, connections: int) -> None:
    assert _room(descriptors) == connections
