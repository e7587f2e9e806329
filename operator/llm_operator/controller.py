"""The loop: events and a resync put keys into the queue, workers reconcile them. Started by process.py.

The resync lists everything: it fills the watch cache before any work begins, starts the watches of the children where
the lists end, and makes up for every event that was lost.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from contextlib import suppress

from llm_operator.kube import LLMDEPLOYMENTS, ApiError, Kube, Resource
from llm_operator.metrics import Metrics, Result
from llm_operator.observe import OUTDATED
from llm_operator.reconcile import Key, Reconciler
from llm_operator.reflector import Reflector
from llm_operator.watch_cache import KINDS, WatchCache
from llm_operator.workqueue import Pace, QueueClosed, WorkQueue

log = logging.getLogger(__name__)

STUCK_SECONDS = 180.0
# A worker leaves a look that waits for slow answers (a webhook's) to itself, so that the others need not wait for it.
PATIENCE_SECONDS = 2.0
LEFT_ALONE_PER_WORKER = 16
# A watch that does not deliver what a list showed is dead, whatever its connection says.
BLIND_SECONDS = 90.0
RETRY_RESYNC_SECONDS = 10.0
# Live reads that are older than what is known for so long are no race: a list is to tell which of them is true.
OUTDATED_SECONDS = 5.0
SOONEST_RESYNC_SECONDS = 1.0
# Nothing is wrong, only what was read is old by now.
CONFLICT = Pace(first=0.05, longest=25.0)
# A webhook or the API server fails: when that is over it should not take long.
FAILED = Pace(first=0.5, longest=25.0)
# Only a change of something helps, or of this program.
REFUSED = Pace(first=1.0, longest=250.0)


class Controller:
    """Workers over one queue; a resync and watches that fill it."""

    def __init__(
        self,
        kube: Kube,
        watched: WatchCache,
        reconciler: Reconciler,
        metrics: Metrics,
        queue: WorkQueue[Key],
        *,
        namespaces: Iterable[str],
        workers: int,
        resync_seconds: float,
    ) -> None:
        self.queue = queue
        self._watched = watched
        self.reflector = Reflector(kube, watched, self.queue.add, metrics.event, self._set_back)
        self._reconciler = reconciler
        self._metrics = metrics
        self._namespaces: list[str | None] = list(namespaces) or [None]
        self._workers = workers
        self._left_alone = asyncio.Semaphore(workers * LEFT_ALONE_PER_WORKER)
        self._resync_seconds = resync_seconds
        self._filled = asyncio.Event()
        self._look_at_all_soon = asyncio.Event()
        self._watches: dict[tuple[Resource, str | None], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until `stop`, then finish what is being worked on."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            resync = group.create_task(self._resync_for_ever(), name="resync")
            workers = [
                group.create_task(self._work_until_closed(group), name=f"worker-{number}")
                for number in range(self._workers)
            ]
            await asyncio.wait(workers)
            for task in (resync, *self._watches.values()):
                task.cancel()
        await self._reconciler.stop()

    def stop(self) -> None:
        """Let `run` end."""
        self.queue.close()
        self._filled.set()

    def ready(self) -> bool:
        """Whether every LLMDeployment has been seen at least once."""
        return self._filled.is_set()

    def problem(self) -> str | None:
        """Why the process should be restarted, or None. An unreachable API server is no such reason."""
        if not self._filled.is_set():
            return None
        stuck, behind = self.queue.stuck_seconds(), self._watched.behind_seconds()
        if stuck > STUCK_SECONDS:
            return f"no worker has moved for {stuck:.0f} s"
        return f"a watch has not delivered for {behind:.0f} s what a list shows" if behind > BLIND_SECONDS else None

    async def _resync_for_ever(self) -> None:
        while True:
            self._look_at_all_soon.clear()
            looked = [await self._look_at_all(namespace) for namespace in self._namespaces]
            pause = self._resync_seconds
            if all(looked):
                self._filled.set()
                self._metrics.resynced()
                self._reconciler.repairs.forget({one["metadata"]["uid"] for one in self._watched.every(LLMDEPLOYMENTS)})
            else:
                pause = min(RETRY_RESYNC_SECONDS, pause)
            await asyncio.sleep(SOONEST_RESYNC_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.9, 1.1)):  # noqa: S311 - jitter
                    await self._look_at_all_soon.wait()

    async def _look_at_all(self, namespace: str | None) -> bool:
        """List all kinds of a namespace into the cache and enqueue its LLMDeployments; whether that was possible."""
        where = namespace or "all namespaces"
        try:
            for resource in KINDS:
                version = await self.reflector.fill(resource, namespace)
                watched = resource is LLMDEPLOYMENTS or (resource, namespace) in self._watches
                if not watched:
                    self._watch(resource, namespace, version)
        except ApiError as error:
            log.warning("cannot list the objects of %s: %s", where, error)
            return False
        except Exception:
            log.exception("cannot list the objects of %s", where)
            return False
        self.reflector.enqueue_all(namespace)
        return True

    def _watch(self, resource: Resource, namespace: str | None, version: int) -> None:
        assert self._group is not None
        following = self.reflector.reflect(resource, namespace, version)
        name = f"watch {resource.plural} in {namespace or 'all namespaces'}"
        self._watches[resource, namespace] = self._group.create_task(following, name=name)

    def _set_back(self, resource: Resource, namespace: str | None, version: int) -> None:
        """Begin anew: a watch that waits for a version that is to come again tells nothing until then.

        Also kopf's, which cannot be told: from now on there is one of our own besides.
        """
        where = namespace or "all namespaces"
        log.warning("%s of %s were set back to version %d: a restored backup?", resource.plural, where, version)
        watch = self._watches.get((resource, namespace))
        if watch is not asyncio.current_task():
            if watch is not None:
                watch.cancel()
            self._watch(resource, namespace, version)
        self._look_at_all_soon.set()

    async def _work_until_closed(self, group: asyncio.TaskGroup) -> None:
        # What is not in the watch cache yet would seem to be missing.
        await self._filled.wait()
        while True:
            try:
                key = await self.queue.get()
            except QueueClosed:
                return
            work = group.create_task(self._work(key), name="look at {}/{}".format(*key))
            await asyncio.wait({work}, timeout=PATIENCE_SECONDS)
            if work.done() or self._left_alone.locked():
                await asyncio.wait({work})
            else:
                await self._left_alone.acquire()
                work.add_done_callback(lambda _: self._left_alone.release())

    async def _work(self, key: Key) -> None:
        started = time.monotonic()
        try:
            result = await self._reconcile(key)
        finally:
            self.queue.done(key)
        self._metrics.reconciled(result, time.monotonic() - started)

    async def _reconcile(self, key: Key) -> Result:
        try:
            found = await self._reconciler.reconcile(key)
        except ApiError as error:
            delay = self._retry(key, CONFLICT if error.status == 409 else FAILED, at_least=error.retry_after or 0.0)
            if error.reason == OUTDATED and delay > OUTDATED_SECONDS:
                self._look_at_all_soon.set()
            level = logging.DEBUG if error.is_usual else logging.WARNING
            log.log(level, "%s/%s: %s; again in %.1f s", *key, error, delay)
            return "retry" if error.is_usual else "error"
        except Exception:
            delay = self._retry(key, REFUSED)
            log.exception("%s/%s: unexpected error; again in %.1f s", *key, delay)
            return "error"
        if found.look_again_after is not None:
            self.queue.add_after(key, found.look_again_after)
        if found.retry:
            self._retry(key, REFUSED)
            return "retry"
        self.queue.forget(key)
        return "ok"

    def _retry(self, key: Key, pace: Pace, *, at_least: float = 0.0) -> float:
        self._metrics.retried()
        return self.queue.retry(key, pace, at_least=at_least)
