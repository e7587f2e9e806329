"""A proxy between the operator and the API server that fails on demand, as networks and API servers do.

It runs in a thread of its own. Rules, set and removed at run time, say which calls suffer which faults;
open watches are cut, frozen or ended with an error from outside. Every call is recorded.
"""

import asyncio
import json
import socket
import ssl
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import yaml
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.kubectl import Manifest

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
REASONS = {
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
# They belong to one connection, or are made anew for the other one.
HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "TE", "Upgrade", "Host", "Content-Length")
HALF_A_LINE = b'{"type":"MODIFIED","object":{"kind":"'
CONTROL_SECONDS = 120


@dataclass(frozen=True)
class Call:
    """A request, in the words of the API. `count` numbers the calls of its verb and (sub)resource from 1."""

    method: str
    path: str
    query: Mapping[str, str]
    verb: str
    resource: str
    subresource: str
    namespace: str | None
    name: str | None
    count: int

    @property
    def is_write(self) -> bool:
        """Whether the call changes something if it succeeds."""
        return self.verb in WRITES


@dataclass
class Record:
    """A call and what came of it; a status that is None was not given, or not yet."""

    call: Call
    user_agent: str
    at: float = field(default_factory=time.monotonic)
    server_status: int | None = None
    status: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the API server did what was asked, whatever the client was told."""
        return self.server_status is not None and self.server_status < 300


@dataclass(frozen=True)
class Answer:
    """The proxy answers by itself: with a Status of this code, or with `body`."""

    status: int
    reason: str = ""
    message: str = "injected by the fault proxy"
    retry_after: int | None = None
    body: Manifest | None = None


@dataclass(frozen=True)
class Drop:
    """The connection is closed; the API server does not hear of the call."""


@dataclass(frozen=True)
class DropAnswer:
    """The API server answers, and the connection is closed before the client hears it."""


@dataclass(frozen=True)
class Delay:
    """The call waits before it is forwarded."""

    seconds: float


@dataclass(frozen=True)
class Before:
    """`act` is called before the call is forwarded; nothing else passes the proxy meanwhile."""

    act: Callable[[Record], None]


@dataclass(frozen=True)
class After:
    """`act` is called when the API server has answered and the client has not heard it; nothing passes meanwhile."""

    act: Callable[[Record], None]


Fault = Answer | Drop | DropAnswer | Delay | Before | After
Rule = Callable[[Call], Fault | None]


class FaultProxy:
    """Plain HTTP on a port of 127.0.0.1, forwarded to the API server a kubeconfig names.

    `kubeconfig` is that file with the proxy as its server: for clients that send a bearer token over plain
    HTTP (kubectl does not). All methods may be called from any thread, and from rules and callbacks.
    """

    def __init__(self, source: Path, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._config = yaml.safe_load(source.read_text())
        cluster = self._config["clusters"][0]["cluster"]
        self._server: str = cluster["server"]
        self._ssl = _context(cluster)
        self._rules: list[Rule] = []
        self._records: list[Record] = []
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._watches: list[_Watch] = []
        self._problems: list[Exception] = []
        self._sockets: set[socket.socket] = set()
        self._is_down = False
        self._started: Future[int] = Future()
        self._controls: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="fault-proxy")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._started.result()}"

    def start(self) -> None:
        """Listen, and write the kubeconfig."""
        self._thread.start()
        self._config["clusters"][0]["cluster"] = {"server": self.url}
        self.kubeconfig.write_text(yaml.safe_dump(self._config))

    def stop(self) -> None:
        """Close every connection; raises what a rule or a callback raised."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        if self._problems:
            raise self._problems[0]

    @contextmanager
    def faults(self, *rules: Rule) -> Iterator[None]:
        """The rules hold within the block. All faults that rules give for a call happen, in the rules' order."""
        self._rules = [*self._rules, *rules]
        try:
            yield
        finally:
            self._rules = [rule for rule in self._rules if rule not in rules]

    @contextmanager
    def after_write(self, number: int, act: Callable[[], None]) -> Iterator[None]:
        """Call `act` once, as soon as the API server has accepted the `number`-th write within the block."""
        accepted = 0

        def count(record: Record) -> None:
            nonlocal accepted
            accepted += record.succeeded
            if record.succeeded and accepted == number:
                act()

        with self.faults(lambda call: After(count) if call.is_write else None):
            yield

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Every open connection, watches included, and every call within the block is cut."""
        self._is_down = True
        self._control(self._abort_connections)
        try:
            yield
        finally:
            self._is_down = False

    def cut_watches(self, resource: str | None = None, *, ended: bool = False) -> None:
        """Cut open watches in the middle of a line; with `ended` as if the answer were complete."""
        self._control_watches(resource, lambda watch: watch.cut(ended=ended))

    def end_watches(self, code: int, resource: str | None = None) -> None:
        """Put an ERROR event into open watches, after which they end."""
        event = json.dumps({"type": "ERROR", "object": _status(Answer(code))}).encode() + b"\n"
        self._control_watches(resource, lambda watch: watch.end_with(event))

    def freeze_watches(self, resource: str | None = None) -> None:
        """Open watches stay open and nothing comes through any more, not even their end."""
        self._control_watches(resource, _Watch.freeze)

    def open_watches(self, resource: str | None = None) -> list[Call]:
        """The watches the client has open, frozen ones included."""
        return [watch.call for watch in list(self._watches) if resource in (None, watch.call.resource)]

    def records(self, *, since: int = 0) -> list[Record]:
        """All calls, oldest first, from entry `since` on."""
        return self._records[since:]

    def writes(self, *, since: int = 0) -> list[Record]:
        """The calls that change something, refused and dropped ones included."""
        return [record for record in self.records(since=since) if record.call.is_write]

    def _control(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if threading.current_thread() is self._thread:
            # From a callback: the loop cannot be waited for, it is waiting.
            task = self._loop.create_task(act())
            self._controls.add(task)
            task.add_done_callback(self._controls.discard)
        else:
            asyncio.run_coroutine_threadsafe(act(), self._loop).result(CONTROL_SECONDS)

    def _control_watches(self, resource: str | None, act: Callable[["_Watch"], Coroutine[Any, Any, None]]) -> None:
        async def act_on_each() -> None:
            for watch in list(self._watches):
                if resource in (None, watch.call.resource):
                    await act(watch)

        self._control(act_on_each)

    async def _abort_connections(self) -> None:
        for connection in self._listener.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=0, socket_factory=self._open_socket)
        no_timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=no_timeout, auto_decompress=False) as session:
            self._session = session
            self._listener = web.Server(self._handle, handler_cancellation=True, access_log=None)
            runner = web.ServerRunner(self._listener, shutdown_timeout=1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._started.set_result(runner.addresses[0][1])
            await self._stopping.wait()
            await self._abort_connections()
            await runner.cleanup()
        await self._sockets_closed()

    def _open_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        opened = socket.socket(family, kind, protocol)
        self._sockets.add(opened)
        return opened

    async def _sockets_closed(self) -> None:
        # Closing a session does not wait for TLS to say goodbye, and Python warns of sockets left open.
        async with asyncio.timeout(CONTROL_SECONDS):
            while any(one.fileno() != -1 for one in self._sockets):  # noqa: ASYNC110 - sockets tell nobody
                await asyncio.sleep(0.01)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        record = Record(self._call(request), request.headers.get("User-Agent", ""))
        self._records.append(record)
        try:
            return await self._answer(request, record)
        except (_Dropped, ConnectionError, aiohttp.ClientError):
            pass
        except Exception as error:  # a rule's or a callback's: `stop` raises it
            self._problems.append(error)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _answer(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        if self._is_down:
            raise _Dropped
        found = [rule(record.call) for rule in self._rules]
        faults = [fault for fault in found if fault is not None]
        body = await request.read()
        for fault in faults:
            match fault:
                case Delay(seconds):
                    await asyncio.sleep(seconds)
                case Before(act):
                    act(record)
                case Drop():
                    raise _Dropped
                case Answer():
                    record.status = fault.status
                    return _own_answer(fault)
        url = URL(self._server + request.raw_path, encoded=True)
        headers = _end_to_end(request.headers)
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, skip_auto_headers=("Accept", "Accept-Encoding"),
            allow_redirects=False,
        ) as answer:  # fmt: skip
            is_watch = record.call.verb == "watch" and answer.status == HTTPStatus.OK
            content = b"" if is_watch else await answer.read()
            record.server_status = answer.status
            for fault in faults:
                match fault:
                    case After(act):
                        act(record)
                    case DropAnswer():
                        raise _Dropped
            record.status = answer.status
            if is_watch:
                return await self._stream(request, record.call, answer)
            return web.Response(status=answer.status, headers=_end_to_end(answer.headers), body=content)

    async def _stream(self, request: web.BaseRequest, call: Call, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
        response.enable_chunked_encoding()
        await response.prepare(request)
        watch = _Watch(call, request, response)
        self._watches.append(watch)
        try:
            await watch.run(answer.content)
        finally:
            self._watches.remove(watch)
        await response.write_eof()
        return response

    def _call(self, request: web.BaseRequest) -> Call:
        resource, subresource, namespace, name = _parse(request.path)
        verb = _verb(request, resource, name)
        key = (verb, resource, subresource)
        self._counts[key] += 1
        return Call(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            verb=verb,
            resource=resource,
            subresource=subresource,
            namespace=namespace,
            name=name,
            count=self._counts[key],
        )


@contextmanager
def running_fault_proxy(kubeconfig: Path, folder: Path) -> Iterator[FaultProxy]:
    """A proxy to the API server of `kubeconfig`; its own kubeconfig, with the same token, lies in `folder`."""
    proxy = FaultProxy(kubeconfig, folder / "fault-proxy-kubeconfig")
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


class _Dropped(Exception):
    """The client's connection is to be closed without an answer."""


