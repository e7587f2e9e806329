"""A cluster small enough to be walked through at random: an API server's versions, a Deployment controller, pods.

It stands for Kubernetes, not for anything of ours; the integration tests run the same stories on the real one.
Time jumps from one moment at which something changes to the next.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cache_job import KEPT_SECONDS
from llm_operator.core.fetch import fetch_name
from llm_operator.core.gate import refilled
from llm_operator.core.history import read_history
from llm_operator.core.model import Amend, Apply, Discard, Forget, Judge, Make, Observation, Parent, Record
from llm_operator.core.names import Manifest
from llm_operator.observe import parse_parent
from tests.unit.operator.builders import SETTINGS, last_words_of

START = datetime(2026, 1, 1, tzinfo=UTC)
FOR_EVER = float("inf")


class Conflict(Exception):
    """The object has changed since it was read, or exists already."""


@dataclass(frozen=True)
class PodState:
    """What a pod is from `since` on (seconds after its beginning)."""

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
# How the fetch of a model revision ends: each pod's life in seconds, its exit code and its last words; None is no end.
FETCHES: dict[str, list[tuple[float, int, str]] | None] = {
    "brings": [(3, 0, "")],
    "slow": [(40, 0, "")],
    "too slow": [(200, 0, "")],
    "gated": [(2, 22, "RepositoryGated")],
    "flaky": [(2, 40, "RateLimited"), (2, 0, "")],
    "down": [(2, 43, "EndpointUnavailable")] * 30,
    "crash": [(1, 1, "")] * 30,
    "hangs": None,
    "no Secret": None,
}
TIMELINES = {name: make() for name, make in BEHAVIOURS.items()}


@dataclass(frozen=True)
class Pod:
    """A pod: its template, how its image behaves, and since when."""

    name: str
    template: str
    image: str
    behaviour: str
    created: float
    begins: float

    def state(self, now: float) -> PodState:
        age = now - self.begins
        return [one for one in TIMELINES[self.behaviour] if one.since <= age][-1]

    def changes_after(self, now: float) -> float:
        age = now - self.begins
        return self.begins + min((one.since for one in TIMELINES[self.behaviour] if one.since > age), default=FOR_EVER)

    def ready_since(self, now: float) -> float | None:
        age, since = now - self.begins, None
        for one in TIMELINES[self.behaviour]:
            if one.since > age:
                break
            since = (one.since if since is None else since) if one.ready else None
        return None if since is None else self.begins + since

    def manifest(self, now: float) -> Manifest:
        template = _read(self.template)
        state = self.state(now)
        status = state.status
        if "terminated" in status.get("lastState", {}):
            status = copy.deepcopy(status)
            last = status["lastState"]["terminated"]
            last["finishedAt"] = (START + timedelta(seconds=self.begins + last.pop("finishedAfter"))).strftime("%FT%TZ")
        return {
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "clinic",
                "creationTimestamp": (START + timedelta(seconds=self.created)).strftime("%FT%TZ"),
                **template["metadata"],
            },
            "spec": template["spec"],
            "status": {
                "conditions": [{"type": "Ready", "status": "True" if state.ready else "False"}],
                "containerStatuses": [
                    {"name": names.SERVER_CONTAINER, "image": self.image, "ready": state.ready, **status}
                ],
            },
        }


@lru_cache(maxsize=256)
def _read(template: str) -> Manifest:
    """Nobody changes what is observed."""
    found: Manifest = json.loads(template)
    return found


@dataclass
class Cluster:
    """The objects of one LLMDeployment and everything that moves them but the operator."""

    behaviour: dict[str, str]
    spec: Manifest
    now: float = 0.0
    contact_since: float = -1e6
    generation: int = 1
    status: Manifest = field(default_factory=lambda: {"observedGeneration": -1})
    deployment: Manifest | None = None
    service: Manifest | None = None
    revisions: dict[str, Manifest] = field(default_factory=dict)
    fetches: dict[str, str] = field(default_factory=dict)
    claim: Manifest | None = None
    jobs: dict[str, Manifest] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    version: int = 1
    parent_version: int = 1
    made: int = 0
    progress: object = None
    progress_at: float = 0.0
    times_out: float = FOR_EVER
    # What is worked out once: by the spec, by the template, by everything.
    parsed: tuple[Manifest, Parent] | None = None
    written: tuple[Manifest, str] | None = None
    fetched_by: tuple[object, str] | None = None

    @property
    def time(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def edit(self, **fields: Any) -> None:
        """The user edits the spec."""
        edited = {**self.spec, **fields}
        if edited != self.spec:
            self.spec, self.generation = edited, self.generation + 1
            self.parent_version = self._next_version()

    def parent(self) -> Parent:
        """The LLMDeployment as it is read; its spec is parsed once for each edit."""
        if self.parsed is None or self.parsed[0] is not self.spec:
            live = {
                "metadata": {
                    "name": "triage",
                    "namespace": "clinic",
                    "uid": "uid-1",
                    "generation": 0,
                    "resourceVersion": "",
                },
                "spec": self.spec,
            }
            self.parsed = (self.spec, parse_parent(live))
        return replace(
            self.parsed[1],
            generation=self.generation,
            resource_version=str(self.parent_version),
            status=self.status,
        )

    def observation(self) -> Observation:
        job = self._wanted_job()
        return Observation(
            claim=self.claim,
            fetch=None if job is None else self._job_now(job),
            other_fetches=tuple(self._job_now(one) for one in self.jobs.values() if one is not job),
            fetch_pods=() if job is None else tuple(self._fetch_pods(job)),
            parent=self.parent(),
            deployment=self.deployment,
            service=self.service,
            pods=tuple(pod.manifest(self.now) for pod in self.pods),
            revisions=tuple(self.revisions.values()),
            now=self.time,
            contact_since=START + timedelta(seconds=self.contact_since),
        )

    def write(self, action: Any) -> None:
        """What the API server does with a write of the operator."""
        match action:
            case Record(manifest):
                name = manifest["metadata"]["name"]
                if name in self.revisions:
                    raise Conflict(name)
                self.revisions[name] = self._stored(manifest)
            case Judge(live, annotation):
                name = self._unchanged(live, self.revisions.get(live["metadata"]["name"]))
                old = self.revisions[name]
                annotations = {**old["metadata"]["annotations"], names.VERDICT: annotation}
                annotations |= {names.MODEL: action.model} if action.model else {}
                self.revisions[name] = self._stored(
                    {**old, "metadata": {**old["metadata"], "annotations": annotations}}
                )
            case Forget(live):
                del self.revisions[self._unchanged(live, self.revisions.get(live["metadata"]["name"]))]
            case Apply(manifest, live):
                self._apply(manifest, live)
            case Make(manifest):
                self._make(manifest)
            case Amend(live, operations):
                raise AssertionError(f"nobody shares anything here: {live}, {operations}")
            case Discard(live):
                del self.jobs[self._unchanged(live, self.jobs.get(live["metadata"]["name"]))]

    # The Job controller, and what the fetch's pods do.

    def _make(self, manifest: Manifest) -> None:
        name, kind = manifest["metadata"]["name"], manifest["kind"]
        if name in self.jobs or (kind != "Job" and self.claim is not None):
            raise Conflict(name)
        stored = self._stored(manifest)
        stored["metadata"] |= {"uid": f"uid-{kind}-{self.version}", "creationTimestamp": self.time.strftime("%FT%TZ")}
        if kind == "Job":
            env = {
                one["name"]: one.get("value") for one in manifest["spec"]["template"]["spec"]["containers"][0]["env"]
            }
            stored["behaviour"], stored["begins"] = self.fetches.get(str(env["MODEL_REVISION"]), "brings"), self.now
            self.jobs[name] = stored
        else:
            self.claim = {**stored, "status": {"phase": "Bound"}}

    def _wanted_job(self) -> Manifest | None:
        parent = self.parent()
        assert isinstance(parent.spec, LLMDeploymentSpec)
        if parent.spec.used_cache is None or self.claim is None or not self.jobs:
            return None
        # Whatever is written makes a new version, and what is deleted makes fewer.
        state = (self.version, len(self.revisions), self.claim["metadata"]["uid"])
        if self.fetched_by is None or self.fetched_by[0] != state:
            history = read_history(parent, self.revisions.values())
            self.fetched_by = (state, fetch_name(refilled(parent.spec, history, self.claim), self.claim, SETTINGS))
        job = self.jobs.get(self.fetched_by[1])
        ended = None if job is None else self._ended(job)
        return None if ended is not None and self.now >= ended + KEPT_SECONDS else job

    def _lives(self, job: Manifest) -> Iterator[tuple[float, float, int, str]]:
        """When each pod begins and ends, and how."""
        at, pause = job["begins"], 10.0
        for lasts, code, words in FETCHES[job["behaviour"]] or [(FOR_EVER, 0, "")]:
            yield at, at + lasts, code, words
            at, pause = at + lasts + pause, min(360.0, pause * 2)

    def _ended(self, job: Manifest) -> float | None:
        end, code = [(end, code) for _, end, code, _ in self._lives(job)][-1]
        final = code in (0, 22) or job["behaviour"] == "down"
        return end if end <= self.now and final else None

    def _job_now(self, job: Manifest) -> Manifest:
        ended, good = self._ended(job), job["behaviour"] not in ("gated", "down")
        done = [] if ended is None else [{"type": "Complete" if good else "Failed", "status": "True"}]
        return {**job, "status": {"conditions": done}}

    def _fetch_pods(self, job: Manifest) -> Iterator[Manifest]:
        for number, (begin, end, code, words) in enumerate(self._lives(job)):
            if begin > self.now:
                return
            state: Manifest = {"running": {}}
            phase = "Running"
            if end <= self.now:
                message = last_words_of(code, words)
                finished = (START + timedelta(seconds=end)).strftime("%FT%TZ")
                state = {"terminated": {"exitCode": code, "message": message, "finishedAt": finished}}
                phase = "Failed" if code else "Succeeded"
            elif job["behaviour"] == "no Secret":
                state, phase = {"waiting": {"reason": "CreateContainerConfigError", "message": "no Secret"}}, "Pending"
            yield {
                "metadata": {"name": f"{job['metadata']['name']}-{number}", "namespace": "clinic", "labels": {}},
                "spec": {"containers": []},
                "status": {"phase": phase, "containerStatuses": [{"name": names.FETCH_CONTAINER, "state": state}]},
            }

    def _apply(self, manifest: Manifest, live: Manifest | None) -> None:
        kind = manifest["kind"].lower()
        old: Manifest | None = getattr(self, kind)
        if live is None and old is not None:
            raise Conflict(kind)
        if live is not None:
            self._unchanged(live, old)
        stored = self._stored(manifest)
        changed = old is None or old["spec"] != manifest["spec"]
        before = 0 if old is None else old["metadata"]["generation"]
        stored["metadata"] = {**stored["metadata"], "generation": before + 1 if changed else before}
        if old is not None and "status" in old:
            stored["status"] = old["status"]
        setattr(self, kind, stored)

    def write_status(self, observed_version: str, status: Manifest) -> None:
        if observed_version != str(self.parent_version):
            raise Conflict("status")
        self.status, self.parent_version = status, self._next_version()

    def _stored(self, manifest: Manifest) -> Manifest:
        metadata = {
            "uid": f"uid-{manifest['kind']}",
            **manifest["metadata"],
            "resourceVersion": str(self._next_version()),
        }
        return {**manifest, "metadata": metadata}

    def _unchanged(self, live: Manifest, stored: Manifest | None) -> str:
        if stored is None or stored["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]:
            raise Conflict(live["metadata"]["name"])
        return str(live["metadata"]["name"])

    def _next_version(self) -> int:
        self.version += 1
        return self.version

    # The Deployment controller, as its documentation describes it.

    def settle(self) -> None:
        """Let the Deployment controller do all that it can do at this moment."""
        for _ in range(100):
            before = (self.pods, None if self.deployment is None else self.deployment.get("status"))
            self._roll()
            if before == (self.pods, None if self.deployment is None else self.deployment.get("status")):
                return
        raise AssertionError("the Deployment controller never comes to rest")

    def _roll(self) -> None:
        if self.deployment is None:
            self.pods = []
            return
        spec = self.deployment["spec"]
        if self.written is None or self.written[0] is not spec["template"]:
            self.written = (spec["template"], json.dumps(spec["template"], sort_keys=True))
        template, wanted = self.written[1], spec["replicas"]
        new = [pod for pod in self.pods if pod.template == template]
        old = [pod for pod in self.pods if pod.template != template]
        available = [pod for pod in self.pods if self.is_available(pod)]
        recreate = spec["strategy"]["type"] == "Recreate"
        if len(new) > wanted:
            new.sort(key=self.is_available)
            self._end(new[0])
        elif recreate and old:
            self._end(old[0])
        elif len(new) < wanted and (recreate or len(self.pods) < wanted + 1):
            self._start(template, spec["template"])
        elif old:
            unavailable_new = sum(1 for pod in new if not self.is_available(pod))
            if len(self.pods) - wanted - unavailable_new > 0:
                broken = [pod for pod in old if not self.is_available(pod)]
                if broken:
                    self._end(broken[0])
                elif len(available) > wanted:
                    self._end(old[0])
        self._count(template)

    def _count(self, template: str) -> None:
        assert self.deployment is not None
        counts = {
            "replicas": len(self.pods),
            "updatedReplicas": sum(1 for pod in self.pods if pod.template == template),
            "readyReplicas": sum(1 for pod in self.pods if pod.ready_since(self.now) is not None),
            "availableReplicas": sum(1 for pod in self.pods if self.is_available(pod)),
        }
        spec = self.deployment["spec"]
        complete = all(counts[key] == spec["replicas"] for key in ("replicas", "updatedReplicas", "availableReplicas"))
        progress = (self.deployment["metadata"]["generation"], counts)
        if progress != self.progress:
            self.progress, self.progress_at = progress, self.now
        self.times_out = FOR_EVER if complete else self.progress_at + spec["progressDeadlineSeconds"]
        late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        status = {
            "observedGeneration": self.deployment["metadata"]["generation"],
            **{key: value for key, value in counts.items() if value},
            **({"conditions": [late]} if self.now >= self.times_out else {}),
        }
        if status != self.deployment.get("status"):
            self.deployment = self._stored({**self.deployment, "status": status})

    def is_available(self, pod: Pod) -> bool:
        assert self.deployment is not None
        since = pod.ready_since(self.now)
        return since is not None and self.now - since >= self.deployment["spec"].get("minReadySeconds", 0)

    def _start(self, template: str, manifest: Manifest) -> None:
        self.made += 1
        image = manifest["spec"]["containers"][0]["image"]
        behaviour = self.behaviour.get(image, "good")
        self.pods = [*self.pods, Pod(f"triage-{self.made}", template, image, behaviour, self.now, self.now)]

    def _end(self, gone: Pod) -> None:
        self.pods = [pod for pod in self.pods if pod is not gone]

    def change_behaviour(self, image: str, behaviour: str) -> None:
        """From now on the image behaves in another way, in pods that run as well."""
        self.behaviour = {**self.behaviour, image: behaviour}
        self.pods = [
            replace(pod, behaviour=behaviour, begins=self.now) if pod.image == image else pod for pod in self.pods
        ]

    def next_change(self) -> float:
        """When the next pod changes, or becomes available."""
        moments = [pod.changes_after(self.now) for pod in self.pods]
        if self.deployment is not None:
            soak = self.deployment["spec"].get("minReadySeconds", 0)
            due = [since + soak for pod in self.pods if (since := pod.ready_since(self.now)) is not None]
            moments += [one for one in (*due, self.times_out) if one > self.now]
        job = self._wanted_job()
        if job is not None:
            moments += [one for begin, end, _, _ in self._lives(job) for one in (begin, end) if one > self.now]
        return min(moments, default=FOR_EVER)
