"""A deduplicating queue of keys: the asyncio counterpart of client-go's workqueue, with two priorities.

Keys that are under way are handed out before those that can wait (new objects, a resync), so that what was begun is
finished first; but of FAIR_SHARE keys one is of those that can wait, so that nobody waits for ever.

However often a key is added, it is handed out once, never to two workers at a time, and again if it was added while
being worked on. Failures come back after a back-off with jitter, which grows with the time for which they
last: not with their number, because events may bring a key again much earlier. Used by controller.py; all methods are
to be called from one event loop.
"""

import asyncio
import random
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


# Of so many keys that are handed out, one is of those that can wait, if there is any.
FAIR_SHARE = 4


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
        # One for each key that waits for a worker; one more, once it is closed.
        self._tokens: asyncio.Queue[None] = asyncio.Queue()
        # Both in the order in which the keys came, with the time.
        self._under_way: dict[Key, float] = {}
        self._can_wait: dict[Key, float] = {}
        self._since_one_that_can_wait = 0
        self._working_since: dict[Key, float] = {}
        self._dirty: dict[Key, bool] = {}  # Added while worked on, and whether it can wait.
        self._failing_since: dict[Key, dict[Pace, float]] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._last_taken = 0.0
        self._closed = False

    def add(self, key: Key, *, can_wait: bool = False) -> None:
        """Have the key worked on as soon as a worker is free; with `can_wait` after those that cannot."""
        if key in self._working_since:
            self._dirty[key] = can_wait and self._dirty.get(key, True)
        elif key in self._under_way:
            return
        elif key in self._can_wait:
            if not can_wait:
                self._under_way[key] = self._can_wait.pop(key)
        else:
            (self._can_wait if can_wait else self._under_way)[key] = _now()
            self._tokens.put_nowait(None)

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
        if not self._closed:
            await self._tokens.get()
        if self._closed:
            self._tokens.put_nowait(None)
            raise QueueClosed
        key = self._take()
        self._working_since[key] = self._last_taken = _now()
        return key

    def _take(self) -> Key:
        turn = takes_one_that_can_wait(bool(self._under_way), bool(self._can_wait), self._since_one_that_can_wait)
        self._since_one_that_can_wait = 0 if turn else self._since_one_that_can_wait + 1
        waiting = self._can_wait if turn else self._under_way
        key = next(iter(waiting))
        del waiting[key]
        return key

    def done(self, key: Key) -> None:
        """Give the key back; it comes again at once if it was added meanwhile."""
        del self._working_since[key]
        can_wait = self._dirty.pop(key, None)
        if can_wait is not None:
            self.add(key, can_wait=can_wait)

    def stuck_seconds(self) -> float:
        """How long one key has been worked on, or keys have waited while none was taken; the longer of both."""
        since = list(self._working_since.values())
        if self.depth():
            since.append(max(self._last_taken, self._oldest()))
        return _now() - min(since) if since else 0.0

    def close(self) -> None:
        """Hand out no more keys. What is being worked on may be finished."""
        self._closed = True
        self._tokens.put_nowait(None)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._under_way) + len(self._can_wait)

    def oldest_age(self) -> float:
        """Seconds the one that has waited longest has waited; 0 if none waits."""
        return _now() - self._oldest() if self.depth() else 0.0

    def _oldest(self) -> float:
        """When the one came that has waited longest."""
        return min(chain(self._under_way.values(), self._can_wait.values()))

    def _fire(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)


def takes_one_that_can_wait(under_way: bool, can_wait: bool, since: int) -> bool:
    """Whether the next key is of those that can wait, of which none was among the last `since` ones."""
    return can_wait and (not under_way or since >= FAIR_SHARE - 1)


def _now() -> float:
    return asyncio.get_running_loop().time()
