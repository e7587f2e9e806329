"""Asks the worker again and again, until it succeeds or that is pointless. Used by `fetcher` and `download`."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inference_server.fetch.display import Display
from inference_server.fetch.failures import Context, classify
from inference_server.fetch.retry import RetryPolicy, pause_before_retry
from inference_server.fetch.supervise import Worker, WorkerFailed

_TICK_SECONDS = 0.1


def nothing(_: int) -> None:
    """For a request during which nothing else has to go on."""


def no_progress() -> int:
    """For a request that succeeds whole or not at all."""
    return 0


@dataclass(frozen=True, slots=True)
class RetryingClient:
    worker: Worker
    context: Context
    token: str | None = field(repr=False)
    policy: RetryPolicy
    display: Display

    def ask(
        self,
        request: Mapping[str, Any],
        *,
        tick: Callable[[int], None] = nothing,
        progress: Callable[[], int] = no_progress,
    ) -> Any:
        """The worker's answer. `tick` is called ten times a second, also between tries; `progress` is asked what a
        failed try has achieved. Raises FetchError."""
        source = {"endpoint": self.context.endpoint, "token": self.token, "repository": self.context.repository}
        best = progress()
        tried = 0
        while True:
            try:
                return self.worker.ask({**request, **source}, tick=tick)
            except WorkerFailed as failed:
                error = classify(failed.fault, self.context)
            reached = progress()
            tried = 1 if reached > best else tried + 1
            best = max(best, reached)
            pause = pause_before_retry(error, tried, self.policy, random.random)
            if pause is None:
                raise error
            self.display.retrying(error, tried=tried, seconds=pause)
            wait(pause, tick, reached)


def wait(seconds: float, tick: Callable[[int], None], reached: int) -> None:
    """`tick` is called meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        tick(reached)
        time.sleep(min(left, _TICK_SECONDS))
