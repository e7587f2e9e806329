"""What the user is told: the status of an LLMDeployment from what was observed. Pure.

Each condition tells one fact and is found by its own ordered list of checks. Ready and Available are always
present, the others only while true, so that kstatus (Flux, Argo CD, Helm) reads them rightly: a change that
was rolled back is Stalled, not in progress for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import get_args

from llm_operator.api.conditions import ConditionType, Finding, Reason
from llm_operator.api.types import LLMDeploymentSpec, Mode
from llm_operator.core import names
from llm_operator.core.course import Course, course, own_deployment
from llm_operator.core.diagnosis import is_going, is_ready, says_the_same
from llm_operator.core.judge import fault_of, good_pods_fail, is_observed, is_rolled_out
from llm_operator.core.model import InvalidSpec, Observation
from llm_operator.core.names import Manifest
from llm_operator.core.ownership import controls
from llm_operator.core.revision import Revision, State, timestamp

# Nothing but a change by somebody makes these go away.
STALLED = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
        Reason.APPLY_REFUSED,
        Reason.DRIFT_NOT_REPAIRED,
        Reason.ROLLED_BACK,
        Reason.ROLLBACK_FAILED,
        Reason.ROLLBACK_BUDGET_EXCEEDED,
    }
)
READY = frozenset({Reason.ALL_REPLICAS_READY, Reason.SCALED_TO_ZERO})
REJECTED_SHOWN = 5
MESSAGE_SHOWN = 4096


@dataclass(frozen=True, slots=True)
class View:
    """What every check may look at."""

    observation: Observation
    obstacle: Finding | None
    deployment: Manifest | None
    spec: LLMDeploymentSpec | None
    course: Course | None

    @property
    def declared(self) -> Revision | None:
        """The record of the declared revision."""
        return None if self.course is None else self.course.history.get(self.course.desired)

    @property
    def rejected(self) -> Revision | None:
        """The declared revision, if it is rejected."""
        return self.declared if self.declared is not None and self.declared.state is State.REJECTED else None

    @property
    def replaced_by(self) -> Revision | None:
        """What runs, or is to run, in place of a rejected revision."""
        target = None if self.course is None else self.course.target
        return target if self.rejected is not None and target is not self.rejected else None

    @property
    def replacement_is_there(self) -> bool:
        """Whether that has arrived."""
        target, deployment = self.replaced_by, self.deployment
        return target is not None and names.revision_of(deployment) == target.hash and is_up(deployment)


def build_status(observation: Observation, obstacle: Finding | None) -> Manifest:
    """The whole status; equal to the stored one when nothing worth telling changed."""
    parent = observation.parent
    view = _view(observation, obstacle)
    counts = (view.deployment or {}).get("status", {})
    status: Manifest = {
        "observedGeneration": parent.generation,
        "replicas": counts.get("replicas", 0),
        "readyReplicas": counts.get("readyReplicas", 0),
        "selector": names.selector_string(parent.name),
        "conditions": _conditions(view),
        **_revisions(view),
    }
    mode = _applied_mode(view.deployment)
    if mode is not None:
        status["mode"] = mode
    if observation.service is not None and controls(parent, observation.service):
        status["url"] = names.url(parent.name, parent.namespace)
    return status


def _view(observation: Observation, obstacle: Finding | None) -> View:
    spec = observation.parent.spec
    if isinstance(spec, InvalidSpec):
        return View(observation, obstacle, own_deployment(observation), None, None)
    return View(observation, obstacle, own_deployment(observation), spec, course(observation, spec))


def is_news(old: Manifest, new: Manifest) -> bool:
    """Whether a status tells more than other counts and words: a condition, its reason, a revision, a generation."""

    def told(status: Manifest) -> Manifest:
        facts = {key: value for key, value in status.items() if key not in ("replicas", "readyReplicas")}
        seen = [{key: one.get(key) for key in ("type", "status", "reason")} for one in status.get("conditions", [])]
        return {**facts, "conditions": seen}

    return told(old) != told(new)


def is_up(deployment: Manifest | None) -> bool:
    """Whether the Deployment is there and has done all that its spec asks."""
    return deployment is not None and is_rolled_out(deployment)


def _revisions(view: View) -> Manifest:
    if view.course is None:
        return {}
    goes = view.course
    last_good = None if goes.last_good is None else goes.last_good.hash
    found = {"desiredRevision": goes.desired, "activeRevision": goes.active, "lastKnownGoodRevision": last_good}
    rejected = [_rejected(one) for one in goes.history.rejected()[:REJECTED_SHOWN]]
    return {**{key: value for key, value in found.items() if value is not None}, "rejected": rejected}


def _rejected(revision: Revision) -> Manifest:
    verdict = revision.verdict
    return {
        "revision": revision.hash,
        "reason": verdict.reason,
        "message": verdict.message[:MESSAGE_SHOWN],
        "attempts": verdict.attempt,
        "rejectedAt": timestamp(verdict.decided_at) if verdict.decided_at is not None else "1970-01-01T00:00:00Z",
    }


def _readiness(view: View) -> Finding:
    return next(finding for finding in (check(view) for check in READINESS_CHECKS) if finding is not None)


def _obstacle(view: View) -> Finding | None:
    return view.obstacle


def _not_there(view: View) -> Finding | None:
    return None if view.deployment is not None else Finding(Reason.ROLLING_OUT, "The Deployment is being created.")


def _rejected_and_replaced(view: View) -> Finding | None:
    rejected, target = view.rejected, view.replaced_by
    if rejected is None or target is None:
        return None
    serves = f"revision {target.hash}" if target.state is State.GOOD else f"the mock of revision {target.hash}"
    why = f"Revision {rejected.hash} was rejected: {rejected.verdict.reason}."
    because = f"edit the spec, or set another spec.rollback.retryToken to try it again. {rejected.verdict.message}"
    if view.replacement_is_there:
        return Finding(Reason.ROLLED_BACK, f"{why} Now {serves} serves; {because}")
    if _rollback_is_late(view, rejected):
        fault = fault_of(view.observation, target.hash)
        own_words = "" if fault is None else f" {fault.finding.message}"
        return Finding(Reason.ROLLBACK_FAILED, f"{why} But {serves} does not come back either.{own_words}")
    return Finding(Reason.ROLLING_BACK, f"{why} Bringing back {serves}. {rejected.verdict.message}")


def _rollback_is_late(view: View, rejected: Revision) -> bool:
    decided = rejected.verdict.decided_at
    if decided is None or view.spec is None:
        return False
    return view.observation.now >= decided + timedelta(seconds=view.spec.rollout.progress_deadline_seconds)


def _rejected_and_kept(view: View) -> Finding | None:
    rejected = view.rejected
    return None if rejected is None else Finding(Reason(rejected.verdict.reason), rejected.verdict.message)


def _not_applied(view: View) -> Finding | None:
    if view.course is None or view.spec is None:
        return None
    if view.course.active == view.course.desired and _replicas(view) == view.spec.replicas:
        return None
    return Finding(Reason.ROLLING_OUT, "The change is being applied.")


def _not_observed(view: View) -> Finding | None:
    if view.deployment is None or is_observed(view.deployment):
        return None
    return Finding(Reason.ROLLING_OUT, "The change has been applied; pods have not started yet.")


def _scaled_to_zero(view: View) -> Finding | None:
    if _replicas(view) or _counts(view).get("replicas", 0):
        return None
    return Finding(Reason.SCALED_TO_ZERO, "spec.replicas is 0: nothing runs. Raise it to serve requests.")


def _faulty(view: View) -> Finding | None:
    if view.course is None or is_up(view.deployment):
        return None
    fault = fault_of(view.observation, view.course.desired)
    return None if fault is None else fault.finding


def _soaking(view: View) -> Finding | None:
    counts, declared = _counts(view), _replicas(view)
    fresh = counts.get("updatedReplicas", 0) == declared and counts.get("readyReplicas", 0) >= declared
    if is_up(view.deployment) or not fresh or view.spec is None or counts.get("availableReplicas", 0) >= declared:
        return None
    return Finding(
        Reason.SOAKING,
        f"The replicas answer and must do so for {view.spec.rollout.soak_seconds} s without a break "
        "(rollout.soakSeconds).",
    )


def _rolling_out(view: View) -> Finding | None:
    if is_up(view.deployment) and view.declared is not None and view.declared.state is State.GOOD:
        return None
    counts, declared = _counts(view), _replicas(view)
    updated, existing = counts.get("updatedReplicas", 0), counts.get("replicas", 0)
    old = f"; {existing - updated} of an earlier revision still run" if existing > updated else ""
    return Finding(
        Reason.ROLLING_OUT,
        f"{updated} of {declared} replicas run the declared revision, {counts.get('availableReplicas', 0)} are "
        f"available{old}.",
    )


def _ready(view: View) -> Finding | None:
    declared = _replicas(view)
    active = names.revision_of(view.deployment)
    return Finding(
        Reason.ALL_REPLICAS_READY, f"{declared} of {declared} replicas are ready; revision {active} is good."
    )


READINESS_CHECKS: tuple[Callable[[View], Finding | None], ...] = (
    _obstacle,
    _not_there,
    _rejected_and_replaced,
    _rejected_and_kept,
    _not_applied,
    _not_observed,
    _scaled_to_zero,
    _faulty,
    _soaking,
    _rolling_out,
    _ready,
)


def _availability(view: View) -> Finding:
    answering = _counts(view).get("readyReplicas", 0)
    if answering:
        pods = [pod for pod in view.observation.pods if is_ready(pod) and not is_going(pod)]
        of = sorted({revision for pod in pods if (revision := names.revision_of(pod)) is not None})
        which = f" of revision {' and '.join(of)}" if of else ""
        return Finding(Reason.SOME_REPLICAS_AVAILABLE, f"{answering} replicas{which} answer requests.")
    if view.deployment is not None and _replicas(view) == 0:
        return Finding(Reason.SCALED_TO_ZERO, "spec.replicas is 0: nothing answers requests.")
    return Finding(Reason.NO_REPLICAS_AVAILABLE, "No replica answers requests.")


def _stalled(view: View, ready: Finding) -> Finding | None:
    if ready.reason in STALLED:
        return ready
    rejected = view.rejected
    if rejected is None or view.replaced_by is not None or view.spec is None:
        return None
    remedy = "edit the spec, or set another spec.rollback.retryToken to try it again"
    if not view.spec.rollback.enabled:
        return Finding(Reason.ROLLBACK_DISABLED, f"Revision {rejected.hash} stays although it was rejected; {remedy}.")
    return Finding(
        Reason.NO_KNOWN_GOOD_REVISION,
        f"Revision {rejected.hash} was rejected, and there is none to go back to; {remedy}. It stays applied, and is "
        "good once its replicas are available.",
    )


def _rolled_back(view: View) -> Finding | None:
    rejected, target = view.rejected, view.replaced_by
    if rejected is None or target is None or not view.replacement_is_there:
        return None
    return Finding(
        Reason(rejected.verdict.reason),
        f"Revision {target.hash} runs in place of {rejected.hash}. {rejected.verdict.message}",
    )


def _degraded(view: View, ready: Finding) -> Finding | None:
    target = None if view.course is None else view.course.target
    if ready.reason is Reason.ROLLBACK_FAILED:
        return ready
    if target is None or view.course is None:
        return None
    if target.state is State.FALLBACK and view.replacement_is_there:
        return Finding(
            Reason.FALLBACK_SERVES, f"Revision {target.hash} answers every request with fixed text (rollback.fallback)."
        )
    if target.state is State.CANDIDATE:
        return _infrastructure(view)
    return _good_one_fails(view, target) if target.state is State.GOOD else None


def _infrastructure(view: View) -> Finding | None:
    last_good = None if view.course is None else view.course.last_good
    if last_good is None or is_up(view.deployment) or not good_pods_fail(view.observation, last_good):
        return None
    fault = fault_of(view.observation, last_good.hash)
    own_words = "" if fault is None else f" {fault.finding.message}"
    return Finding(
        Reason.INFRASTRUCTURE_SUSPECTED,
        f"Pods of the good revision {last_good.hash} fail too: see to nodes, storage and network.{own_words}",
    )


def _good_one_fails(view: View, target: Revision) -> Finding | None:
    if is_up(view.deployment) or not _replicas(view):
        return None
    fault = fault_of(view.observation, target.hash)
    if fault is not None:
        return fault.finding
    was = {one.get("type"): one.get("status") for one in view.observation.parent.status.get("conditions", [])}
    if _counts(view).get("readyReplicas", 0) or "True" not in (was.get("Available"), was.get("Degraded")):
        return None
    return Finding(Reason.REPLICAS_UNAVAILABLE, f"Revision {target.hash} was good; now none of its replicas answers.")


def _conditions(view: View) -> list[Manifest]:
    ready, available = _readiness(view), _availability(view)
    told: dict[ConditionType, tuple[bool, Finding]] = {
        ConditionType.READY: (ready.reason in READY, ready),
        ConditionType.AVAILABLE: (available.reason is Reason.SOME_REPLICAS_AVAILABLE, available),
    }
    stalled = _stalled(view, ready)
    others = {
        ConditionType.STALLED: stalled,
        ConditionType.RECONCILING: None if stalled is not None or ready.reason in READY else ready,
        ConditionType.ROLLED_BACK: _rolled_back(view),
        ConditionType.DEGRADED: _degraded(view, ready),
    }
    told |= {kind: (True, finding) for kind, finding in others.items() if finding is not None}
    old = {one.get("type"): one for one in view.observation.parent.status.get("conditions", [])}
    return [
        _condition(view.observation, kind, holds, finding, old.get(kind))
        for kind, (holds, finding) in sorted(told.items())
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


def _counts(view: View) -> Manifest:
    counts: Manifest = (view.deployment or {}).get("status", {})
    return counts


def _replicas(view: View) -> int:
    return 0 if view.deployment is None else int(view.deployment["spec"].get("replicas", 1))


def _applied_mode(deployment: Manifest | None) -> str | None:
    if deployment is None:
        return None
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for variable in container.get("env", []):
            if variable["name"] == "LLM_MODE" and variable.get("value") in get_args(Mode):
                return str(variable["value"])
    return None
