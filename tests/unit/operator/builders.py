"""Values for tests: `an_observation(...)` and friends, with sensible defaults and overrides."""

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.api_clock import LONG_AGO
from llm_operator.core import names
from llm_operator.core.actions import Apply, Create, CreateRevision, Delete, DeleteRevision, Patch, SetVerdict
from llm_operator.core.children.deployment import build_deployment
from llm_operator.core.children.pod_template import build_pod_template
from llm_operator.core.children.service import build_service
from llm_operator.core.model_cache.fetch_job import build_fetch, fetch_name
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation, Parent, Settings
from llm_operator.core.planner import Plan
from llm_operator.core.revisions.declaration import declaration
from llm_operator.core.revisions.revision import Revision, name_of, new_revision, parse_revision
from llm_operator.core.revisions.state import State, Verdict
from llm_operator.core.times import timestamp

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings(server_image="registry.example.com/server:1")
UID = "11111111-1111-1111-1111-111111111111"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def a_spec(**over: Any) -> LLMDeploymentSpec:
    return LLMDeploymentSpec.model_validate({"mode": "mock", **over})


def a_parent(**over: Any) -> Parent:
    values: dict[str, Any] = {
        "name": "triage",
        "namespace": "clinic",
        "uid": UID,
        "generation": 1,
        "resource_version": "7",
        "spec": a_spec(),
        "status": {"observedGeneration": -1},
    }
    return Parent(**{**values, **over})


def an_observation(**over: Any) -> Observation:
    values: dict[str, Any] = {
        "parent": a_parent(),
        "deployment": None,
        "service": None,
        "pods": (),
        "revisions": (),
        "now": NOW,
        "contact_since": LONG_AGO,
    }
    return Observation(**{**values, **over})


def a_verdict(state: State = State.CANDIDATE, **over: Any) -> Verdict:
    """A candidate began a minute ago; what is decided was so an hour (good) or a minute (rejected) ago."""
    values: dict[State, dict[str, Any]] = {
        State.CANDIDATE: {"started_at": ago(60), "progress_at": ago(60)},
        State.GOOD: {"decided_at": ago(3600)},
        State.REJECTED: {"decided_at": ago(60), "reason": "ImageNotFound", "message": "There is no such image."},
        State.FALLBACK: {},
    }
    return Verdict(state, **{**values[state], **over})


def a_revision(
    state: State = State.CANDIDATE, *, number: int = 1, spec: LLMDeploymentSpec | None = None, **over: Any
) -> Revision:
    """A recorded revision of a spec, with a verdict of that state."""
    spec = spec or a_spec()
    name = name_of(declaration(spec), ())
    made = new_revision(a_parent(), spec, SETTINGS, name=name, number=number, verdict=a_verdict(state, **over))
    return read(as_stored(made.live))


def read(live: Manifest) -> Revision:
    revision = parse_revision(live)
    assert revision is not None
    return revision


def a_manifest(spec: LLMDeploymentSpec | None = None, revision: Revision | None = None) -> Manifest:
    """The Deployment that is applied for a spec, with its own template or that of another revision."""
    spec = spec or a_spec()
    name = name_of(declaration(spec), ())
    template = build_pod_template("triage", spec, SETTINGS, revision=name)
    if revision is not None:
        name, template = revision.hash, revision.template
    return build_deployment(a_parent(), replicas=spec.replicas, rollout=spec.rollout, revision=name, template=template)


def running(
    spec: LLMDeploymentSpec,
    revision: Revision,
    *others: Revision,
    counts: dict[str, Any] | None = None,
    **over: Any,
) -> Observation:
    """The spec is declared and the Deployment has been given the revision; its pods are all there unless `counts`."""
    counts = rolled_out(spec.replicas) if counts is None else {"observedGeneration": 1, **counts}
    values: dict[str, Any] = {
        "parent": a_parent(spec=spec),
        "deployment": as_stored(a_manifest(spec, revision), **counts),
        "service": as_stored(build_service(a_parent())),
        "revisions": tuple(one.live for one in (revision, *others)),
    }
    return an_observation(**{**values, **over})


