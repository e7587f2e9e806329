"""Values for tests: `an_observation(...)` and friends, with sensible defaults and overrides."""

import copy
from datetime import UTC, datetime
from typing import Any

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.model import Observation, Parent, Plan, Settings
from llm_operator.core.names import Manifest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings(server_image="registry.example.com/server:1")
UID = "11111111-1111-1111-1111-111111111111"


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
    values: dict[str, Any] = {"parent": a_parent(), "deployment": None, "service": None, "pods": (), "now": NOW}
    return Observation(**{**values, **over})


def as_stored(manifest: Manifest, live: Manifest | None = None, **status: Any) -> Manifest:
    """What an API server makes of an applied manifest: identity, generation, some defaults."""
    stored = copy.deepcopy(manifest)
    before = live["metadata"]["generation"] if live is not None else 0
    stored["metadata"] |= {"uid": f"uid-{stored['kind']}", "generation": before + 1, "resourceVersion": "1"}
    if stored["kind"] == "Deployment":
        stored["spec"]["progressDeadlineSeconds"] = 600
        stored["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    if status:
        stored["status"] = status
    return stored


def after(observation: Observation, plan: Plan, **deployment_status: Any) -> Observation:
    """The observation once the plan's actions are stored."""
    deployment, service = observation.deployment, observation.service
    for action in plan.actions:
        if action.manifest["kind"] == "Deployment":
            deployment = as_stored(action.manifest, deployment, **deployment_status)
        else:
            service = as_stored(action.manifest, service)
    return Observation(observation.parent, deployment, service, observation.pods, observation.now)


def rolled_out(replicas: int, generation: int = 1) -> dict[str, int]:
    """Status of a Deployment whose pods all run the newest template and are available."""
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    return {"observedGeneration": generation, **{name: replicas for name in counts if replicas}}


def a_pod(name: str = "triage-1", *, ready: bool = False, **over: Any) -> Manifest:
    pod: Manifest = {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "clinic", "creationTimestamp": "2026-01-02T03:04:00Z"},
        "spec": {"containers": [{"name": names.SERVER_CONTAINER, "resources": {"limits": {"memory": "64Mi"}}}]},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }
    pod["status"] |= over
    return pod


def a_container_status(**over: Any) -> list[Manifest]:
    return [{"name": names.SERVER_CONTAINER, "image": "x:1", "ready": False, "restartCount": 1, "state": {}, **over}]
