"""How far fetches are, from their logs, which are read beside the workers. Used by reconcile.py.

A log comes from a kubelet, and one on a dead node does not answer for half a minute. Nobody waits for that: a look at
an LLMDeployment gets what is known, and whoever asked is looked at again when there is something new. An operator that
may not read logs works without: then nothing is heard.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_operator.core.model_cache.fetch_job import parse_progress
from llm_operator.core.model_cache.fetch_verdict import PROGRESS_SECONDS
from llm_operator.core.names import FETCH_CONTAINER
from llm_operator.core.observation import Progress
from llm_operator.kube import ApiError, Kube
from llm_operator.watch_cache import Place

log = logging.getLogger(__name__)

READS_AT_ONCE = 8
READ_SECONDS = 10.0
FORGET_SECONDS = 600.0
# Somebody may grant it meanwhile.
FORBIDDEN_SECONDS = 600.0


@dataclass(slots=True)
class _Known:
    """What the log of one fetch said, whether it said anything last, when it was read, and who asked."""

    progress: Progress | None = None
    is_heard: bool = False
    read_at: float = float("-inf")
    asked: set[Place] = field(default_factory=set)
    reading: asyncio.Task[None] | None = None


class FetchLogs:
    """Progress by what is fetching, a pod of a Job; `wake` is told who asked for what has changed."""

    def __init__(self, kube: Kube, wake: Callable[[Place], None]) -> None:
        self._kube = kube
        self._wake = wake
        self._known: dict[str, _Known] = {}
        self._places = asyncio.Semaphore(READS_AT_ONCE)
        self._forbidden: dict[str, float] = {}  # Namespaces, and when that was said last.

    def progress(self, asks: Place, uid: str, pod: str) -> Progress | None:
        """How far a fetch is as far as is known; now and then its log is read, once for all that ask."""
        now = time.monotonic()
        known = self._known.setdefault(uid, _Known())
        known.asked.add(asks)
        may_be_read = now - self._forbidden.get(asks[0], float("-inf")) >= FORBIDDEN_SECONDS
        if known.reading is None and may_be_read and now - known.read_at >= PROGRESS_SECONDS * 0.9:
            self._known = {one: kept for one, kept in self._known.items() if kept is known or _is_recent(kept, now)}
            known.reading = asyncio.create_task(self._read(known, asks[0], pod), name=f"log of {pod}")
        return known.progress

    def is_heard(self, uid: str) -> bool:
        """Whether the log of a fetch could be read the last time, and said anything."""
        return uid in self._known and self._known[uid].is_heard

    async def stop(self) -> None:
        """Read no more."""
        tasks = [known.reading for known in self._known.values() if known.reading is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, known: _Known, namespace: str, pod: str) -> None:
        try:
            async with self._places, asyncio.timeout(READ_SECONDS):
                lines = await self._kube.last_lines(namespace, pod, container=FETCH_CONTAINER)
        except (ApiError, TimeoutError) as error:
            # The container starts, or its node does not answer. That says nothing about the fetch.
            known.is_heard = False
            if isinstance(error, ApiError) and error.status == 403:
                self._is_forbidden(namespace, error)
            return
        finally:
            known.read_at, known.reading = time.monotonic(), None
        found, known.is_heard = parse_progress(lines), bool(lines)
        if found is None or found == known.progress:
            return
        known.progress, asked, known.asked = found, known.asked, set()
        for key in asked:
            self._wake(key)

    def _is_forbidden(self, namespace: str, error: ApiError) -> None:
        if not self._forbidden:
            log.warning("how far fetches are is not shown: %s", error)
        self._forbidden[namespace] = time.monotonic()


def _is_recent(known: _Known, now: float) -> bool:
    return known.reading is not None or now - known.read_at < FORGET_SECONDS