class _Watch:
    """An open watch: bytes go through as they come until something is done to it."""

    def __init__(self, call: Call, request: web.BaseRequest, response: web.StreamResponse) -> None:
        self.call = call
        self._request = request
        self._response = response
        self._is_at_line_end = True
        self._is_frozen = False
        self._last_event: bytes | None = None
        self._over = asyncio.Event()

    async def run(self, content: aiohttp.StreamReader) -> None:
        """Pass on what comes until the API server ends the watch, or something here does."""
        passing = asyncio.ensure_future(self._pass_all(content))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({passing, over}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            passing.cancel()
            over.cancel()

    async def cut(self, *, ended: bool) -> None:
        """Leave half a line behind."""
        if not self._is_frozen:
            await self._response.write(HALF_A_LINE)
        if not ended and self._request.transport is not None:
            self._request.transport.close()
        self._over.set()

    async def end_with(self, event: bytes) -> None:
        """Pass one more event, now or when the line that is being passed is complete."""
        self._last_event = event
        if self._is_at_line_end:
            await self._pass(b"")

    async def freeze(self) -> None:
        """Pass nothing any more."""
        self._is_frozen = True

    async def _pass_all(self, content: aiohttp.StreamReader) -> None:
        async for chunk in content.iter_any():
            await self._pass(chunk)
        if self._is_frozen:
            await self._over.wait()

    async def _pass(self, chunk: bytes) -> None:
        if self._is_frozen:
            return
        if self._last_event is not None:
            chunk, is_complete = self._rest_of_line(chunk)
            chunk += self._last_event if is_complete else b""
            if is_complete:
                self._over.set()
        if chunk:  # an empty chunk would end the answer
            self._is_at_line_end = chunk.endswith(b"\n")
            await self._response.write(chunk)

    def _rest_of_line(self, chunk: bytes) -> tuple[bytes, bool]:
        if self._is_at_line_end:
            return b"", True
        line, newline, _ = chunk.partition(b"\n")
        return line + newline, bool(newline)


def _context(cluster: Mapping[str, str]) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def _own_answer(fault: Answer) -> web.Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return web.json_response(fault.body or _status(fault), status=fault.status, headers=headers)


def _status(fault: Answer) -> Manifest:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": fault.message,
        "reason": fault.reason or REASONS.get(fault.status, ""),
        "code": fault.status,
    }


def _parse(path: str) -> tuple[str, str, str | None, str | None]:
    """Resource, subresource, namespace and name; all empty outside /api/v1 and /apis/GROUP/VERSION."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    parts = parts[{"api": 2, "apis": 3}.get(parts[0], len(parts)) :]
    namespace = None
    # /namespaces/a/status is the status of the namespace, /namespaces/a/pods are pods within it.
    if len(parts) > 2 and parts[0] == "namespaces" and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "", "")[:3]
    return resource, subresource, namespace, name or None


def _verb(request: web.BaseRequest, resource: str, name: str | None) -> str:
    if request.method == "DELETE":
        return "delete" if name else "deletecollection"
    if request.method != "GET":
        return VERBS.get(request.method, request.method.lower())
    if request.query.get("watch") in ("true", "1"):
        return "watch"
    return "list" if resource and not name else "get"