def as_stored(manifest: Manifest, live: Manifest | None = None, **status: Any) -> Manifest:
    """What an API server makes of a written manifest: identity, version, generation, some defaults."""
    stored = copy.deepcopy(manifest)
    before: Manifest = {"generation": 0, "resourceVersion": "0"} if live is None else live["metadata"]
    stored["metadata"] |= {
        "uid": f"uid-{stored['kind']}-{stored['metadata']['name']}",
        "resourceVersion": str(int(before["resourceVersion"]) + 1),
        "creationTimestamp": "2026-01-02T03:00:00Z",
    }
    if stored["kind"] == "Deployment":
        stored["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
        changed = live is None or live["spec"] != stored["spec"]
        stored["metadata"]["generation"] = before["generation"] + 1 if changed else before["generation"]
    if live is not None and "status" in live:
        stored["status"] = live["status"]
    if status:
        stored["status"] = status
    return stored


def after(observation: Observation, plan: Plan, **deployment_status: Any) -> Observation:
    """What the next pass observes once the plan's actions are stored; at the same time unless that is replaced."""
    deployment, service = observation.deployment, observation.service
    claim, fetch, others = observation.claim, observation.fetch, list(observation.other_fetches)
    revisions = {one["metadata"]["name"]: one for one in observation.revisions}
    for action in plan.actions:
        match action:
            case CreateRevision(manifest):
                assert manifest["metadata"]["name"] not in revisions, "a create touches nothing that exists"
                revisions[manifest["metadata"]["name"]] = as_stored(manifest)
            case SetVerdict(live, annotation):
                old = revisions[live["metadata"]["name"]]
                annotations = {**old["metadata"]["annotations"], names.VERDICT: annotation}
                annotations |= {names.MODEL: action.model} if action.model else {}
                judged = {**old, "metadata": {**old["metadata"], "annotations": annotations}}
                revisions[live["metadata"]["name"]] = as_stored(judged, old)
            case DeleteRevision(live):
                del revisions[live["metadata"]["name"]]
            case Create(manifest) if manifest["kind"] == "Job":
                fetch = as_stored(manifest)
                fetch["metadata"]["creationTimestamp"] = timestamp(observation.now)
            case Create(manifest):
                claim = as_stored(manifest)
            case Patch(live) | Delete(live) if live in observation.other_fetches:
                others.remove(live)
            case Patch(live) if live["kind"] == "Job":
                fetch = amended(live, action)
            case Patch(live):
                claim = amended(live, action)
            case Delete():
                fetch = None
            case Apply(manifest):
                if manifest["kind"] == "Deployment":
                    deployment = as_stored(manifest, deployment, **deployment_status)
                else:
                    service = as_stored(manifest, service)
    return replace(
        observation,
        deployment=deployment,
        service=service,
        claim=claim,
        fetch=fetch,
        other_fetches=tuple(others),
        fetch_pods=() if fetch is None else observation.fetch_pods,
        revisions=tuple(revisions.values()),
        suspicion=plan.suspicion,
    )


def amended(live: Manifest, action: Patch) -> Manifest:
    """What a JSON patch of the few kinds that are used makes of an object."""
    changed = copy.deepcopy(live)
    for operation in action.operations:
        *parents, last = (part.replace("~1", "/") for part in operation["path"].strip("/").split("/"))
        place = changed
        for one in parents:
            place = place[one]
        match operation["op"], last:
            case "add", "-":
                assert isinstance(place, list)
                place.append(operation["value"])
            case "remove", _:
                assert isinstance(place, list)
                del place[int(last)]
            case _:
                place[last] = operation["value"]
    return changed


def rolled_out(replicas: int, generation: int = 1) -> dict[str, Any]:
    """Status of a Deployment whose pods all run the newest template and are available."""
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    return {"observedGeneration": generation, **{name: replicas for name in counts if replicas}}


def a_pod(name: str = "triage-1", *, of: Revision | None = None, ready: bool = False, **over: Any) -> Manifest:
    """A pod, of a revision; what is `over` goes into its status."""
    pod: Manifest = {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "clinic",
            "creationTimestamp": "2026-01-02T03:04:00Z",
            "annotations": {} if of is None else {names.REVISION: of.hash},
            "labels": {**names.labels("triage"), "pod-template-hash": "5d8f"},
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": "triage-5d8f", "uid": "uid-triage-5d8f", "controller": True}
            ],
        },
        "spec": {"containers": [{"name": names.SERVER_CONTAINER, "resources": {"limits": {"memory": "64Mi"}}}]},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }
    pod["status"] |= over
    return pod


