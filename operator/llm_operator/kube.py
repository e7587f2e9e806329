"""The one door to the API server: plain dicts, and one kind of error.

Not the client library's typed models, which drop fields they do not know. Every request carries the operator's
User-Agent and a time-out. Used by controller.py, observe.py, act.py and process.py (for the Lease).
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from llm_operator.api_clock import ApiClock
from llm_operator.core.names import FIELD_MANAGER, Manifest
from llm_operator.credentials import load_configuration, open_session

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
RENEW_SECONDS = 10.0
NAMESPACE_TERMINATING = "NamespaceTerminating"
# One that was open ended before its time; nothing is wrong with the version that it came to.
WATCH_BROKEN = "WatchBroken"
# A list comes in pages, so that no answer fills the memory or holds up the loop.
PAGE = 500
# What is read of a log: a line in it is far shorter.
LOG_LINES = 20
LOG_BYTES = 65_536
# Seconds between attempts to read.
READ_PAUSES = (0.1, 0.4)
# The server ends a watch after some of the first, and sends a bookmark every minute: silence means a dead connection.
WATCH_SECONDS = (240, 300)
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5, sock_read=90)
# What the network, the server or a proxy between them may do to a request.
BROKEN = (TimeoutError, aiohttp.ClientError, OSError, config.ConfigException)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and where the API serves it."""

    path: str  # "/api/v1" or "/apis/GROUP/VERSION"
    plural: str


LLMDEPLOYMENTS = Resource("/apis/llm.carepath.ai/v1alpha1", "llmdeployments")
DEPLOYMENTS = Resource("/apis/apps/v1", "deployments")
SERVICES = Resource("/api/v1", "services")
PODS = Resource("/api/v1", "pods")
CONTROLLER_REVISIONS = Resource("/apis/apps/v1", "controllerrevisions")
JOBS = Resource("/apis/batch/v1", "jobs")
CLAIMS = Resource("/api/v1", "persistentvolumeclaims")
REPLICA_SETS = Resource("/apis/apps/v1", "replicasets")
EVENTS = Resource("/apis/events.k8s.io/v1", "events")
LEASES = Resource("/apis/coordination.k8s.io/v1", "leases")
Operations = list[Manifest]  # of a JSON patch (RFC 6902)
BY_KIND = {
    "ControllerRevision": CONTROLLER_REVISIONS,
    "Deployment": DEPLOYMENTS,
    "Event": EVENTS,
    "Job": JOBS,
    "Lease": LEASES,
    "PersistentVolumeClaim": CLAIMS,
    "Service": SERVICES,
}
# Told of every request: verb, resource, status (0: no answer), seconds.
OnRequest = Callable[[str, str, int, float], None]


