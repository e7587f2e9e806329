"""The life of the operator process: its parts, the order in which they start and end. Run by __main__.py.

Probes and metrics first, so that a standby can be seen; then the lease; then the CRD must be there; then watches
and workers. At a signal the workers finish, the lease is given up, and only then the connections close.
"""

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import aiohttp
import kopf

from llm_operator import __version__, watch
from llm_operator.api.conditions import Cause
from llm_operator.controller import Controller
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Settings
from llm_operator.health import health_server, metrics_server
from llm_operator.kube import LEASES, LLMDEPLOYMENTS, ApiError, Kube
from llm_operator.leader_election import LEASE_NAME, Leadership, LeadershipLost, own_identity, own_namespace
from llm_operator.metrics import Metrics
from llm_operator.reconcile import Key, Reconciler
from llm_operator.settings import OperatorSettings
from llm_operator.watch_cache import WatchCache
from llm_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

# A reconcile is a few requests of at most 30 s; the pod has 30 s in all.
FINISH_SECONDS = 20.0
LOOK_FOR_CRD_SECONDS = 2.0
EX_LOST = 1


async def run(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT, or until a part fails."""
    stop = asyncio.Event()
    _set_on_signal(stop)
    process = await _Process.connect(settings)
    try:
        async with process.seen():
            await process.until(stop)
    finally:
        await process.kube.close()


def _set_on_signal(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


class _LeaseOfKube:
    """The one Lease, over the client that everything else uses."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube, self._namespace = kube, namespace

    async def read(self) -> Manifest | None:
        return await self._kube.get(LEASES, self._namespace, LEASE_NAME)

    async def create(self, lease: Manifest) -> Manifest:
        return await self._kube.create(lease)

    async def replace(self, lease: Manifest) -> Manifest:
        return await self._kube.replace(lease)


class _Process:
    """The parts, connected."""

    def __init__(self, settings: OperatorSettings, kube: Kube, metrics: Metrics) -> None:
        self._settings = settings
        self.kube = kube
        self._metrics = metrics
        self._watched = WatchCache()
        decisions = Settings(
            server_image=settings.server_image,
            confirm_seconds=settings.confirm_seconds,
            fetch_https_proxy=settings.fetch_https_proxy,
            fetch_no_proxy=settings.fetch_no_proxy,
            fetch_ca_config_map=settings.fetch_ca_config_map,
        )
        queue: WorkQueue[Key] = WorkQueue()
        self._controller = Controller(
            kube,
            self._watched,
            Reconciler(kube, self._watched, decisions, on_verdict=self._count_verdict, wake=queue.add),
            metrics,
            queue,
            namespaces=settings.namespaces,
            workers=settings.concurrency,
            resync_seconds=settings.resync_seconds,
        )
        self.leadership: Leadership | None = None
        if settings.leader_election:
            namespace = settings.lease_namespace or own_namespace()
            identity = settings.identity or own_identity()
            self.leadership = Leadership(_LeaseOfKube(kube, namespace), namespace=namespace, identity=identity)
        metrics.observe_queue(self._controller.queue)
        metrics.observe_leadership(self._may_write)
        metrics.observe_objects(self._count_conditions)

    @classmethod
    async def connect(cls, settings: OperatorSettings) -> "_Process":
        """A client for the API server, and everything over it."""
        metrics = Metrics()
        parts: list[_Process] = []
        kube = await Kube.connect(before_write=lambda: parts[0]._end_if_not_leading(), on_request=metrics.requested)
        parts.append(cls(settings, kube, metrics))
        return parts[0]

    @asynccontextmanager
    async def seen(self) -> AsyncIterator[None]:
        """Serve probes and metrics while the block runs."""
        settings, leadership = self._settings, self.leadership
        standing_by = leadership.standing_by if leadership is not None else lambda: False
        async with (
            health_server(self._controller, settings.health_port, standing_by=standing_by) as health_port,
            metrics_server(self._metrics, settings.metrics_port) as metrics_port,
        ):
            where = ", ".join(settings.namespaces) or "all namespaces"
            ports = f"probes on port {health_port}, metrics on port {metrics_port}"
            log.info("llm-operator %s for %s; %s", __version__, where, ports)
            yield

    async def until(self, stop: asyncio.Event) -> None:
        """Lead, and work, until the signal; raises if a part ends before."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        if not await _first(stopped, self._lead()):
            return
        keeping = asyncio.create_task(self._keep(), name="lease")
        try:
            if await _first(stopped, self._until_served()):
                await self._watch_and_work(stop, {stopped, keeping})
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            if self.leadership is not None:
                await self.leadership.release()

    async def _lead(self) -> None:
        if self.leadership is not None:
            await self.leadership.acquire()

    async def _keep(self) -> None:
        if self.leadership is None:
            await asyncio.Event().wait()
            return
        try:
            await self.leadership.renew()
        except LeadershipLost as error:
            _die(str(error))

    def _may_write(self) -> bool:
        return self.leadership is None or self.leadership.valid()

    def _end_if_not_leading(self) -> None:
        """Called before every write: a process that was stopped for a while must end before it can write."""
        if not self._may_write():
            _die("the lease has run out, somebody else may lead now")

    async def _until_served(self) -> None:
        """Wait for the CRD: kopf looks once which kinds there are, and never watches one that comes later."""
        while True:
            try:
                if await self.kube.serves(LLMDEPLOYMENTS):
                    return
                log.warning("this cluster has no LLMDeployments yet: apply crds/llmdeployments.yaml")
            except ApiError as error:
                log.warning("waiting for the API server: %s", error)
            await asyncio.sleep(LOOK_FOR_CRD_SECONDS)

    async def _watch_and_work(self, stop: asyncio.Event, others: set[asyncio.Task[Any]]) -> None:
        before = asyncio.all_tasks()
        opened: list[aiohttp.ClientSession] = []
        watches = await kopf.spawn_tasks(
            registry=watch.build_registry(self._controller.reflector, opened),
            settings=watch.build_settings(),
            standalone=True,
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
        )
        # In place of kopf's own handlers: its way to stop takes every other task of the loop for one of its own.
        _set_on_signal(stop)
        work = asyncio.create_task(self._controller.run(), name="controller")
        done, _ = await asyncio.wait({work, *others, *watches}, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping: finishing what is being worked on")
        self._controller.stop()
        await asyncio.wait({work}, timeout=FINISH_SECONDS)
        await _end(before)
        for session in opened:
            await session.close()
        for task in done:
            if task.get_name() == "stop":
                continue
            if not task.cancelled():
                task.result()
            raise RuntimeError(f"{task.get_name()} ended although nobody asked for it")

    def _count_verdict(self, outcome: Cause, rejects: bool, rolls_back: bool) -> None:
        self._metrics.judged("rejected" if rejects else "good", outcome.reason)
        if rolls_back:
            self._metrics.rolled_back(outcome.reason)

    def _count_conditions(self) -> Counter[tuple[str, str, str]]:
        return Counter(
            (one["type"], one["status"], one["reason"])
            for live in self._watched.every(LLMDEPLOYMENTS)
            for one in live.get("status", {}).get("conditions", [])
        )


def _die(why: str) -> NoReturn:
    """End at once: whoever leads now must not meet a write of ours."""
    log.critical("ending at once: %s", why)
    logging.shutdown()
    os._exit(EX_LOST)


async def _first(stopped: asyncio.Task[Any], coroutine: Coroutine[object, object, None]) -> bool:
    """Wait for the coroutine, or the signal; whether the coroutine came first. Raises what it raised."""
    task = asyncio.create_task(coroutine)
    await asyncio.wait({stopped, task}, return_when=asyncio.FIRST_COMPLETED)
    if stopped.done():
        task.cancel()
        await asyncio.wait({task})
        return False
    task.result()
    return True


async def _end(before: set[asyncio.Task[Any]]) -> None:
    """Cancel every task that was started since: again and again, because parts of kopf swallow a cancellation."""
    for _ in range(20):
        rest = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not rest:
            return
        for task in rest:
            task.cancel()
        await asyncio.wait(rest, timeout=0.25)