COMMIT = "c" * 40
FACTS = {"layers": 36, "keyValueHeads": 8, "headDimension": 128, "contextTokens": 262144, "dtype": "bfloat16"}
WEIGHTS = 8_044_936_192


def last_words_of(code: int = 0, reason: str = "", **over: Any) -> str:
    """The termination message of a fetch: what it brought, or why it failed, or nothing."""
    if code and not reason:
        return ""
    if code:
        return json.dumps({"reason": reason, "message": "It went wrong.", "remedy": "Put it right."})
    record = {"repository": "Qwen/Qwen3-4B-Thinking-2507", "commit": COMMIT, "weightsBytes": WEIGHTS, "model": FACTS}
    return json.dumps({**record, "path": f"/models/Qwen--Qwen3-4B-Thinking-2507/{COMMIT}", **over})


def a_cached_spec(**over: Any) -> LLMDeploymentSpec:
    """A real model in a claim."""
    return a_spec(**{"mode": "qwen", "cache": {}, **over})


def a_claim(*, ours: bool = True, phase: str = "Bound", size: str = "20Gi", **over: Any) -> Manifest:
    metadata: Manifest = {"name": "model-cache", "namespace": "clinic", "uid": "uid-claim", "resourceVersion": "1"}
    labels = names.shared_labels("model-cache") if ours else {}
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {**metadata, "labels": labels, **over},
        "spec": {"resources": {"requests": {"storage": size}}},
        "status": {"phase": phase},
    }


def a_fetch(
    condition: str | None = None, *, of: LLMDeploymentSpec | None = None, owner: str = UID, made: datetime = NOW
) -> Manifest:
    """The Job of a fetch, with the condition that it has ended in."""
    parent = a_parent(uid=owner)
    spec = of or a_cached_spec()
    assert spec.used_cache is not None
    name = fetch_name(spec, a_claim(), SETTINGS)
    job = as_stored(build_fetch(parent, spec, spec.used_cache, name, SETTINGS))
    job["metadata"]["creationTimestamp"] = timestamp(made)
    job["status"] = {"conditions": [] if condition is None else [{"type": condition, "status": "True"}]}
    return job


def a_fetch_pod(
    code: int | None = None, message: str = "", *, at: datetime = NOW, name: str = "fetch-1", **over: Any
) -> Manifest:
    """A pod of a fetch that runs, or has ended with a code."""
    state: Manifest = {"running": {}}
    phase = "Running"
    if code is not None:
        state = {"terminated": {"exitCode": code, "message": message, "finishedAt": timestamp(at)}}
        phase = "Failed" if code else "Succeeded"
    status = {"phase": phase, "containerStatuses": [{"name": names.FETCH_CONTAINER, "state": state}]}
    return {
        "metadata": {"name": name, "namespace": "clinic", "labels": {}},
        "spec": {"containers": []},
        "status": {**status, **over},
    }


def going(live: Manifest) -> Manifest:
    """The same object while it is being deleted."""
    return {**live, "metadata": {**live["metadata"], "deletionTimestamp": "2026-01-02T03:04:05Z"}}


def injected(status: list[Manifest], name: str = "istio-proxy") -> list[Manifest]:
    """The same of a container that an admission webhook put into the pod."""
    return [{**one, "name": name} for one in status]


def a_container_status(**over: Any) -> list[Manifest]:
    return [{"name": names.SERVER_CONTAINER, "image": "x:1", "ready": False, "restartCount": 1, "state": {}, **over}]


def waiting(reason: str, message: str = "") -> list[Manifest]:
    """A container that waits, and why."""
    return a_container_status(state={"waiting": {"reason": reason, "message": message}})


def died(
    exit_code: int,
    reason: str = "Error",
    message: str = "",
    *,
    crashes: int = 1,
    running: bool = False,
    at: datetime = NOW,
) -> list[Manifest]:
    """A container that ended so often; last in this way."""
    terminated = {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": f"{at:%FT%TZ}"}
    state = {"running": {}} if running else {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
    restarts = crashes if running else crashes - 1
    return a_container_status(state=state, restartCount=restarts, lastState={"terminated": terminated})


def a_refusal(message: str, of: Revision) -> Manifest:
    """A ReplicaSet of a revision whose pods the API server refuses."""
    return {
        "metadata": {"name": "triage-abc", "annotations": {names.REVISION: of.hash}},
        "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}]},
    }
