"""Is the revision that runs good, or is it at fault? Pure; called by steps/revisions.py.

    what is seen, the first that holds                             verdict
    ----------------------------------                             -------
    every replica available for soakSeconds, no old pod left       Good
    a proof (diagnosis/), for confirm_seconds                      Rejected
    nothing but room is lacking, and as many serve as before       none, however long it takes
    the deadline is over, good pods fail too                       none, before twice the deadline
    the deadline is over                                           Rejected, for the doubt that is known
    anything else                                                  none yet

Success is judged before failure. Pods of other revisions, old counts, and what was true before the API server was away,
prove nothing.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.children.rollout import is_observed, is_rolled_out, of_the_newest
from llm_operator.core.diagnosis.awaited import awaited
from llm_operator.core.diagnosis.fault import Fault, Proof
from llm_operator.core.diagnosis.messages import IT_SAYS, with_note
from llm_operator.core.diagnosis.pods import fault_of_pod
from llm_operator.core.diagnosis.refusals import pods_refused
from llm_operator.core.diagnosis.revision_pods import fault_of, pods_of, ready_pods, replica_sets_of, waiting_pods
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation, Settings, Suspicion
from llm_operator.core.revisions.history import recent
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import RolloutTerms, State, Verdict
from llm_operator.core.times import timestamp

# After an outage the kubelets need a moment to tell what happened meanwhile.
CONTACT_GRACE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict to write, if any; what to remember until the next look, and when that should be."""

    verdict: Verdict | None = None
    outcome: Cause | None = None
    suspicion: Suspicion | None = None
    look_again_after: float | None = None
    model: CachedModel | None = None  # To be pinned with the verdict.


def judge(
    observation: Observation,
    spec: LLMDeploymentSpec,
    revision: Revision,
    last_good: Revision | None,
    settings: Settings,
    *,
    drift: str | None = None,
) -> Judgement:
    """Judge the revision that the Deployment runs; the caller has made sure that it does.

    `drift` names a field of the Deployment that is not as declared: then nothing is proved good, but pods that fail
    fail all the same.
    """
    found = _judged(observation, spec, revision, last_good, settings)
    if drift is None or found.verdict is None or found.verdict.state is revision.state:
        return found
    if found.verdict.state is State.GOOD:
        return Judgement()
    return _told_with(found, f"Besides, {drift} of the Deployment is not as declared.")


def _told_with(found: Judgement, note: str) -> Judgement:
    assert found.verdict is not None
    assert found.outcome is not None
    outcome = replace(found.outcome, message=with_note(found.outcome.message, note))
    return replace(found, verdict=replace(found.verdict, message=outcome.message), outcome=outcome)


def _judged(
    observation: Observation,
    spec: LLMDeploymentSpec,
    revision: Revision,
    last_good: Revision | None,
    settings: Settings,
) -> Judgement:
    verdict, deployment, now = revision.verdict, observation.deployment, observation.now
    assert deployment is not None
    if spec.replicas == 0:
        return Judgement(stopped(verdict))
    as_before = serves_enough(observation, revision) and lacks_only_room(deployment, observation, revision.hash)
    if is_rolled_out(deployment) or as_before:
        good = replace(verdict, state=State.GOOD, decided_at=now, reason="", message="")
        return Judgement(good, _proved(spec, deployment))
    if verdict.state is State.REJECTED:
        return Judgement()
    if verdict.started_at is None or verdict.progress_at is None:
        enough = suffices(observation, spec)
        begun = replace(verdict, started_at=now, progress=0, progress_at=now, extended=False, suffices=enough)
        return Judgement(begun, look_again_after=allowed_seconds(spec))
    return _judge_unready(observation, spec, revision, last_good, settings)


