"""Pods that live by a timetable: what their container does from which second on, and a sidecar that may fail.

They stand for the kubelet; simulation.py starts and ends them.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from llm_operator.core import names
from llm_operator.core.names import Manifest

START = datetime(2026, 1, 1, tzinfo=UTC)
FOR_EVER = float("inf")
SIDECAR = "istio-proxy"
# Times between which something is away.
Outages = Iterable[tuple[float, float]]


def moment(seconds: float) -> str:
    """A time of the simulation as the API writes it."""
    return (START + timedelta(seconds=seconds)).strftime("%FT%TZ")


@dataclass(frozen=True)
class PodState:
    """What a container is from `since` on (seconds after its beginning)."""

    since: float
    ready: bool
    status: Manifest


def _running(since: float, *, ready: bool, restarts: int = 0, last: Manifest | None = None) -> PodState:
    container: Manifest = {"state": {"running": {}}, "ready": ready, "started": True, "restartCount": restarts}
    return PodState(since, ready, container | ({"lastState": {"terminated": last}} if last else {}))


def _waiting(
    since: float, reason: str, message: str = "", *, restarts: int = 0, last: Manifest | None = None
) -> PodState:
    container: Manifest = {"state": {"waiting": {"reason": reason, "message": message}}, "restartCount": restarts}
    return PodState(since, False, container | ({"lastState": {"terminated": last}} if last else {}))


def _crashing(lives: float, *, ready_after: float | None = None, oom: bool = False) -> Iterator[PodState]:
    """Runs for a while, ends, waits ever longer."""
    at, back_off, last = 0.0, 0.0, None
    for restarts in range(12):
        yield _running(at, ready=False, restarts=restarts, last=last)
        if ready_after is not None:
            yield _running(at + ready_after, ready=True, restarts=restarts, last=last)
        at += lives
        last = {"exitCode": 137 if oom else 1, "reason": "OOMKilled" if oom else "Error", "finishedAfter": at}
        yield _waiting(at, "CrashLoopBackOff", restarts=restarts, last=last)
        back_off = min(300.0, back_off * 2 or 10.0)
        at += back_off


def _flapping() -> Iterator[PodState]:
    for number in range(600):
        yield _running(number * 4.0, ready=number % 2 == 1)


BEHAVIOURS: dict[str, Callable[[], list[PodState]]] = {
    "good": lambda: [_running(0, ready=False), _running(2, ready=True)],
    "slow": lambda: [_running(0, ready=False), _running(20, ready=True)],
    "crash": lambda: list(_crashing(1)),
    "oom": lambda: list(_crashing(2, oom=True)),
    "late": lambda: list(_crashing(12, ready_after=2)),
    "flap": lambda: list(_flapping()),
    "never": lambda: [_running(0, ready=False)],
    "not found": lambda: [_waiting(0, "ErrImagePull", "x: not found")],
    "no registry": lambda: [_waiting(0, "ErrImagePull", "dial tcp: i/o timeout")],
    "no Secret": lambda: [_waiting(0, "CreateContainerConfigError", 'secret "x" not found')],
}
GOOD = ("good", "slow")
TIMELINES = {name: make() for name, make in BEHAVIOURS.items()}
CRASHING = TIMELINES["crash"]
UNSCHEDULABLE: Manifest = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient cpu.",
}


@dataclass(frozen=True)
class Pod:
    """A pod of a ReplicaSet: its template, how its image behaves, and since when; it waits for a node before that."""

    name: str
    replica_set: Manifest
    template: str
    image: str
    behaviour: str
    created: float
    begins: float = FOR_EVER
    injected: bool = False

    @property
    def is_placed(self) -> bool:
        return self.begins < FOR_EVER

    def ready_since(self, now: float, away: Outages = ()) -> float | None:
        """Since when all of its containers are ready, if they are; `away` is what the sidecar needs."""
        age, since = now - self.begins, None
        for one in TIMELINES[self.behaviour]:
            if one.since > age:
                break
            since = (one.since if since is None else since) if one.ready else None
        if since is None or self._fails_since(now, away) is not None:
            return None
        ends = [end for _, end in away if self.injected and end <= now]
        return max(self.begins + since, *ends, self.begins)

    def changes_after(self, now: float, away: Outages = ()) -> float:
        """When it becomes another than it is now."""
        if not self.is_placed:
            return FOR_EVER
        age = now - self.begins
        moments = [self.begins + one.since for one in TIMELINES[self.behaviour] if one.since > age]
        fails = self._fails_since(now, away)
        if fails is not None:
            moments += [fails + one.since for one in CRASHING if fails + one.since > now]
        if self.injected:
            moments += [one for outage in away for one in outage if one > now]
        return min(moments, default=FOR_EVER)

    def manifest(self, now: float, away: Outages = ()) -> Manifest:
        """As the API server shows it."""
        template = _read(self.template)
        ready = self.ready_since(now, away) is not None
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        return {
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "clinic",
                "creationTimestamp": moment(self.created),
                "annotations": template["metadata"].get("annotations", {}),
                "labels": {**template["metadata"].get("labels", {}), "pod-template-hash": self.replica_set["hash"]},
                "ownerReferences": [self.replica_set["reference"]],
            },
            "spec": template["spec"],
            "status": {
                "phase": "Running" if self.is_placed else "Pending",
                "conditions": conditions if self.is_placed else [*conditions, UNSCHEDULABLE],
                "containerStatuses": self._containers(now, away) if self.is_placed else [],
            },
        }

    def _containers(self, now: float, away: Outages) -> list[Manifest]:
        server = _at(TIMELINES[self.behaviour], now, self.begins)
        found: list[Manifest] = [{"name": names.SERVER_CONTAINER, "image": self.image, "ready": False, **server}]
        if self.injected:
            fails = self._fails_since(now, away)
            proxy = _running(0, ready=True).status if fails is None else _at(CRASHING, now, fails)
            found.append({"name": SIDECAR, "image": "proxy:1", "ready": False, **proxy})
        return found

    def _fails_since(self, now: float, away: Outages) -> float | None:
        if not self.injected:
            return None
        return next((max(begin, self.begins) for begin, end in away if begin <= now < end), None)


def _at(timeline: list[PodState], now: float, begins: float) -> Manifest:
    status = [one for one in timeline if one.since <= now - begins][-1].status
    if "terminated" in status.get("lastState", {}):
        status = copy.deepcopy(status)
        last = status["lastState"]["terminated"]
        last["finishedAt"] = moment(begins + last.pop("finishedAfter"))
    return status


@lru_cache(maxsize=256)
def _read(template: str) -> Manifest:
    """Nobody changes what is observed."""
    found: Manifest = json.loads(template)
    return found
