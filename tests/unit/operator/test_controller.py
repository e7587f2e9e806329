"""The loop with its real client, queue and workers, against a small API server: nobody waits for what is not theirs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llm_operator import act, reconcile
from llm_operator import controller as controller_module
from llm_operator.controller import Controller
from llm_operator.kube import Kube
from llm_operator.metrics import Metrics
from llm_operator.reconcile import Key, Reconciler
from llm_operator.watch_cache import WatchCache
from llm_operator.workqueue import WorkQueue
from tests.unit.operator.api_server import ApiServer
from tests.unit.operator.builders import SETTINGS, a_spec


def declare(server: ApiServer, *names: str, **spec: Any) -> None:
    wire = a_spec(**spec).model_dump(by_alias=True, exclude_none=True)
    for name in names:
        metadata = {"name": name, "namespace": "clinic", "uid": f"uid-{name}"}
        server.put({"kind": "LLMDeployment", "metadata": metadata, "spec": wire, "status": {"observedGeneration": -1}})


@asynccontextmanager
async def working(kube: Kube, *, workers: int) -> AsyncIterator[Controller]:
    watched, queue = WatchCache(), WorkQueue[Key]()
    reconciler = Reconciler(kube, watched, SETTINGS, wake=queue.add)
    loop = Controller(
        kube, watched, reconciler, Metrics(), queue, namespaces=["clinic"], workers=workers, resync_seconds=3600
    )
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        loop.stop()
        done, _ = await asyncio.wait({running}, timeout=30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert done, "it does not end"


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - the server is asked as a user would ask it
            await asyncio.sleep(0.01)


def has_status(server: ApiServer, name: str) -> bool:
    return "conditions" in server.objects["llmdeployments", name]["status"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "PATIENCE_SECONDS", 0.05)


@pytest.mark.parametrize("resource", ["controllerrevisions", "deployments", "services"])
async def test_writes_that_hang_hold_up_nobody_else(server: ApiServer, kube: Kube, resource: str) -> None:
    """Of ten objects whose webhook does not answer, with one worker."""
    declare(server, *(f"stuck-{number}" for number in range(10)), "zoe")
    server.hangs = lambda method, kind, name: method == "POST" and kind == resource and name.startswith("stuck")
    async with working(kube, workers=1):
        await until(lambda: ("deployments", "zoe") in server.objects and ("services", "zoe") in server.objects)
        server.released.set()


async def test_events_that_hang_hold_up_no_status(
    server: ApiServer, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "POST_SECONDS", 0.05)
    declare(server, "a", "b")
    server.fails = lambda method, kind: 403 if (method, kind) == ("POST", "deployments") else None
    server.hangs = lambda method, kind, _: (method, kind) == ("POST", "events")
    async with working(kube, workers=1):
        await until(lambda: all(has_status(server, name) for name in "ab"))
        server.released.set()


async def test_a_look_that_never_ends_is_given_up_and_begun_anew(
    server: ApiServer, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PASS_SECONDS", 0.3)
    declare(server, "a")
    server.hangs = lambda method, kind, _: (method, kind) == ("POST", "deployments")
    async with working(kube, workers=1):
        await until(lambda: len([one for one in server.writes() if one[1] == "deployments"]) > 1)
        server.hangs = lambda *_: False
        await until(lambda: ("deployments", "a") in server.objects)


async def test_not_more_looks_are_left_alone_than_are_allowed(
    server: ApiServer, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "LEFT_ALONE_PER_WORKER", 2)
    monkeypatch.setattr(reconcile, "PASS_SECONDS", 0.5)
    declare(server, *(f"o{number}" for number in range(9)))
    hung: set[str] = set()

    def hangs(method: str, kind: str, name: str) -> bool:
        if (method, kind) != ("POST", "controllerrevisions"):
            return False
        hung.add(name.partition("-")[0])
        return True

    server.hangs = hangs
    async with working(kube, workers=1):
        await until(lambda: len(hung) == 9)
        assert server.most_at_once == 3, "the worker's own and two besides"
        server.hangs = lambda *_: False
        await until(lambda: all(("deployments", f"o{number}") in server.objects for number in range(9)))


async def test_an_error_that_nobody_foresaw_ends_one_look_and_no_worker(server: ApiServer, kube: Kube) -> None:
    declare(server, "a", "b")
    server.fails = lambda method, kind: "nonsense" if (method, kind) == ("POST", "deployments") else None
    async with working(kube, workers=1):
        await until(lambda: len([one for one in server.writes() if one[1] == "deployments"]) > 2)
        server.fails = lambda *_: None
        await until(lambda: all(("deployments", name) in server.objects for name in "ab"))


async def test_a_cluster_that_is_set_back_is_listed_anew_although_no_watch_tells(
    server: ApiServer, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watches stay open and say nothing; what is read live is older than what is known."""
    monkeypatch.setattr(controller_module, "OUTDATED_SECONDS", 0.2)
    monkeypatch.setattr(controller_module, "SOONEST_RESYNC_SECONDS", 0.0)
    declare(server, "a", "b", "ghost")
    async with working(kube, workers=1) as loop:
        await until(lambda: ("deployments", "ghost") in server.objects)
        await until(lambda: loop.queue.depth() == 0)
        backup = {key: live for key, live in server.objects.items() if "ghost" not in key[1]}
        for name in "ab":
            backup["llmdeployments", name]["metadata"]["resourceVersion"] = "50"
        server.objects, server.version = backup, 60
        del server.objects["deployments", "a"]
        loop.queue.add(("clinic", "a"))
        await until(lambda: ("deployments", "a") in server.objects)
        assert ("deployments", "ghost") not in server.objects


@pytest.mark.parametrize(("status", "lists_again"), [(403, True), (410, True), (503, True), (504, True), (429, False)])
async def test_a_watch_that_does_not_begin_lists_again_because_nobody_knows_what_is_true_now(
    server: ApiServer, kube: Kube, status: int, lists_again: bool
) -> None:
    tries: list[int] = []

    def fails(method: str, resource: str) -> int | None:
        if (method, resource) != ("WATCH", "pods"):
            return None
        tries.append(len([one for one in server.requests if one[:2] == ("GET", "pods")]))
        return status if len(tries) == 1 else None

    server.fails = fails
    async with working(kube, workers=1):
        await until(lambda: len(tries) > 1)
    assert tries == [1, 2 if lists_again else 1]
