"""Leader election on a Lease: of several operators one works, the others stand by. Used by process.py.

The leader stops believing in its lease (`RENEW_SECONDS` after the start of its last renewal) before anybody else may
take it (`LEASE_SECONDS` after the end of it); between both it has ended. kube.py asks `valid` before every write,
because a process that was stopped and goes on does not know how late it is.
"""

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Protocol

from llm_operator.core.leadership import Candidate, Sighting, acquisition, held_by_another, release, sight
from llm_operator.core.names import Manifest
from llm_operator.kube import ApiError

LEASE_NAME = "llm-operator"
LEASE_SECONDS = 15
RENEW_SECONDS = 10.0
RETRY_SECONDS = 2.0
# Half of the deadline, so that one answer that never comes does not cost the lease.
REQUEST_SECONDS = RENEW_SECONDS / 2

DEFAULT_NAMESPACE = "llm-operator-system"
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POD_NAME = "POD_NAME"

REMEDIES = {
    403: "apply the Role llm-operator-lease of deploy/kustomize/base to this namespace,"
    " or name another one by LLMOP_LEASE_NAMESPACE",
    404: "create the namespace if it is missing, or name another one by LLMOP_LEASE_NAMESPACE;"
    " a single process runs without a lease by LLMOP_LEADER_ELECTION=false",
}

log = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """The lease is not surely ours any more: the process must end, and write nothing on its way."""


class LeaseStore(Protocol):
    """The one Lease in the API server. Errors are ApiError: 409 if it has changed, or come to be, since it was read."""

    async def read(self) -> Manifest | None:
        """The live Lease, or None."""

    async def create(self, lease: Manifest) -> Manifest:
        """Create it, and return what is stored."""

    async def replace(self, lease: Manifest) -> Manifest:
        """Replace the one of the same resourceVersion, and return what is stored."""


def seconds_since_boot() -> float:
    """A clock nobody can set. Where there is one it also counts while the machine is suspended."""
    boot_clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_clock is None else time.clock_gettime(boot_clock)


def own_namespace(file: Path = OWN_NAMESPACE) -> str:
    """The namespace of this pod, or the one the operator is usually deployed to."""
    try:
        return file.read_text().strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE


def own_identity(environment: Mapping[str, str] = os.environ) -> str:
    """The pod's name, else a name that no other process has.

    A kubelet never runs two containers of one pod at a time: under the pod's name, a container that was started again
    takes its own lease back at once.
    """
    return environment.get(POD_NAME) or f"{socket.gethostname()}_{uuid.uuid4()}"


@dataclass(slots=True)
class _LastAnswer:
    """What the API server said last, for readiness and so that nothing is logged twice."""

    at: float = float("-inf")
    told: str | None = None


class Leadership:
    """`acquire`, then `renew` beside the work, then, once nothing can write any more, `release`."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        namespace: str,
        identity: str,
        clock: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self._store = store
        self._candidate = Candidate(namespace, LEASE_NAME, identity, LEASE_SECONDS)
        self._clock = clock
        self._seen: Sighting | None = None
        self._renewed = float("-inf")
        # What we wrote last. None, while a write is under way or after it failed: then the store must be read.
        self._written: Manifest | None = None
        self._last_answer = _LastAnswer()

    def valid(self) -> bool:
        """Whether the lease is surely ours at this moment."""
        return self._seconds_left() > 0

    def standing_by(self) -> bool:
        """Whether the lease is not ours, and could be taken if its holder died: the API server answers us."""
        return not self.valid() and self._clock() < self._last_answer.at + LEASE_SECONDS

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        while True:
            if await self._attempt(REQUEST_SECONDS) and self.valid():
                log.info("%s leads", self._candidate.identity)
                return
            await asyncio.sleep(RETRY_SECONDS * random.uniform(1.0, 1.2))  # noqa: S311 - jitter

    async def renew(self) -> NoReturn:
        """Renew the lease until that fails for too long or somebody else holds it; raises LeadershipLost."""
        while True:
            await asyncio.sleep(min(RETRY_SECONDS, max(self._seconds_left(), 0)))
            if not self.valid():
                raise LeadershipLost(f"the lease is no longer surely that of {self._candidate.identity}")
            await self._attempt(min(REQUEST_SECONDS, self._seconds_left()))

    async def release(self) -> None:
        """Give the lease up if it is ours, so that a standby takes it at its next look. From now on it is not valid."""
        self._renewed = float("-inf")
        if held_by_another(self._seen, self._candidate, self._clock()):
            return
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                lease = self._written or await self._store.read()
                given_up = release(lease, self._candidate, date=_now())
                if given_up is not None:
                    await self._store.replace(given_up)
        except (ApiError, TimeoutError) as error:
            log.warning("the lease could not be given up; a standby takes it in %d s: %s", LEASE_SECONDS, error)
        self._written = None

    def _seconds_left(self) -> float:
        return self._renewed + RENEW_SECONDS - self._clock()

    async def _attempt(self, seconds: float) -> bool:
        """Take or renew the lease once; whether it is ours."""
        # Before any request: when the API server counts from is not known, only that it is later.
        started = self._clock()
        lease, self._written = self._written, None
        try:
            async with asyncio.timeout(seconds):
                held = await self._write(lease or await self._store.read())
        except (ApiError, TimeoutError) as error:
            self._complain(error)
            return False
        self._last_answer.at = self._clock()
        self._renewed = started if held else float("-inf")
        return held

    async def _write(self, lease: Manifest | None) -> bool:
        """Take or renew the lease as it was read, or note who has it."""
        now = self._clock()
        self._seen = sight(lease, self._seen, now)
        taken = acquisition(lease, self._seen, self._candidate, now=now, date=_now())
        if taken is None:
            self._tell(logging.INFO, f"standing by: {self._seen.holder if self._seen else 'another operator'} leads")
            return False
        self._written = await (self._store.create(taken) if lease is None else self._store.replace(taken))
        self._seen = sight(self._written, self._seen, self._clock())
        self._last_answer.told = None
        return True

    def _complain(self, error: ApiError | TimeoutError) -> None:
        if isinstance(error, TimeoutError):
            self._tell(logging.WARNING, "the API server does not answer in time about the lease; trying again")
            return
        if error.status == 409:
            # Another candidate was faster; the next look tells which.
            self._last_answer.at = self._clock()
            return
        remedy = REMEDIES.get(error.status)
        where = f"{self._candidate.namespace}/{self._candidate.name}"
        text = f"the lease {where} cannot be had, trying again: {error}"
        self._tell(logging.WARNING, f"{text} ({remedy})" if remedy else text)

    def _tell(self, level: int, text: str) -> None:
        """Log, unless the last word was the same: an attempt is made every two seconds."""
        if text != self._last_answer.told:
            log.log(level, "%s", text)
        self._last_answer.told = text


def _now() -> datetime:
    return datetime.now(UTC)
