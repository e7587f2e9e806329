"""A namespace small enough to be walked through at random: LLMDeployments, an API server, controllers, pods, a volume.

It stands for Kubernetes, not for anything of ours; the integration tests run the same stories on the real one.
Time jumps from one moment at which something changes to the next.
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.model_cache.fetch_job import fetch_name
from llm_operator.core.model_cache.job import KEPT_SECONDS
from llm_operator.core.model_cache.known_models import pin_to_recorded_commit
from llm_operator.core.model_cache.prune import GRACE_SECONDS, may_be_pruned
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Neighbourhood, Observation, Parent, Progress
from llm_operator.core.revisions.history import read_history
from llm_operator.observe import parse_parent
from tests.unit.operator.builders import SETTINGS, last_words_of
from tests.unit.operator.simulated_api import Api, Refused
from tests.unit.operator.simulated_deployments import ReplicaSet, resize
from tests.unit.operator.simulated_pods import FOR_EVER, START, Pod, moment

CLAIM = "model-cache"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
PRUNE_SECONDS = 3.0
# How the fetch of a model revision ends: each pod's life in seconds, its exit code and its last words; None is no end.
FETCHES: dict[str, list[tuple[float, int, str]] | None] = {
    "brings": [(3, 0, "")],
    "slow": [(40, 0, "")],
    "too slow": [(200, 0, "")],
    "gated": [(2, 22, "RepositoryGated")],
    "flaky": [(2, 40, "RateLimited"), (2, 0, "")],
    "down": [(2, 43, "EndpointUnavailable")] * 30,
    "crash": [(1, 1, "")] * 30,
    "stalls": [(90, 44, "DownloadStalled")] * 30,
    "no Secret": None,
}


def _pull_always(deployment: Manifest) -> None:
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        container["imagePullPolicy"] = "Always"


def _own_registry(deployment: Manifest) -> None:
    deployment["spec"]["template"]["spec"]["imagePullSecrets"] = [{"name": "mirror"}]


def _default_resources(deployment: Manifest) -> None:
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        container["resources"] = {"limits": {"memory": "2Gi", "cpu": "1"}, "requests": {"cpu": "1"}}


def _team(deployment: Manifest) -> None:
    deployment["metadata"].setdefault("annotations", {})["team"] = "blue"
    deployment["spec"]["template"]["metadata"].setdefault("labels", {})["team"] = "blue"


def _sidecar_in_the_template(deployment: Manifest) -> None:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    if all(one["name"] != "vault-agent" for one in containers):
        containers.append({"name": "vault-agent", "image": "vault:1"})


# What an admission webhook does to every Deployment that is written, whoever writes it.
NORMALISE: dict[str, Callable[[Manifest], None]] = {
    "pull policy": _pull_always,
    "pull Secret": _own_registry,
    "resources": _default_resources,
    "labels": _team,
    "container": _sidecar_in_the_template,
}
# How a write or a pod is refused: status, reason, words.
REFUSALS: dict[str, tuple[int, str, str]] = {
    "policy": (422, "Invalid", "ValidatingAdmissionPolicy 'images' with binding 'images' denied request: not allowed"),
    "forbidden": (403, "Forbidden", "deployments is forbidden: User cannot patch resource"),
    "webhook away": (
        500,
        "InternalError",
        'Internal error occurred: failed calling webhook "x.example.com": failed to call webhook: Post '
        '"https://x.example.svc:443/": dial tcp 10.96.1.1:443: connect: connection refused',
    ),
}


@dataclass
class Workload:
    """What the controllers make of one Deployment."""

    sets: list[ReplicaSet] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    made: int = 0
    progress: object = None
    progress_at: float = 0.0
    times_out: float = FOR_EVER
    # The template that was written out last, and how it reads.
    written: tuple[Manifest, str] | None = None


@dataclass(frozen=True)
class Work:
    """What a Job does, and since when. Beside a sidecar that lives on, its first pod never ends."""

    behaviour: str
    begins: float
    beside_a_sidecar: bool
    earlier_tries: int

    def lives(self) -> Iterator[tuple[float, float, int, str]]:
        """When the fetch of each pod begins and ends, and how."""
        at, pause = self.begins, 10.0
        lives = ([(PRUNE_SECONDS, 0, "")] if self.behaviour == "prune" else FETCHES[self.behaviour]) or []
        if self.beside_a_sidecar:
            number = min(self.earlier_tries, len(lives) - 1)
            lives = lives[number : number + 1]
        for lasts, code, words in lives or [(FOR_EVER, 0, "")]:
            yield at, at + lasts, code, words
            at, pause = at + lasts + pause, min(360.0, pause * 2)

    @property
    def is_done(self) -> float:
        """When the work itself is done, for good or bad."""
        _, end, code, _ = list(self.lives())[-1]
        return end if code in (0, 22) or self.behaviour in ("down", "stalls") else FOR_EVER

    @property
    def ends(self) -> float:
        """When the Job has ended."""
        return FOR_EVER if self.beside_a_sidecar else self.is_done

    @property
    def brings(self) -> bool:
        """Whether it ends well."""
        return self.behaviour not in ("gated", "down", "stalls")


@dataclass(frozen=True)
class Backup:
    """What etcd held at some time."""

    objects: dict[tuple[str, str], Manifest]
    version: int
    workloads: dict[str, Workload]
    volume: dict[str, float]


@dataclass
class Cluster:
    """A namespace, and everything that moves in it but the operator."""

    behaviour: dict[str, str]
    fetches: dict[str, str] = field(default_factory=dict)
    api: Api = field(default_factory=Api)
    now: float = 0.0
    contact_since: float = -1e6
    workloads: dict[str, Workload] = field(default_factory=dict)
    jobs: dict[str, "Work"] = field(default_factory=dict)  # by uid
    # How often a Job of a name was made.
    tries: Counter[str] = field(default_factory=Counter)
    # The folders of models on the claim's volume, and when each was published.
    volume: dict[str, float] = field(default_factory=dict)
    # How many server pods find a node, and how many the quota lets be made.
    capacity: int | None = None
    quota: int | None = None
    # When the sidecar, if one is put into new pods, has nothing to talk to.
    injects: bool = False
    away: tuple[tuple[float, float], ...] = ()
    # What is refused until when: pods, or writes of a resource.
    refusals: dict[str, tuple[str, float]] = field(default_factory=dict)
    forbidden_images: frozenset[str] = frozenset()
    normalises: str | None = None
    parsed: dict[str, tuple[Manifest, Parent]] = field(default_factory=dict)
    fetched_by: dict[str, tuple[object, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.api.admit = self._admit

    @property
    def time(self) -> datetime:
        return START + timedelta(seconds=self.now)

    # Users.

    def install(self, name: str, spec: Manifest) -> None:
        """A user applies an LLMDeployment."""
        metadata = {"name": name, "namespace": "clinic", "uid": f"uid-{name}", "generation": 1}
        status = {"observedGeneration": -1}
        self.workloads[name] = Workload()
        self.api.put({"kind": "LLMDeployment", "metadata": metadata, "spec": spec, "status": status})

    def live(self, name: str) -> Manifest:
        found = self.api.get("llmdeployments", name)
        assert found is not None
        return found

    def spec_of(self, name: str) -> LLMDeploymentSpec:
        spec = self.parent(name).spec
        assert isinstance(spec, LLMDeploymentSpec)
        return spec

    def edit(self, name: str, **fields: Any) -> None:
        """The user edits the spec."""
        live = self.live(name)
        edited = {**live["spec"], **fields}
        if edited != live["spec"]:
            metadata = {**live["metadata"], "generation": live["metadata"]["generation"] + 1}
            self.api.put({**live, "metadata": metadata, "spec": edited})

    def edit_deployment(self, name: str, change: Callable[[Manifest], None]) -> None:
        """Somebody edits the Deployment."""
        live = self.api.get("deployments", name)
        if live is None:
            return
        edited = copy.deepcopy(live)
        change(edited)
        if edited["spec"] != live["spec"]:
            edited["metadata"]["generation"] += 1
        self.api.put(self._normalised(edited))

    def restart(self, name: str) -> None:
        """`kubectl rollout restart`, which asks for other pods of the same kind."""

        def ask(deployment: Manifest) -> None:
            metadata = deployment["spec"]["template"]["metadata"]
            metadata["annotations"] = {**metadata.get("annotations", {}), RESTARTED_AT: moment(self.now)}

        self.edit_deployment(name, ask)

    def scale(self, name: str, replicas: int) -> None:
        """`kubectl scale`, or an autoscaler, at the Deployment itself."""
        self.edit_deployment(name, lambda deployment: deployment["spec"].update(replicas=replicas))

    def wipe_status(self, name: str) -> None:
        self.api.put({**self.live(name), "status": {"observedGeneration": -1}})

    # The people who run etcd.

    def backup(self) -> "Backup":
        """All that the API server knows now."""
        return Backup(dict(self.api.objects), self.api.version, copy.deepcopy(self.workloads), dict(self.volume))

    def restore(self, backup: "Backup") -> None:
        """All objects and their versions go back; the kubelets start what is not there any more."""
        running = {pod.name: pod for workload in self.workloads.values() for pod in workload.pods}
        self.api.objects, self.api.version = dict(backup.objects), backup.version
        self.workloads = copy.deepcopy(backup.workloads)
        for workload in self.workloads.values():
            workload.pods = [
                running.get(pod.name) or replace(pod, behaviour=self.behaviour[pod.image], begins=self.now)
                for pod in workload.pods
            ]
        self.volume |= backup.volume
        self.contact_since = self.now
        self.fetched_by.clear()

    # What the operator sees.

    def parent(self, name: str) -> Parent:
        """The LLMDeployment as it is read; its spec is parsed once for each edit."""
        live = self.live(name)
        known = self.parsed.get(name)
        if known is None or known[0] is not live["spec"]:
            known = self.parsed[name] = (live["spec"], parse_parent(live))
        metadata = live["metadata"]
        return replace(
            known[1],
            generation=metadata["generation"],
            resource_version=metadata["resourceVersion"],
            status=live["status"],
        )

    def observation(self, name: str) -> Observation:
        get, workload = self.api.get, self.workloads[name]
        parent, claim, job = self.parent(name), get("persistentvolumeclaims", CLAIM), self._wanted_job(name)
        deployment = get("deployments", name)
        fetches = [one for one in self.api.every("jobs") if names.FETCH in one["metadata"]["labels"]]
        owned = [one for one in fetches if parent.uid in {ref["uid"] for ref in one["metadata"]["ownerReferences"]}]
        cache = self.spec_of(name).used_cache
        return Observation(
            parent=parent,
            deployment=deployment,
            service=get("services", name),
            pods=tuple(pod.manifest(self.now, self.away) for pod in workload.pods),
            revisions=tuple(self.revisions(name)),
            now=self.time,
            contact_since=START + timedelta(seconds=self.contact_since),
            replica_sets=tuple(self._refused_sets(workload)) if _pods_are_refused(deployment) else (),
            claim=None if cache is None else claim,
            fetch=None if job is None else self._job_now(job),
            fetch_pods=() if job is None else tuple(self._fetch_pods(job)),
            fetch_is_heard=True,
            fetch_progress=None if job is None else self._progress(job),
            other_fetches=tuple(self._job_now(one) for one in owned if one is not job),
            neighbourhood=self._neighbourhood(name) if cache and claim and may_be_pruned(cache, claim) else None,
        )

    def revisions(self, name: str) -> list[Manifest]:
        found = self.api.every("controllerrevisions")
        return [one for one in found if one["metadata"]["labels"][names.INSTANCE] == name]

    def _neighbourhood(self, name: str) -> Neighbourhood:
        specs = tuple(one["spec"] for one in self.api.every("llmdeployments") if one["metadata"]["name"] != name)
        jobs = tuple(self._job_now(one) for one in self.api.every("jobs"))
        return Neighbourhood(specs, tuple(self.api.every("controllerrevisions")), jobs)

    # Admission.

    def refuse(self, what: str, how: str, seconds: float) -> None:
        """From now on pods, or writes of a resource, are refused for a while."""
        self.refusals = {**self.refusals, what: (how, self.now + seconds)}

    def _refusal(self, what: str) -> tuple[int, str, str] | None:
        how, until = self.refusals.get(what, ("", 0.0))
        return REFUSALS[how] if self.now < until else None

    def _admit(self, plural: str, manifest: Manifest) -> Manifest:
        refusal = self._refusal(plural)
        if refusal is not None:
            raise Refused(*refusal)
        if plural.endswith("/status"):
            return manifest
        old = self.api.get(plural, manifest["metadata"]["name"])
        manifest["metadata"] = {
            **manifest["metadata"],
            "uid": f"uid-{plural}-{self.api.version}" if old is None else old["metadata"]["uid"],
            "creationTimestamp": moment(self.now) if old is None else old["metadata"]["creationTimestamp"],
        }
        if plural == "deployments":
            manifest = self._normalised(manifest)
            image = manifest["spec"]["template"]["spec"]["containers"][0]["image"]
            if image in self.forbidden_images:
                raise Refused(*REFUSALS["policy"])
            before = 0 if old is None else old["metadata"]["generation"]
            changed = old is None or old["spec"] != manifest["spec"]
            manifest["metadata"]["generation"] = before + 1 if changed else before
        if plural == "persistentvolumeclaims":
            manifest["status"] = {"phase": "Bound"}
        if plural == "jobs" and old is None:
            self._begin(manifest)
        return manifest

    def _normalised(self, deployment: Manifest) -> Manifest:
        if self.normalises is not None:
            deployment = copy.deepcopy(deployment)
            NORMALISE[self.normalises](deployment)
        return deployment

    @staticmethod
    def changed_by_admission(template: Manifest, how: str) -> Manifest:
        """What a webhook makes of a template."""
        deployment: Manifest = {"metadata": {}, "spec": {"template": copy.deepcopy(template)}}
        NORMALISE[how](deployment)
        changed: Manifest = deployment["spec"]["template"]
        return changed

    # The Job controller, and what the pods of fetches and prunes do.

    def _begin(self, job: Manifest) -> None:
        env = {one["name"]: one.get("value") for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
        behaviour = "prune" if "KEEP_MODELS" in env else self.fetches.get(str(env.get("MODEL_REVISION")), "brings")
        name = job["metadata"]["name"]
        self.jobs[job["metadata"]["uid"]] = Work(behaviour, self.now, self.injects, self.tries[name])
        self.tries[name] += 1

    def _wanted_job(self, name: str) -> Manifest | None:
        spec, claim = self.spec_of(name), self.api.get("persistentvolumeclaims", CLAIM)
        if spec.used_cache is None or claim is None or not self.api.every("jobs"):
            return None
        known = self.fetched_by.get(name)
        if known is None or known[0] != self.api.version:
            history = read_history(self.parent(name), self.revisions(name))
            fetch = fetch_name(pin_to_recorded_commit(spec, history, claim), claim, SETTINGS)
            known = self.fetched_by[name] = (self.api.version, fetch)
        return self.api.get("jobs", known[1])

    def _work(self, job: Manifest) -> Work:
        return self.jobs[job["metadata"]["uid"]]

    def _job_now(self, job: Manifest) -> Manifest:
        work = self._work(job)
        done = [{"type": "Complete" if work.brings else "Failed", "status": "True"}] if work.ends <= self.now else []
        return {**job, "status": {"conditions": done}}

    def _progress(self, job: Manifest) -> Progress | None:
        """What the log of the pod that runs says: bytes come as time goes by, but where they stall."""
        for begin, end, code, _ in self._work(job).lives():
            if begin <= self.now < end < FOR_EVER:
                return Progress(0 if code else int(self.now - begin), 1 + int(end - begin))
        return None

    def _fetch_pods(self, job: Manifest) -> Iterator[Manifest]:
        work = self._work(job)
        for number, (begin, end, code, words) in enumerate(work.lives()):
            if begin > self.now:
                return
            state: Manifest = {"running": {}}
            phase = "Running"
            if end <= self.now:
                message = last_words_of(code, words, **({} if code else _brought(job)))
                state = {"terminated": {"exitCode": code, "message": message, "finishedAt": moment(end)}}
                phase = "Running" if work.beside_a_sidecar else "Failed" if code else "Succeeded"
            elif work.behaviour == "no Secret":
                message = 'secret "x" not found'
                state, phase = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}, "Pending"
            yield {
                "metadata": {"name": f"{job['metadata']['name']}-{number}", "namespace": "clinic", "labels": {}},
                "spec": {"containers": []},
                "status": {
                    "phase": phase,
                    "conditions": [{"type": "Ready", "status": str("running" in state)}],
                    "containerStatuses": [{"name": names.FETCH_CONTAINER, "state": state}],
                },
            }

    def _work_on_the_volume(self) -> None:
        """Publish what fetches bring, delete what prunes need not keep, and forget the Jobs that ended long ago."""
        if self.api.get("persistentvolumeclaims", CLAIM) is None:
            self.volume = {}
        for job in self.api.every("jobs"):
            work = self._work(job)
            if work.is_done > self.now:
                continue
            if work.behaviour == "prune":
                self._prune(job, work.is_done)
            elif work.brings:
                self.volume.setdefault(_folder(_brought(job)["path"]), work.is_done)
            if work.ends + KEPT_SECONDS <= self.now:
                self.api.remove("jobs", job["metadata"]["name"])

    def _prune(self, job: Manifest, end: float) -> None:
        env = {one["name"]: one["value"] for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
        kept = json.loads(env["KEEP_MODELS"])
        self.volume = {
            folder: published
            for folder, published in self.volume.items()
            if folder in kept or published + GRACE_SECONDS > end
        }

    # The Deployment and ReplicaSet controllers, the scheduler.

    def settle(self) -> None:
        """Let the controllers do all that they can do at this moment."""
        self._work_on_the_volume()
        for _ in range(500):
            moved = [self._sync(name, workload) for name, workload in self.workloads.items()]
            if not any(moved) and not self._place():
                return
        raise AssertionError("the controllers never come to rest")

    def _sync(self, name: str, workload: Workload) -> bool:
        """Whether anything moved."""
        deployment = self.api.get("deployments", name)
        if deployment is None:
            moved = bool(workload.pods)
            workload.sets, workload.pods = [], []
            return moved
        new = self._newest(name, workload, deployment["spec"]["template"])
        old = [one for one in workload.sets if one is not new]
        before = [one.replicas for one in workload.sets]
        available = partial(self._available, workload, deployment)
        resize(deployment["spec"], new, old, available=available, pods=lambda one: len(_of(one, workload)))
        moved = [one.replicas for one in workload.sets] != before
        for one in workload.sets:
            moved = self._fill(workload, one, deployment) or moved
        return self._count(workload, deployment, new) or moved

    def _newest(self, name: str, workload: Workload, template: Manifest) -> ReplicaSet:
        if workload.written is None or workload.written[0] is not template:
            workload.written = (template, json.dumps(template, sort_keys=True))
        text = workload.written[1]
        found = next((one for one in workload.sets if one.template == text), None)
        if found is None:
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            found = ReplicaSet(f"{name}-{digest}", text, len(workload.sets))
            workload.sets = [*workload.sets, found]
        return found

    def _fill(self, workload: Workload, one: ReplicaSet, deployment: Manifest) -> bool:
        pods = _of(one, workload)
        if len(pods) < one.replicas and self.why_refused() is None:
            self._start(workload, one)
            return True
        if len(pods) > one.replicas:
            # The ones that wait for a node, those that are not ready, the youngest.
            pods.sort(key=lambda pod: (pod.is_placed, self._is_available(pod, deployment), -pod.created))
            workload.pods = [pod for pod in workload.pods if pod is not pods[0]]
            return True
        return False

    def why_refused(self) -> str | None:
        """What the API server says to a new pod, if it refuses it."""
        refusal = self._refusal("pods")
        if refusal is not None:
            return refusal[2]
        count = sum(len(one.pods) for one in self.workloads.values())
        if self.quota is not None and count >= self.quota:
            limits = f"requested: pods=1, used: pods={count}, limited: pods={self.quota}"
            return f'pods "triage-x" is forbidden: exceeded quota: team, {limits}'
        return None

    def _start(self, workload: Workload, one: ReplicaSet) -> None:
        workload.made += 1
        template = json.loads(one.template)
        image = template["spec"]["containers"][0]["image"]
        reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": one.name, "uid": f"uid-{one.name}"}
        pod = Pod(
            f"{one.name}-{workload.made}",
            {"hash": one.name.rpartition("-")[2], "reference": {**reference, "controller": True}},
            one.template,
            image,
            self.behaviour.get(image, "good"),
            created=self.now,
            injected=self.injects,
        )
        workload.pods = [*workload.pods, pod]

    def _place(self) -> bool:
        """The scheduler: whoever was made first gets the next free place."""
        pods = [pod for workload in self.workloads.values() for pod in workload.pods]
        free = FOR_EVER if self.capacity is None else self.capacity - sum(pod.is_placed for pod in pods)
        waiting = sorted((pod for pod in pods if not pod.is_placed), key=lambda pod: (pod.created, pod.name))
        if not waiting or free < 1:
            return False
        for workload in self.workloads.values():
            workload.pods = [replace(one, begins=self.now) if one is waiting[0] else one for one in workload.pods]
        return True

    def _count(self, workload: Workload, deployment: Manifest, new: ReplicaSet) -> bool:
        spec, pods = deployment["spec"], workload.pods
        counts = {
            "replicas": len(pods),
            "updatedReplicas": len(_of(new, workload)),
            "readyReplicas": sum(1 for pod in pods if pod.ready_since(self.now, self.away) is not None),
            "availableReplicas": sum(1 for pod in pods if self._is_available(pod, deployment)),
        }
        complete = all(counts[key] == spec["replicas"] for key in ("replicas", "updatedReplicas", "availableReplicas"))
        progress = (deployment["metadata"]["generation"], counts)
        if progress != workload.progress:
            workload.progress, workload.progress_at = progress, self.now
        workload.times_out = FOR_EVER if complete else workload.progress_at + spec["progressDeadlineSeconds"]
        late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        lacking = self.why_refused() if any(len(_of(one, workload)) < one.replicas for one in workload.sets) else None
        refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": lacking}
        conditions = [late] if self.now >= workload.times_out else []
        conditions += [refused] if lacking is not None else []
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            **{key: value for key, value in counts.items() if value},
            **({"conditions": conditions} if conditions else {}),
        }
        if status == deployment.get("status"):
            return False
        self.api.put({**deployment, "status": status})
        return True

    def _refused_sets(self, workload: Workload) -> Iterator[Manifest]:
        for one in workload.sets:
            if len(_of(one, workload)) < one.replicas:
                failure = {"type": "ReplicaFailure", "status": "True", "message": self.why_refused() or ""}
                annotations = json.loads(one.template)["metadata"].get("annotations", {})
                yield {
                    "metadata": {"name": one.name, "annotations": annotations},
                    "status": {"conditions": [failure]},
                }

    def _available(self, workload: Workload, deployment: Manifest, one: ReplicaSet) -> int:
        return sum(1 for pod in _of(one, workload) if self._is_available(pod, deployment))

    def _is_available(self, pod: Pod, deployment: Manifest) -> bool:
        since = pod.ready_since(self.now, self.away)
        return since is not None and self.now - since >= deployment["spec"].get("minReadySeconds", 0)

    def is_available(self, name: str, pod: Pod) -> bool:
        deployment = self.api.get("deployments", name)
        assert deployment is not None
        return self._is_available(pod, deployment)

    def change_behaviour(self, image: str, behaviour: str) -> None:
        """From now on the image behaves in another way, in pods that run as well."""
        self.behaviour = {**self.behaviour, image: behaviour}
        for workload in self.workloads.values():
            workload.pods = [
                replace(pod, behaviour=behaviour, begins=self.now if pod.is_placed else pod.begins)
                if pod.image == image
                else pod
                for pod in workload.pods
            ]

    def next_change(self) -> float:
        """When the next thing changes by itself."""
        moments = [until for _, until in self.refusals.values() if until > self.now]
        for name, workload in self.workloads.items():
            moments += [pod.changes_after(self.now, self.away) for pod in workload.pods]
            deployment = self.api.get("deployments", name)
            if deployment is not None:
                soak = deployment["spec"].get("minReadySeconds", 0)
                ready = (pod.ready_since(self.now, self.away) for pod in workload.pods)
                due = [since + soak for since in ready if since is not None]
                moments += [one for one in (*due, workload.times_out) if one > self.now]
        for job in self.api.every("jobs"):
            moments += [one for begin, end, _, _ in self._work(job).lives() for one in (begin, end) if one > self.now]
        return min(moments, default=FOR_EVER)


def _of(one: ReplicaSet, workload: Workload) -> list[Pod]:
    return [pod for pod in workload.pods if pod.template == one.template]


def _pods_are_refused(deployment: Manifest | None) -> bool:
    conditions = (deployment or {}).get("status", {}).get("conditions", [])
    return any(one["type"] == "ReplicaFailure" for one in conditions)


def _brought(job: Manifest) -> dict[str, str]:
    """Commit and folder of what a fetch brings: another one for each revision of the model."""
    env = {one["name"]: one.get("value") for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    revision = str(env["MODEL_REVISION"])
    commit = revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()
    return {"commit": commit, "path": f"{names.MODELS_FOLDER}/Qwen--Qwen3-4B-Thinking-2507/{commit}"}


def _folder(path: str) -> str:
    return path.removeprefix(f"{names.MODELS_FOLDER}/")
