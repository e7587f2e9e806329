"""A deduplicating queue of keys: the asyncio counterpart of client-go's workqueue.

However often a key is added, it is handed out once, never to two workers at a time, and again if it was
added while being worked on. Failures come back after a back-off with jitter, which grows with the time for which they
last: not with their number, because events may bring a key again much earlier. Used by controller.py; all methods are
to be called from one event loop.
"""

import asyncio
import random
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class QueueClosed(Exception):
    """There will be no more keys."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon a key that failed is worked on again, at first and when it has failed for long; in seconds."""

    first: float
    longest: float


class WorkQueue(Generic[Key]):
    """Keys to work on. `get`, work, then `done`, and `retry` or `forget`."""

    def __init__(self) -> None:
        # None, once in it, stays: the queue is closed.
        self._ready: asyncio.Queue[Key | None] = asyncio.Queue()
        self._queued_since: dict[Key, float] = {}
        self._working_since: dict[Key, float] = {}
        self._dirty: set[Key] = set()
        self._failing_since: dict[Key, dict[Pace, float]] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._last_taken = 0.0
        self._closed = False

    def add(self, key: Key) -> None:
        """Have the key worked on as soon as a worker is free."""
        if key in self._working_since:
            self._dirty.add(key)
        elif key not in self._queued_since:
            self._queued_since[key] = _now()
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Have the key worked on in `seconds`, or earlier if a shorter wait is already running."""
        due = _now() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(due, self._fire, key)

    def retry(self, key: Key, pace: Pace, *, at_least: float = 0.0) -> float:
        """Have the key worked on again after its back-off; returns the seconds until then.

        A failure ends the series of those that come again sooner: they are something else.
        """
        since = self._failing_since.setdefault(key, {})
        for other in [other for other in since if other.first < pace.first]:
            del since[other]
        lasts = _now() - since.setdefault(pace, _now())
        delay = min(max(pace.first, lasts), pace.longest)
        delay = max(delay * random.uniform(0.8, 1.2), at_least)  # noqa: S311 - jitter, not a secret
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """The last attempt succeeded: the next failure starts with the shortest back-off again."""
        self._failing_since.pop(key, None)

    async def get(self) -> Key:
        """Wait for a key. The caller owns it until `done`. Raises QueueClosed after `close`."""
        key = None if self._closed else await self._ready.get()
        if key is None:
            self._ready.put_nowait(None)
            raise QueueClosed
        del self._queued_since[key]
        self._working_since[key] = self._last_taken = _now()
        return key

    def done(self, key: Key) -> None:
        """Give the key back; it comes again at once if it was added meanwhile."""
        del self._working_since[key]
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    def stuck_seconds(self) -> float:
        """How long one key has been worked on, or keys have waited while none was taken; the longer of both."""
        since = list(self._working_since.values())
        if self._queued_since:
            since.append(max(self._last_taken, min(self._queued_since.values())))
        return _now() - min(since) if since else 0.0

    def close(self) -> None:
        """Hand out no more keys. What is being worked on may be finished."""
        self._closed = True
        self._ready.put_nowait(None)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._queued_since)

    def oldest_age(self) -> float:
        """Seconds the one that has waited longest has waited; 0 if none waits."""
        return _now() - min(self._queued_since.values()) if self._queued_since else 0.0

    def _fire(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)


def _now() -> float:
    return asyncio.get_running_loop().time()
