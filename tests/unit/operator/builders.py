"""Values for tests: `an_observation(...)` and friends, with sensible defaults and overrides."""

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.contact import LONG_AGO
from llm_operator.core import names
from llm_operator.core.children import build_deployment, build_pod_template, build_service
from llm_operator.core.model import Apply, Forget, Judge, Observation, Parent, Plan, Record, Settings
from llm_operator.core.names import Manifest
from llm_operator.core.revision import (
    Revision,
    State,
    Verdict,
    hash_of,
    new_revision,
    parse_revision,
    revisioned_fields,
)

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
    name = hash_of(revisioned_fields(spec), ())
    made = new_revision(a_parent(), spec, SETTINGS, name=name, number=number, verdict=a_verdict(state, **over))
    return read(as_stored(made.live))


def read(live: Manifest) -> Revision:
    revision = parse_revision(live)
    assert revision is not None
    return revision


def a_manifest(spec: LLMDeploymentSpec | None = None, revision: Revision | None = None) -> Manifest:
    """The Deployment that is applied for a spec, with its own template or that of another revision."""
    spec = spec or a_spec()
    name = hash_of(revisioned_fields(spec), ())
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
    revisions = {one["metadata"]["name"]: one for one in observation.revisions}
    for action in plan.actions:
        match action:
            case Record(manifest):
                assert manifest["metadata"]["name"] not in revisions, "a create touches nothing that exists"
                revisions[manifest["metadata"]["name"]] = as_stored(manifest)
            case Judge(live, annotation):
                old = revisions[live["metadata"]["name"]]
                annotations = {**old["metadata"]["annotations"], names.VERDICT: annotation}
                judged = {**old, "metadata": {**old["metadata"], "annotations": annotations}}
                revisions[live["metadata"]["name"]] = as_stored(judged, old)
            case Forget(live):
                del revisions[live["metadata"]["name"]]
            case Apply(manifest):
                if manifest["kind"] == "Deployment":
                    deployment = as_stored(manifest, deployment, **deployment_status)
                else:
                    service = as_stored(manifest, service)
    return replace(
        observation,
        deployment=deployment,
        service=service,
        revisions=tuple(revisions.values()),
        suspicion=plan.suspicion,
    )


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
        },
        "spec": {"containers": [{"name": names.SERVER_CONTAINER, "resources": {"limits": {"memory": "64Mi"}}}]},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }
    pod["status"] |= over
    return pod


def going(live: Manifest) -> Manifest:
    """The same object while it is being deleted."""
    return {**live, "metadata": {**live["metadata"], "deletionTimestamp": "2026-01-02T03:04:05Z"}}


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