def _judge_unready(
    observation: Observation,
    spec: LLMDeploymentSpec,
    revision: Revision,
    last_good: Revision | None,
    settings: Settings,
) -> Judgement:
    now, verdict = observation.now, revision.verdict
    fault = _of_this_attempt(fault_of(observation, revision.hash), verdict)
    suspicion = suspicion_of(observation, revision, fault)
    infrastructure = last_good is not None and good_pods_fail(observation, last_good)
    due = deadline_of(observation, spec, verdict)
    waits = [(due - now).total_seconds()]
    if fault is not None and fault.proof is not Proof.DOUBT and not infrastructure:
        lasts = timedelta(seconds=settings.confirm_seconds if fault.proof is Proof.STANDING else 0.0)
        proved = max(now if suspicion is None else suspicion.since + lasts, trusted_from(observation))
        if now >= proved:
            return rejected(observation, spec, revision, last_good, fault.cause, look=fault.look)
        waits.append((proved - now).total_seconds())
    if fault is not None and fault.is_capacity and serves_enough(observation, revision):
        noted = None if verdict.lacks_room else replace(verdict, lacks_room=True)
        return Judgement(noted, suspicion=suspicion, look_again_after=allowed_seconds(spec))
    if verdict.lacks_room:
        # There is room now, and the pods that got it have all the time that others had.
        begun = replace(verdict, lacks_room=False, extended=False, progress_at=now)
        return Judgement(begun, suspicion=suspicion, look_again_after=allowed_seconds(spec))
    if now >= due and infrastructure and not verdict.extended:
        return Judgement(replace(verdict, extended=True), suspicion=suspicion, look_again_after=allowed_seconds(spec))
    if now >= due:
        return _too_late(observation, spec, revision, last_good, fault)
    proven = of_the_newest("availableReplicas", observation.deployment)
    if verdict.progress < proven < spec.replicas:
        progressed = replace(verdict, progress=proven, progress_at=now)
        return Judgement(progressed, suspicion=suspicion, look_again_after=allowed_seconds(spec))
    return Judgement(suspicion=suspicion, look_again_after=min(waits))


def suffices(observation: Observation, spec: LLMDeploymentSpec) -> int:
    """How many replicas are no fewer than serve now, or are asked for, where those are less: one at least."""
    serve = (observation.deployment or {}).get("status", {}).get("availableReplicas", 0)
    return max(1, min(int(serve), spec.replicas))


def serves_enough(observation: Observation, revision: Revision) -> bool:
    """Whether as many of its pods are ready as served before, or were asked for then.

    Counted by its pods: a Deployment that is scaled during a roll-out makes more of the old ones, too.
    """
    enough = revision.verdict.suffices
    return enough is not None and ready_pods(observation, revision.hash) >= enough


def lacks_only_room(deployment: Manifest, observation: Observation, revision: str) -> bool:
    """Whether no old pod is left, and each replica that is not available was given no room."""
    status, declared = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    made = status.get("replicas", 0)
    if not is_observed(deployment) or made != status.get("updatedReplicas", 0):
        return False
    faults = [fault_of_pod(pod) for pod in waiting_pods(observation, revision)]
    refusals = [pods_refused(one) for one in replica_sets_of(observation, revision)]
    without_room = sum(1 for fault in faults if fault is not None and fault.is_capacity)
    refused = declared - made if any(fault is not None and fault.is_capacity for fault in refusals) else 0
    return bool(status.get("availableReplicas", 0) + without_room + refused == declared)


def good_pods_fail(observation: Observation, last_good: Revision) -> bool:
    """Whether more than half of the pods of the good revision are not ready: then the cause is not the new one.

    Pods that nobody gave room do not fail: an autoscaler may have asked for more than there is.
    """
    faults = [fault_of_pod(pod) for pod in waiting_pods(observation, last_good.hash)]
    fail = sum(1 for fault in faults if fault is None or not fault.is_capacity)
    return fail > ready_pods(observation, last_good.hash)


def _of_this_attempt(fault: Fault | None, verdict: Verdict) -> Fault | None:
    """The fault; no proof if what it counts happened before the attempt began (pods may be older than a retry)."""
    if fault is None or fault.last_exit is None or verdict.started_at is None:
        return fault
    return fault if fault.last_exit >= timestamp(verdict.started_at) else replace(fault, proof=Proof.DOUBT)


