"""An API client that costs little: the load generator shares the machine with what it measures."""

import asyncio
import base64
import json
import ssl
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yaml

from tests.cluster.steps import Failure

Manifest = dict[str, Any]

# Creates over few kept connections: kubectl would throttle itself, and one connection each would measure TLS.
CONNECTIONS = 8
LLMDEPLOYMENTS = "/apis/llm.carepath.ai/v1alpha1"
COLLECTIONS = {
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "controllerrevisions": "/apis/apps/v1",
    "services": "/api/v1",
    "pods": "/api/v1",
    "llmdeployments": LLMDEPLOYMENTS,
}


class Refused(Failure):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Requests of an administrator; objects are plain dicts."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session

    async def request(
        self, method: str, path: str, body: Manifest | None = None, *, content_type: str = "application/json"
    ) -> Manifest:
        """One request; raises Refused for any error."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        async with self._session.request(method, self._server + path, data=data, headers=headers) as answer:
            text = await answer.read()
        if answer.status >= 400:
            raise Refused(answer.status, text.decode(errors="replace")[:500])
        parsed: Manifest = json.loads(text)
        return parsed

    async def create(self, namespace: str, plural: str, manifest: Manifest) -> Manifest:
        """Create one object."""
        return await self.request("POST", collection(namespace, plural), manifest)

    async def merge(self, namespace: str, plural: str, name: str, patch: Manifest) -> Manifest:
        """Merge patch one object."""
        path = f"{collection(namespace, plural)}/{name}"
        return await self.request("PATCH", path, patch, content_type="application/merge-patch+json")

    async def get(self, namespace: str, plural: str, name: str) -> Manifest | None:
        """One object, or None."""
        try:
            return await self.request("GET", f"{collection(namespace, plural)}/{name}")
        except Refused as error:
            if error.status == 404:
                return None
            raise

    async def count(self, namespace: str, plural: str) -> int:
        """How many objects there are, asked in the cheapest way."""
        answer = await self.request("GET", f"{collection(namespace, plural)}?limit=1")
        return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount", 0))

    async def delete_all(self, namespace: str, plural: str) -> None:
        """Delete all objects of a kind; what they own goes later."""
        while True:
            try:
                await self.request("DELETE", f"{collection(namespace, plural)}?propagationPolicy=Background")
                return
            except Refused as error:
                # Thousands take longer than a request may: the next one goes on where this one ended.
                if error.status != 504:
                    raise

    async def watch(self, namespace: str, plural: str) -> AsyncGenerator[Manifest, None]:
        """Events from now on. The first item is empty and says that the watch is open."""
        path = collection(namespace, plural)
        listed = await self.request("GET", f"{path}?limit=1")
        version = listed["metadata"]["resourceVersion"]
        query = urlencode({"watch": "true", "resourceVersion": version, "timeoutSeconds": 3600})
        async with self._session.get(f"{self._server}{path}?{query}", headers={"Accept": "application/json"}) as answer:
            yield {}
            async for line in answer.content:
                event: Manifest = json.loads(line)
                if event["type"] == "ERROR":
                    raise Failure(f"the watch of {plural} ended: {event['object'].get('message')}")
                yield event
        raise Failure(f"the watch of {plural} ended")


def collection(namespace: str, plural: str) -> str:
    """Path of all objects of a kind in a namespace."""
    return f"{COLLECTIONS[plural]}/namespaces/{namespace}/{plural}"


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[Api]:
    """A client with the administrator's certificate."""
    config = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    connector = aiohttp.TCPConnector(ssl=_context(cluster, user), limit=0)
    # Watches last; a control plane under load may let a request wait.
    timeout = aiohttp.ClientTimeout(total=None, connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Api(cluster["server"], session)


def _context(cluster: Mapping[str, str], user: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
        pair.write(f"{_decoded(user['client-certificate-data'])}\n{_decoded(user['client-key-data'])}\n")
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


async def in_parallel(jobs: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run all, in order, over CONNECTIONS at a time."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())


async def make_namespace(api: Api, name: str) -> None:
    """Create a namespace and wait until pods can be made in it."""
    await api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    await until(f"ServiceAccount of {name}", lambda: _exists(api, path), seconds=60)


async def _exists(api: Api, path: str) -> bool:
    try:
        await api.request("GET", path)
    except Refused as error:
        if error.status == 404:
            return False
        raise
    return True


async def until(
    what: str, ready: Callable[[], Coroutine[Any, Any, bool]], *, seconds: float, every: float = 0.25
) -> None:
    """Poll until ready, or fail."""
    deadline = time.monotonic() + seconds
    while not await ready():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not so after {seconds:.0f} s")
        await asyncio.sleep(every)
