"""What the user is told: the status of an LLMDeployment from what was observed. Pure.

`Ready` is an ordered list of checks, the first hit wins. Ready and Available are always present,
Reconciling and Stalled only while true, so that kstatus (Flux, Argo CD, Helm) reads them rightly.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import get_args

from llm_operator.api.conditions import ConditionType, Finding, Reason
from llm_operator.api.types import Mode
from llm_operator.core import names
from llm_operator.core.diagnosis import diagnose, says_the_same
from llm_operator.core.model import Observation
from llm_operator.core.names import Manifest
from llm_operator.core.plan import controls

# Nothing but a change by somebody makes these go away.
STALLED = frozenset({Reason.INVALID_SPEC, Reason.NAME_CONFLICT, Reason.APPLY_REFUSED, Reason.DRIFT_NOT_REPAIRED})
READY = frozenset({Reason.ALL_REPLICAS_READY, Reason.SCALED_TO_ZERO})


def build_status(observation: Observation, obstacle: Finding | None) -> Manifest:
    """The whole status; equal to the stored one when nothing worth telling changed."""
    parent = observation.parent
    deployment = own_deployment(observation)
    counts = (deployment or {}).get("status", {})
    ready = obstacle or _readiness(observation, deployment)
    status: Manifest = {
        "observedGeneration": parent.generation,
        "replicas": counts.get("replicas", 0),
        "readyReplicas": counts.get("readyReplicas", 0),
        "selector": names.selector_string(parent.name),
        "conditions": _conditions(observation, ready, _availability(deployment)),
    }
    mode = _applied_mode(deployment)
    if mode is not None:
        status["mode"] = mode
    if observation.service is not None and controls(parent, observation.service):
        status["url"] = names.url(parent.name, parent.namespace)
    return status


def own_deployment(observation: Observation) -> Manifest | None:
    """The Deployment, if it is the parent's own."""
    live = observation.deployment
    return live if live is not None and controls(observation.parent, live) else None


def _readiness(observation: Observation, deployment: Manifest | None) -> Finding:
    if deployment is None:
        return Finding(Reason.ROLLING_OUT, "The Deployment is being created.")
    for check in READINESS_CHECKS:
        finding = check(observation, deployment)
        if finding is not None:
            return finding
    return Finding(Reason.ALL_REPLICAS_READY, f"{_declared(deployment)} of {_declared(deployment)} replicas are ready.")


def _not_observed(_: Observation, deployment: Manifest) -> Finding | None:
    if deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"]["generation"]:
        return None
    return Finding(Reason.ROLLING_OUT, "The change has been applied; pods have not started yet.")


def _scaled_to_zero(_: Observation, deployment: Manifest) -> Finding | None:
    if _declared(deployment) or deployment.get("status", {}).get("replicas", 0):
        return None
    return Finding(Reason.SCALED_TO_ZERO, "spec.replicas is 0: nothing runs. Raise it to serve requests.")


def _rolling_out(observation: Observation, deployment: Manifest) -> Finding | None:
    counts, declared = deployment.get("status", {}), _declared(deployment)
    updated, existing = counts.get("updatedReplicas", 0), counts.get("replicas", 0)
    available = counts.get("availableReplicas", 0)
    if updated == declared and existing == declared and available == declared:
        return None
    fault = diagnose(deployment, observation.pods)
    if fault is not None:
        return fault
    old = f"; {existing - updated} of the previous spec still run" if existing > updated else ""
    return Finding(
        Reason.ROLLING_OUT,
        f"{updated} of {declared} replicas run the declared spec, {available} are available{old}.",
    )


READINESS_CHECKS: tuple[Callable[[Observation, Manifest], Finding | None], ...] = (
    _not_observed,
    _scaled_to_zero,
    _rolling_out,
)


def _availability(deployment: Manifest | None) -> Finding:
    available = (deployment or {}).get("status", {}).get("availableReplicas", 0)
    if available:
        return Finding(Reason.SOME_REPLICAS_AVAILABLE, f"{available} replicas answer requests.")
    if deployment is not None and _declared(deployment) == 0:
        return Finding(Reason.SCALED_TO_ZERO, "spec.replicas is 0: nothing answers requests.")
    return Finding(Reason.NO_REPLICAS_AVAILABLE, "No replica answers requests.")


def _conditions(observation: Observation, ready: Finding, available: Finding) -> list[Manifest]:
    told = {
        ConditionType.READY: (ready.reason in READY, ready),
        ConditionType.AVAILABLE: (available.reason is Reason.SOME_REPLICAS_AVAILABLE, available),
    }
    if ready.reason in STALLED:
        told[ConditionType.STALLED] = (True, ready)
    elif ready.reason not in READY:
        told[ConditionType.RECONCILING] = (True, ready)
    old = {one.get("type"): one for one in observation.parent.status.get("conditions", [])}
    return [
        _condition(observation, kind, holds, finding, old.get(kind)) for kind, (holds, finding) in sorted(told.items())
    ]


def _condition(
    observation: Observation, kind: ConditionType, holds: bool, finding: Finding, old: Manifest | None
) -> Manifest:
    status = "True" if holds else "False"
    since, message = timestamp(observation.now), finding.message
    if old is not None and old.get("status") == status:
        since = old.get("lastTransitionTime", since)
        same = (old.get("reason"), old.get("observedGeneration")) == (finding.reason, observation.parent.generation)
        if same and says_the_same(old.get("message", ""), message):
            message = old["message"]
    return {
        "type": str(kind),
        "status": status,
        "observedGeneration": observation.parent.generation,
        "lastTransitionTime": since,
        "reason": str(finding.reason),
        "message": message,
    }


def timestamp(now: datetime) -> str:
    """RFC 3339 in UTC with seconds, as metav1.Time."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _declared(deployment: Manifest) -> int:
    return int(deployment["spec"].get("replicas", 1))


def _applied_mode(deployment: Manifest | None) -> str | None:
    if deployment is None:
        return None
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for variable in container.get("env", []):
            if variable["name"] == "LLM_MODE" and variable.get("value") in get_args(Mode):
                return str(variable["value"])
    return None