def allowed_seconds(spec: LLMDeploymentSpec) -> float:
    """Seconds that may go by without progress."""
    return float(spec.rollout.progress_deadline_seconds)


def stopped(verdict: Verdict) -> Verdict | None:
    """The verdict where nothing is to run, if it has to change: nothing is proved, and no time passes."""
    if verdict.state is not State.CANDIDATE or verdict.started_at is None:
        return None
    return replace(verdict, started_at=None, progress=0, progress_at=None, extended=False)


def suspicion_of(observation: Observation, revision: Revision, fault: Fault | None) -> Suspicion | None:
    """The suspicion that a fault which would condemn the revision gives rise to: the old one, if it is the same."""
    if fault is None or fault.proof is Proof.DOUBT:
        return None
    attempt, found = revision.verdict.attempt, fault.cause
    seen = Suspicion(revision.hash, attempt, found.reason, observation.now, found.message)
    old = observation.suspicion
    return old if old is not None and replace(old, since=seen.since) == seen else seen


def trusted_from(observation: Observation) -> datetime:
    """From when on what is observed may condemn anybody."""
    return observation.contact_since + CONTACT_GRACE


def deadline_of(observation: Observation, spec: LLMDeploymentSpec, verdict: Verdict) -> datetime:
    """When the time of an attempt that has begun is over."""
    assert verdict.progress_at is not None
    allowed = timedelta(seconds=allowed_seconds(spec) * (2 if verdict.extended else 1))
    return max(verdict.progress_at + allowed, trusted_from(observation))


def rejected(
    observation: Observation,
    spec: LLMDeploymentSpec,
    revision: Revision,
    last_good: Revision | None,
    cause: Cause,
    *,
    look: str = "",
) -> Judgement:
    """The verdict against a revision, which counts as a rollback if a good one takes its place.

    `look` says where to read more, for as long as its pods are there.
    """
    rolls_back = last_good is not None and spec.rollback.enabled
    note = _read_next_time(observation, cause) if rolls_back and look else look
    cause = Cause(cause.reason, with_note(cause.message, note))
    verdict = replace(
        revision.verdict,
        state=State.REJECTED,
        decided_at=observation.now,
        reason=str(cause.reason),
        message=cause.message,
        rollout=RolloutTerms.of(spec),
        rollbacks=recent((*revision.verdict.rollbacks, *((observation.now,) if rolls_back else ())), observation.now),
    )
    return Judgement(verdict, cause)


def _read_next_time(observation: Observation, cause: Cause) -> str:
    """A pod that is gone has no log. Where it said nothing before it ended, it has to be tried again."""
    if IT_SAYS in cause.message:
        return ""
    parent = observation.parent
    return (
        "Its pods are gone, and their logs: set a new spec.rollback.retryToken, and run meanwhile "
        f"`kubectl logs -n {parent.namespace} -l {names.INSTANCE}={parent.name} --all-containers --prefix --follow`."
    )


def _too_late(
    observation: Observation,
    spec: LLMDeploymentSpec,
    revision: Revision,
    last_good: Revision | None,
    fault: Fault | None,
) -> Judgement:
    late = f"Not available within {spec.rollout.progress_deadline_seconds} s (rollout.progressDeadlineSeconds)."
    known = fault or awaited(pods_of(observation, revision.hash))
    if known is None:
        cause = Cause(Reason.PROGRESS_DEADLINE_EXCEEDED, f"{late} No fault is known.")
        parent = observation.parent
        look = f"See `kubectl describe pods -n {parent.namespace} -l {names.INSTANCE}={parent.name}`."
        return rejected(observation, spec, revision, last_good, cause, look=look)
    cause = Cause(known.cause.reason, f"{late} {known.cause.message}")
    return rejected(observation, spec, revision, last_good, cause, look=known.look)


def _proved(spec: LLMDeploymentSpec, deployment: Manifest) -> Cause:
    available = deployment.get("status", {}).get("availableReplicas", 0)
    return Cause(
        Reason.ALL_REPLICAS_READY,
        f"{available} of {spec.replicas} replicas answered for {spec.rollout.soak_seconds} s without a break.",
    )
