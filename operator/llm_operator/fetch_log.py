"""How far fetches are, from their logs, which are read beside the workers. Used by reconcile.py.

A log comes from a kubelet, and one on a dead node does not answer for half a minute. Nobody waits for that: a look at
an LLMDeployment gets what is known, and whoever asked is looked at again when there is something new.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_operator.core.fetch import parse_progress
from llm_operator.core.gate import PROGRESS_SECONDS
from llm_operator.core.model import Progress
from llm_operator.core.names import FETCH_CONTAINER
from llm_operator.kube import ApiError, Kube
from llm_operator.store import Place

READS_AT_ONCE = 8
READ_SECONDS = 10.0
FORGET_SECONDS = 600.0


@dataclass(slots=True)
class _Known:
    """What the log of one fetch said, when it was read, and who asked."""

    progress: Progress | None = None
    read_at: float = float("-inf")
    asked: set[Place] = field(default_factory=set)
    reading: asyncio.Task[None] | None = None


class FetchLogs:
    """Progress by the uid of the fetch's Job; `wake` is told who asked for what has changed."""

    def __init__(self, kube: Kube, wake: Callable[[Place], None]) -> None:
        self._kube = kube
        self._wake = wake
        self._known: dict[str, _Known] = {}
        self._places = asyncio.Semaphore(READS_AT_ONCE)

    def progress(self, asks: Place, uid: str, pod: str) -> Progress | None:
        """How far a fetch is as far as is known; now and then its log is read, once for all that ask."""
        now = time.monotonic()
        known = self._known.setdefault(uid, _Known())
        known.asked.add(asks)
        if known.reading is None and now - known.read_at >= PROGRESS_SECONDS * 0.9:
            self._known = {one: kept for one, kept in self._known.items() if kept is known or _is_recent(kept, now)}
            known.reading = asyncio.create_task(self._read(known, asks[0], pod), name=f"log of {pod}")
        return known.progress

    async def stop(self) -> None:
        """Read no more."""
        tasks = [known.reading for known in self._known.values() if known.reading is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, known: _Known, namespace: str, pod: str) -> None:
        try:
            async with self._places, asyncio.timeout(READ_SECONDS):
                log = await self._kube.last_lines(namespace, pod, container=FETCH_CONTAINER)
        except (ApiError, TimeoutError):
            # The container starts, or its node does not answer. It is for show.
            return
        finally:
            known.read_at, known.reading = time.monotonic(), None
        found = parse_progress(log)
        if found is None or found == known.progress:
            return
        known.progress, asked, known.asked = found, known.asked, set()
        for key in asked:
            self._wake(key)


def _is_recent(known: _Known, now: float) -> bool:
    return known.reading is not None or now - known.read_at < FORGET_SECONDS
