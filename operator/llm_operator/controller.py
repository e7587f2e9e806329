"""The loop: events and a resync put keys into the queue, workers reconcile them. Started by __main__.py."""

import asyncio
import logging
import random
from collections.abc import Iterable

from llm_operator.kube import LLMDEPLOYMENTS, NAMESPACE_TERMINATING, ApiError, Kube
from llm_operator.reconcile import Key, Reconciler
from llm_operator.workqueue import QueueClosed, WorkQueue

log = logging.getLogger(__name__)

STUCK_SECONDS = 180.0
RETRY_RESYNC_SECONDS = 10.0


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
        self._seen: set[str | None] = set()

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
        return self._seen >= set(self._namespaces)

    def problem(self) -> str | None:
        """Why the process should be restarted, or None. An unreachable API server is no such reason."""
        seconds = self.queue.stuck_seconds()
        return f"no worker has moved for {seconds:.0f} s" if seconds > STUCK_SECONDS else None

    async def _resync_for_ever(self) -> None:
        while True:
            uids: set[str] = set()
            looked = [await self._look_at_all(namespace, uids) for namespace in self._namespaces]
            pause = self._resync_seconds
            if all(looked):
                self._reconciler.repairs.forget(uids)
            else:
                pause = min(RETRY_RESYNC_SECONDS, pause)
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 - jitter

    async def _look_at_all(self, namespace: str | None, uids: set[str]) -> bool:
        """Enqueue every LLMDeployment of a namespace and add its uid; whether they could be listed."""
        try:
            found = await self._kube.find(LLMDEPLOYMENTS, namespace)
        except ApiError as error:
            log.warning("cannot list LLMDeployments in %s: %s", namespace or "all namespaces", error)
            return False
        except Exception:
            log.exception("cannot list LLMDeployments in %s", namespace or "all namespaces")
            return False
        self._seen.add(namespace)
        for live in found:
            uids.add(live["metadata"]["uid"])
            self.queue.add((live["metadata"]["namespace"], live["metadata"]["name"]))
        return True

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
            # That somebody else wrote first, or takes object or namespace away, is usual and not worth a warning.
            usual = error.status in (404, 409) or error.reason == NAMESPACE_TERMINATING
            level = logging.DEBUG if usual else logging.WARNING
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
