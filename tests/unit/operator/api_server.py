"""A small API server for tests: it keeps objects with their versions, and fails as it is told to.

It stands for Kubernetes where the client is the real one: conflicts, preconditions, refusals, connections that break
before or after a write was stored.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from llm_operator.core.actions import Patch
from llm_operator.core.names import Manifest
from tests.unit.operator.builders import amended

KINDS = {
    "llmdeployments": ("llm.carepath.ai/v1alpha1", "LLMDeployment"),
    "deployments": ("apps/v1", "Deployment"),
    "services": ("v1", "Service"),
    "pods": ("v1", "Pod"),
    "controllerrevisions": ("apps/v1", "ControllerRevision"),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    "jobs": ("batch/v1", "Job"),
    "events": ("events.k8s.io/v1", "Event"),
}


@dataclass
class ApiServer:
    """Objects of one namespace by resource and name, and everything that was asked, in order."""

    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    # What becomes of a request, by method and resource: a status, "nonsense" (an answer without any object), "before"
    # or "after" (where the connection breaks).
    fails: Callable[[str, str], int | str | None] = lambda *_: None
    # Which requests are not answered until `released`, by method, resource and name.
    hangs: Callable[[str, str, str], bool] = lambda *_: False
    most_at_once: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    version: int = 100
    _hanging: int = 0

    def put(self, live: Manifest) -> Manifest:
        resource = next(plural for plural, (_, kind) in KINDS.items() if kind == live["kind"])
        return self._watched(resource, live)

    def writes(self) -> list[tuple[str, str, str]]:
        return [one for one in self.requests if one[0] != "GET"]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.split("/namespaces/clinic/")[1].split("/")
        resource, name = parts[0], parts[1] if len(parts) > 1 else ""
        if "watch" in request.query:
            return await self._watch(request)
        text = await request.text()
        if request.method == "POST":
            name = json.loads(text)["metadata"].get("name", "")
        fate = self.fails(request.method, resource)
        self.requests.append((request.method, resource, "" if request.method == "POST" else name))
        if self.hangs(request.method, resource, name):
            await self._hang()
        if isinstance(fate, int):
            return web.json_response({"reason": "Told", "message": "as the test wants it"}, status=fate)
        if fate == "before":
            return self._hang_up(request)
        if fate == "nonsense":
            return web.json_response({})
        answer = self._do(request, resource, name, parts[2:], text)
        return self._hang_up(request) if fate == "after" else answer

    async def _hang(self) -> None:
        self._hanging += 1
        self.most_at_once = max(self.most_at_once, self._hanging)
        self.asked.set()
        try:
            await self.released.wait()
        finally:
            self._hanging -= 1

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """One on which nothing ever comes."""
        fate = self.fails("WATCH", request.path.rpartition("/")[2])
        if isinstance(fate, int):
            return _problem(fate, "Told")
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    def _hang_up(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    def _do(self, request: web.Request, resource: str, name: str, rest: list[str], text: str) -> web.Response:
        if rest == ["log"]:
            return web.Response(text=self.logs[name]) if name in self.logs else _problem(404, "NotFound")
        body: Any = json.loads(text) if text else None
        live = self.objects.get((resource, name))
        if request.method == "POST":
            key = (resource, body["metadata"].get("name", ""))
            return _problem(409, "AlreadyExists") if key in self.objects else _json(self._watched(resource, body))
        if not name:
            return _json(self._list(resource, request.query.get("labelSelector", "")))
        if live is None:
            return _problem(404, "NotFound")
        version = live["metadata"]["resourceVersion"]
        match request.method:
            case "PATCH":
                if body[0]["value"] != version:
                    return _problem(409, "Conflict")
                return _json(self._watched(resource, amended(live, Patch(live, tuple(body[1:])))))
            case "DELETE":
                if body["preconditions"] != {"uid": live["metadata"]["uid"], "resourceVersion": version}:
                    return _problem(409, "Conflict")
                return _json(self.objects.pop((resource, name)))
        return _json(live)

    def _list(self, resource: str, selector: str) -> Manifest:
        wanted = dict(part.split("=") for part in selector.split(",") if part)
        version, kind = KINDS[resource]
        items = [
            one
            for (plural, _), one in self.objects.items()
            if plural == resource and wanted.items() <= one["metadata"].get("labels", {}).items()
        ]
        metadata = {"resourceVersion": str(self.version)}
        return {"apiVersion": version, "kind": f"{kind}List", "metadata": metadata, "items": items}

    def _watched(self, resource: str, live: Manifest) -> Manifest:
        self.version += 1
        name = live["metadata"].get("name", "")
        metadata = {
            "uid": f"uid-{resource}-{name}",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "generation": 1,
            **live["metadata"],
            "resourceVersion": str(self.version),
        }
        stored = {**live, "metadata": metadata}
        self.objects[resource, name] = stored
        return stored


async def serve(server: ApiServer) -> web.AppRunner:
    """Serve it on a free port of this machine."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


def write_config(path: Path, runner: web.AppRunner) -> None:
    """The kubeconfig that leads there."""
    one = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [one],
        "users": [{"name": "x", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    path.write_text(yaml.safe_dump(document))


def _json(body: Manifest) -> web.Response:
    return web.json_response(body)


def _problem(status: int, reason: str) -> web.Response:
    return web.json_response({"reason": reason, "message": reason}, status=status)