class ApiError(Exception):
    """The API server answered with an error, or (status 0) did not answer.

    `reason` is the machine-readable word of metav1.Status ("Invalid", "Forbidden", "NotFound", ...).
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def is_usual(self) -> bool:
        """Whether somebody else only wrote first, or takes object or namespace away."""
        return self.status in (404, 409) or self.reason == NAMESPACE_TERMINATING


class Kube:
    """A client for the few calls the operator makes. Objects are plain dicts, as the API sends them.

    `before_write` is called before every write but those of Leases; it does not return if this process may not
    write any more.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        before_write: Callable[[], None] = lambda: None,
        on_request: OnRequest = lambda *_: None,
    ) -> None:
        self._configuration = configuration
        self._session = open_session(configuration)
        self._renewed = float("-inf")
        self._before_write = before_write
        self._on_request = on_request
        self.api_clock = ApiClock()

    @classmethod
    async def connect(cls, **hooks: Any) -> Self:
        """A client with the credentials found by `load_configuration`."""
        return cls(await load_configuration(), **hooks)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """The live object, or None."""
        try:
            return await self._read(_path(resource, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def find(
        self, resource: Resource, namespace: str, *, label_selector: str = "", field_selector: str = ""
    ) -> list[Manifest]:
        """The live objects of a namespace with these labels, or fields."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        answer = await self._read(_path(resource, namespace), {key: one for key, one in query.items() if one})
        return _items(answer)

    async def pages(
        self, resource: Resource, namespace: str | None, *, label_selector: str = ""
    ) -> AsyncIterator[tuple[list[Manifest], int]]:
        """All live objects, of one namespace or of all, page by page, each with the version the list is of."""
        query = {"limit": str(PAGE), **({"labelSelector": label_selector} if label_selector else {})}
        while True:
            answer = await self._read(_path(resource, namespace), query)
            metadata = answer["metadata"]
            yield _items(answer), int(metadata["resourceVersion"])
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def watch(
        self, resource: Resource, namespace: str | None, *, label_selector: str = "", version: int
    ) -> AsyncIterator[Manifest]:
        """Events after a version, bookmarks among them, until the server ends the watch, as it does now and then.

        Raises ApiError; with status 410 if what happened since the version is not known any more: list again.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(version),
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311 - not all at the same time
            **({"labelSelector": label_selector} if label_selector else {}),
        }
        path = f"{_path(resource, namespace)}?{urlencode(query)}"
        started, status = time.monotonic(), 0
        try:
            async with self._session.get(
                f"{self._configuration.host}{path}",
                headers={"Accept": "application/json"},
                timeout=WATCH_TIMEOUT,
                server_hostname=self._configuration.tls_server_name,
            ) as response:
                status = response.status
                self._on_request("watch", resource.plural, status, time.monotonic() - started)
                await self._heard(status, response.headers.get("Date"))
                if status >= 400:
                    raise _error(status, response.headers.get("Retry-After"), await response.read())
                async for line in _lines(response.content):
                    yield _event(line)
        except BROKEN as error:
            # One that breaks later says nothing about the API server.
            if status:
                raise ApiError(0, WATCH_BROKEN, f"{type(error).__name__}: {error}") from error
            self._on_request("watch", resource.plural, 0, time.monotonic() - started)
            self.api_clock.failed()
            raise _unreachable(error) from error

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server's discovery lists the kind."""
        try:
            answer = await self._read(resource.path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(one.get("name") == resource.plural for one in answer.get("resources", []))

    async def create(self, manifest: Manifest) -> Manifest:
        """Create a child; 409 if an object of the name exists, which stays as it is."""
        path = _path(BY_KIND[manifest["kind"]], manifest["metadata"]["namespace"])
        return await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def patch(self, live: Manifest, operations: Operations) -> Manifest:
        """JSON patch a child as it was read; 409 if it has changed since."""
        return await self._json_patch(_path_of(live), operations, live["metadata"]["resourceVersion"])

    async def write_status(self, namespace: str, name: str, status: Manifest, *, resource_version: str) -> Manifest:
        """Replace the status of an LLMDeployment; 409 if the object has changed since it was read."""
        path = f"{_path(LLMDEPLOYMENTS, namespace, name)}/status"
        return await self._json_patch(path, [{"op": "add", "path": "/status", "value": status}], resource_version)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object by this one, which carries the resourceVersion it was read with; 409 if that is old."""
        return await self._request("PUT", _path_of(manifest), {"fieldManager": FIELD_MANAGER}, manifest)

    async def delete(self, live: Manifest) -> None:
        """Delete an object as it was read, and what it owns; 409 if it has changed since, nothing if it is gone."""
        metadata = live["metadata"]
        conditions = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            await self._request(
                "DELETE", _path_of(live), body={"preconditions": conditions, "propagationPolicy": "Background"}
            )
        except ApiError as error:
            if error.status != 404:
                raise

    async def last_lines(self, namespace: str, pod: str, *, container: str) -> str:
        """The end of a container's log. It comes from a node, so that a failure says nothing about the API server."""
        query = {"container": container, "tailLines": str(LOG_LINES), "limitBytes": str(LOG_BYTES)}
        data = await self._request_bytes(
            "GET", f"{_path(PODS, namespace, pod)}/log", query, speaks_for_the_server=False
        )
        return data.decode(errors="replace")

    async def _json_patch(self, path: str, operations: Operations, resource_version: str) -> Manifest:
        version = {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version}
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", path, query, [version, *operations], "application/json-patch+json")

    async def _read(self, path: str, query: dict[str, str] | None = None) -> Manifest:
        """A GET, again at once if it fails in passing: a pass makes several, and one failure would cost it all."""
        for pause in READ_PAUSES:
            try:
                return await self._request("GET", path, query)
            except ApiError as error:
                if not (error.status == 0 or error.status >= 500):
                    raise
            await asyncio.sleep(pause)
        return await self._request("GET", path, query)

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Manifest | Operations | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        data = await self._request_bytes(method, path, query, body, content_type)
        try:
            answer: Manifest = json.loads(data)
        except ValueError as error:
            raise ApiError(0, "Unreachable", "the answer is not JSON: something between answered instead") from error
        return answer

    async def _request_bytes(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Manifest | Operations | None = None,
        content_type: str = "application/json",
        *,
        speaks_for_the_server: bool = True,
    ) -> bytes:
        started, status = time.monotonic(), 0
        try:
            status, date, retry_after, data = await self._send(method, path, query, body, content_type)
        finally:
            self._on_request(method.lower(), _plural(path), status, time.monotonic() - started)
            if status == 0 and speaks_for_the_server:
                self.api_clock.failed()
        if status < 500 or speaks_for_the_server:
            await self._heard(status, date)
        if status >= 400:
            raise _error(status, retry_after, data)
        return data

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Manifest | Operations | None,
        content_type: str,
    ) -> tuple[int, str | None, str | None, bytes]:
        url = f"{self._configuration.host}{path}"
        if method != "GET" and not path.startswith(LEASES.path):
            self._before_write()
        try:
            async with self._session.request(
                method,
                f"{url}?{urlencode(query)}" if query else url,
                data=None if body is None else _encode(body),
                headers={"Accept": "application/json, */*", "Content-Type": content_type},
                timeout=REQUEST_TIMEOUT,
                server_hostname=self._configuration.tls_server_name,
            ) as response:
                data = await response.read()
        except BROKEN as error:
            raise _unreachable(error) from error
        return response.status, response.headers.get("Date"), response.headers.get("Retry-After"), data

    async def _heard(self, status: int, date: str | None) -> None:
        """Draw the conclusions from an answer."""
        # 429 is an answer too: a busy server has not lost sight of its cluster.
        if status < 500:
            self.api_clock.answered(date)
        else:
            self.api_clock.failed()
        if status == 401:
            await self._renew()

    async def _renew(self) -> None:
        """Read the credentials anew (an exec plugin's token expires), but not again and again."""
        now = asyncio.get_running_loop().time()
        if now < self._renewed + RENEW_SECONDS:
            return
        self._renewed = now
        try:
            self._configuration.api_key = (await load_configuration()).api_key
        except Exception as error:  # an exec plugin may fail in any way
            raise ApiError(401, "Unauthorized", f"the credentials cannot be renewed: {error}") from error


def _encode(body: Manifest | Operations) -> bytes:
    """JSON as Go writes it: the API server compares what may never change of a ControllerRevision by its bytes."""
    text = json.dumps(body, separators=(",", ":"), sort_keys=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: the stream's own reader allows 128 KiB."""
    parts: list[bytes] = []
    async for chunk in stream.iter_any():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join([*parts, end])
            parts.clear()
        parts.append(rest)


def _event(line: bytes) -> Manifest:
    try:
        event: Manifest = json.loads(line)
        told: Manifest = event["object"]
        failed = event["type"] == "ERROR"
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError(0, "Unreachable", "the watch delivers no events: something between answers instead") from error
    if failed:
        raise ApiError(int(told.get("code") or 500), str(told.get("reason") or "Error"), str(told.get("message") or ""))
    return event


def _unreachable(error: Exception) -> ApiError:
    return ApiError(0, "Unreachable", f"{type(error).__name__}: {error}")


def _items(answer: Manifest) -> list[Manifest]:
    """The objects of a list, with the kind that each lacks there."""
    kind, version = answer["kind"].removesuffix("List"), answer["apiVersion"]
    return [{"apiVersion": version, "kind": kind, **item} for item in answer["items"]]


def _plural(path: str) -> str:
    """The resource of a path, as the audit log names it."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    rest = rest[2:] if rest[:1] == ["namespaces"] and len(rest) > 2 else rest
    return "/".join([*rest[:1], *rest[2:3]])


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    parts = [resource.path]
    if namespace is not None:
        parts.append(f"namespaces/{quote(namespace, safe='')}")
    parts.append(resource.plural)
    if name is not None:
        parts.append(quote(name, safe=""))
    return "/".join(parts)


def _path_of(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return _path(BY_KIND[manifest["kind"]], metadata["namespace"], metadata["name"])


def _error(status: int, retry_after: str | None, data: bytes) -> ApiError:
    answer: Any
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {"message": data[:256].decode(errors="replace")}
    delay = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    causes = (answer.get("details") or {}).get("causes") or []
    terminating = any(one.get("reason") == NAMESPACE_TERMINATING for one in causes)
    reason = NAMESPACE_TERMINATING if terminating else str(answer.get("reason") or status)
    return ApiError(status, reason, str(answer.get("message") or ""), delay)
