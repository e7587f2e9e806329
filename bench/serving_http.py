"""What our server adds to a request: the mock's /triage beside a bare FastAPI route of the same bodies.

`python -m bench.serving_http` starts both as processes with the same uvicorn configuration, asks them in turns over
one kept connection each, with a client that does nothing but read (or, with `--httpx`, an ordinary one), and prints
p50, p95, the processor time per request of the server, which a busy machine disturbs least, and the ratios.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2

from bench.tables import aligned

_QUESTION = json.dumps({"patient_mrn": "MRN-001", "query": "What are my current medications?"}).encode()
_REQUEST = (
    b"POST /triage HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Accept: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_QUESTION), _QUESTION)
)
_BLOCK = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="of each kind")
    parser.add_argument("--httpx", action="store_true", help="ask with httpx2, as an ordinary client would")
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_bare:
        _serve_bare()
        return
    commands = {"bare route": ("-m", "bench.serving_http", "--serve-bare"), "mock /triage": ("-m", "inference_server")}
    with ExitStack() as stack:
        asked = {name: stack.enter_context(_asked(command)) for name, command in commands.items()}
        for server in asked.values():
            server.ask = _ask_with_httpx(server, stack) if options.httpx else partial(_ask, server.connection)
        _ask_in_turns(list(asked.values()), options.requests)
        print(_table(asked))


def _ask_in_turns(servers: list["Asked"], requests: int) -> None:
    # The first requests pay for caches that fill.
    for _ in range(200):
        for server in servers:
            server.ask()
    for server in servers:
        server.cpu_before = _cpu_seconds(server.process)
    # In blocks: what a server still does after its answer delays its own next one, and not the other's.
    for _ in range(0, requests, _BLOCK):
        for server in servers:
            for _ in range(_BLOCK):
                begin = time.perf_counter()
                server.ask()
                server.seconds.append(time.perf_counter() - begin)


def _table(asked: dict[str, "Asked"]) -> str:
    figures = {name: server.figures() for name, server in asked.items()}
    bare, ours = figures.values()
    rows = [["what", "p50 ms", "p95 ms", "CPU ms"]]
    rows += [[name, *(f"{figure * 1000:.3f}" for figure in each)] for name, each in figures.items()]
    rows.append(["ratio", *(f"{mine / other:.2f}" for mine, other in zip(ours, bare, strict=True))])
    return aligned(rows)


@dataclass
class Asked:
    """A server under measurement."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    ask: Callable[[], None] = lambda: None
    seconds: list[float] = field(default_factory=list)
    cpu_before: float = 0.0

    def figures(self) -> tuple[float, float, float]:
        cpu = (_cpu_seconds(self.process) - self.cpu_before) / len(self.seconds)
        return statistics.median(self.seconds), statistics.quantiles(self.seconds, n=20)[-1], cpu


def _cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _ask_with_httpx(server: Asked, stack: ExitStack) -> Callable[[], None]:
    client = stack.enter_context(httpx2.Client())
    url = f"http://127.0.0.1:{server.connection.getpeername()[1]}/triage"

    def ask() -> None:
        answer = client.post(url, content=_QUESTION, headers={"Content-Type": "application/json"})
        assert answer.is_success
        answer.json()

    return ask


def _ask(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)


@contextmanager
def _asked(command: tuple[str, ...]) -> Iterator[Asked]:
    """A server of its own and a connection to it. Its log goes nowhere, so that nobody can read it slowly."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"LISTEN_HOST": "127.0.0.1", "LISTEN_PORT": str(port)}
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
    try:
        connection = _connect(port)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            yield Asked(process, connection)
    finally:
        process.kill()
        process.wait()


def _connect(port: int) -> socket.socket:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            connection = socket.create_connection(("127.0.0.1", port))
            time.sleep(0.5)
            return connection
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise RuntimeError("the server does not answer")


def _serve_bare() -> None:
    """The route as anyone would write it first."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from inference_server.llm_client import generate_response_mock
    from inference_server.serve import uvicorn_config
    from inference_server.settings import Settings

    class Question(BaseModel):
        patient_mrn: str
        query: str

    class Reply(BaseModel):
        response: str
        mode: str
        model: str

    app = FastAPI()

    @app.post("/triage")
    async def triage(body: Question) -> Reply:
        return Reply(response=generate_response_mock(body.query), mode="mock", model="mock")

    settings = Settings()
    config = uvicorn_config(app, keep_alive_seconds=settings.keep_alive_seconds)
    config.host, config.port = settings.listen_host, settings.listen_port
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
