"""Servers for tests: the application inside the test's event loop, or a real process with real sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.types import ASGIApp

from inference_server.api.config import ApiConfig
from inference_server.app import create_app
from inference_server.draining import DrainingServer
from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import Engine
from inference_server.lifecycle import Lifecycle
from inference_server.serve import listen, uvicorn_config
from inference_server.telemetry.tracing import Tracing
from tests.unit.processes import LoggedProcess

# Generous: it only bounds how long a broken test hangs.
PATIENCE_SECONDS = 300

MODULE = ("-m", "inference_server")
# The same server, with an engine that writes for ever.
SLOW = (str(Path(__file__).with_name("slow_server.py")),)
# The same server, with an engine that dies when a file says so.
MORTAL = (str(Path(__file__).with_name("mortal_server.py")),)
# The same server, with an engine whose answers wait for a file.
GATED = (str(Path(__file__).with_name("gated_server.py")),)

QUESTION = {"patient_mrn": "MRN-001", "query": "What are my current medications?"}


@dataclass(frozen=True)
class App:
    client: httpx2.AsyncClient
    lifecycle: Lifecycle
    schema: dict[str, Any]
    asgi: ASGIApp


@asynccontextmanager
async def an_app(
    engine: Engine | None = None, *, wait: bool = True, tracing: Tracing | None = None, **config: Any
) -> AsyncIterator[App]:
    """The application with its lifespan; `wait` until it is ready. `config`: fields of ApiConfig."""
    lifecycle = Lifecycle(engine or MockEngine(), heartbeat_timeout=60, ready_queue_percent=90)
    app = create_app(lifecycle, ApiConfig(**config), tracing)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        if wait:
            await until(lambda: lifecycle.ready)
        yield App(client, lifecycle, app.openapi(), app)


class RawRequest:
    """A request without a client library: what arrives can be looked at while it arrives, and the client can leave."""

    def __init__(self, app: ASGIApp, path: str, body: object) -> None:
        headers = [(b"content-type", b"application/json"), (b"host", b"test")]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "server": ("test", 80),
            "client": ("127.0.0.1", 1),
        }
        self._body: bytes | None = json.dumps(body).encode()
        self.left = asyncio.Event()
        # Cleared: the client does not read.
        self.reading = asyncio.Event()
        self.reading.set()
        self.status = 0
        self.received = b""
        self.task = asyncio.create_task(self._run(app))

    async def _run(self, app: ASGIApp) -> None:
        await app(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        # Like a socket, which lets others run now and then.
        await asyncio.sleep(0)
        await self.reading.wait()
        self.status = message.get("status", self.status)
        self.received += message.get("body", b"")


def events_of(content: str) -> list[tuple[str, Any]]:
    """Name and data of each server-sent event; comments are left out."""
    found = []
    for block in content.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            data = lines["data"]
            found.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


@contextmanager
def a_served_app(engine: Engine, **config: Any) -> Iterator[tuple[str, Lifecycle]]:
    """URL and lifecycle of the application on a real socket, in a thread of this process."""
    lifecycle = Lifecycle(engine, heartbeat_timeout=60, ready_queue_percent=90)
    app = create_app(lifecycle, ApiConfig(**config))
    with listen("127.0.0.1", 0) as listener:
        server = DrainingServer(
            uvicorn_config(app, keep_alive_seconds=75), lifecycle, grace_seconds=0, timeout_seconds=0
        )
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve_in_thread, args=(loop, server, listener))
        thread.start()
        try:
            end = time.monotonic() + PATIENCE_SECONDS
            while not lifecycle.ready and time.monotonic() < end:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", lifecycle
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)


def _serve_in_thread(loop: asyncio.AbstractEventLoop, server: uvicorn.Server, listener: socket.socket) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(server._serve([listener]))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the conditions have no event
            await asyncio.sleep(0.005)


class ServerProcess(LoggedProcess):
    """A server as a process."""

    def __init__(self, directory: Path, command: Sequence[str] = MODULE, **environment: str) -> None:
        super().__init__(directory, command, environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.wait_event(event='listening')['port']}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.wait_event(event="listening")["port"]

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=PATIENCE_SECONDS)

    def wait_event(self, *, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The last of `count` log lines that have these fields."""

        def found() -> dict[str, Any] | None:
            matching = [event for event in self.events if fields.items() <= event.items()]
            return matching[-1] if len(matching) >= count else None

        event: dict[str, Any] = self._wait_for(found)
        return event

    def wait_closed(self) -> None:
        """Until no new connection is accepted."""

        def refused() -> bool:
            try:
                socket.create_connection(self.address).close()
            except ConnectionRefusedError:
                return True
            return False

        self._wait_for(refused)

    def wait_ready(self) -> None:
        self._wait_for(lambda: self.get("/readyz").status_code == 200)

    def wait_metric(self, name: str, value: float) -> None:
        def reached() -> bool:
            lines = self.get("/metrics").text.splitlines()
            return f"{name} {value}" in lines

        self._wait_for(reached)

    def wait_exit(self) -> int:
        code = self._process.wait(PATIENCE_SECONDS)
        self._reader.join()
        return code

    def close(self) -> None:
        self._process.kill()
        self.wait_exit()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _wait_for(self, look: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if found := look():
                return found
            assert self._process.poll() is None, f"the server ended: {self.output}"
            time.sleep(0.02)
        raise AssertionError(f"gave up waiting: {self.output}")


@contextmanager
def a_server(directory: Path, command: Sequence[str] = MODULE, **environment: str) -> Iterator[ServerProcess]:
    """A ready server on a free port of 127.0.0.1."""
    server = ServerProcess(directory, command, **{"LISTEN_HOST": "127.0.0.1", "LISTEN_PORT": "0", **environment})
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()
