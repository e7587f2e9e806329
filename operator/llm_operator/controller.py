"""The loop: events and a resync put keys into the queue, workers reconcile them. Started by __main__.py."""

import asyncio
import logging
import random
from collections.abc import Iterable

from llm_operator.kube import LLMDEPLOYMENTS, ApiError, Kube
from llm_operator.reconcile import Key, Reconciler
from llm_operator.workqueue import QueueClosed, WorkQueue

log = logging.getLogger(__name__)

STUCK_SECONDS = 180.0


class Controller:
    """Workers over one queue, plus a resync that makes up for every event that was lost."""

    def __init__(
        self,
        kube: Kube,
        reconciler: Reconciler,
        *,
        namespaces: Iterable[str],
        workers: int,
        resync_seconds: float,
    ) -> None:
        self.queue: WorkQueue[Key] = WorkQueue()
        self._kube = kube
        self._reconciler = reconciler
        self._namespaces: list[str | None] = list(namespaces) or [None]
        self._workers = workers
        self._resync_seconds = resync_seconds
        self._last_resync: float | None = None

    async def run(self) -> None:
        """Work until `stop`, then finish what is being worked on."""
        async with asyncio.TaskGroup() as group:
            resync = group.create_task(self._resync_for_ever(), name="resync")
            workers = [
                group.create_task(self._work_until_closed(), name=f"worker-{number}") for number in range(self._workers)
            ]
            await asyncio.wait(workers)
            resync.cancel()

    def stop(self) -> None:
        """Let `run` end."""
        self.queue.close()

    def ready(self) -> bool:
        """Whether every LLMDeployment has been seen at least once."""
        return self._last_resync is not None

    def problem(self) -> str | None:
        """Why the process should be restarted, or None. An unreachable API server is no such reason."""
        if self.queue.oldest_seconds() > STUCK_SECONDS:
            return f"a key has been waiting for {self.queue.oldest_seconds():.0f} s"
        return None

    async def _resync_for_ever(self) -> None:
        while True:
            try:
                await self._resync()
                pause = self._resync_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
            except ApiError as error:
                log.warning("resync failed: %s", error)
                pause = min(5.0, self._resync_seconds)
            await asyncio.sleep(pause)

    async def _resync(self) -> None:
        uids = set()
        for namespace in self._namespaces:
            for live in await self._kube.find(LLMDEPLOYMENTS, namespace):
                uids.add(live["metadata"]["uid"])
                self.queue.add((live["metadata"]["namespace"], live["metadata"]["name"]))
        self._reconciler.repairs.forget(uids)
        self._last_resync = asyncio.get_running_loop().time()

    async def _work_until_closed(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except QueueClosed:
                return
            try:
                await self._work(key)
            finally:
                self.queue.done(key)

    async def _work(self, key: Key) -> None:
        try:
            result = await self._reconciler.reconcile(key)
        except ApiError as error:
            delay = self.queue.retry(key, at_least=error.retry_after or 0.0)
            # Somebody else wrote first: the usual way two writers meet, not worth a warning.
            level = logging.DEBUG if error.status == 409 else logging.WARNING
            log.log(level, "%s/%s: %s; again in %.1f s", *key, error, delay)
        except Exception:
            delay = self.queue.retry(key)
            log.exception("%s/%s: unexpected error; again in %.1f s", *key, delay)
        else:
            if result.retry:
                self.queue.retry(key)
                return
            self.queue.forget(key)
            if result.look_again_after is not None:
                self.queue.add_after(key, result.look_again_after)
