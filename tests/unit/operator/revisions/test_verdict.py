"""What makes a revision good, what condemns it, and what proves nothing."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_operator.api.conditions import Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.diagnosis.revision_pods import fault_of
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.verdict import CONTACT_GRACE, Judgement, judge
from tests.unit.operator.builders import (
    NOW,
    SETTINGS,
    a_container_status,
    a_pod,
    a_refusal,
    a_revision,
    a_spec,
    ago,
    died,
    going,
    injected,
    rolled_out,
    running,
    waiting,
)

DEADLINE = 600
SPEC = a_spec(replicas=3, image="new:1", rollout={"progressDeadlineSeconds": DEADLINE})
GOOD = a_revision(State.GOOD, spec=a_spec(replicas=3))
NOT_UP = {"replicas": 4, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3}
IMAGE_NAME = waiting("InvalidImageName")


def candidate(**over: Any) -> Revision:
    return a_revision(State.CANDIDATE, spec=SPEC, number=2, **over)


def looking(*pods: Manifest, counts: dict[str, int] | None = None, **over: Any) -> Observation:
    counts = NOT_UP if counts is None else counts
    return running(SPEC, candidate(), GOOD, counts=counts, pods=pods, **over)


def judged(
    observation: Observation,
    revision: Revision | None = None,
    good: Revision | None = GOOD,
    spec: LLMDeploymentSpec = SPEC,
) -> Judgement:
    return judge(observation, spec, revision or candidate(), good, SETTINGS)


def rejection(judgement: Judgement) -> Reason | None:
    """Why it is rejected, if it is."""
    if judgement.verdict is None or judgement.verdict.state is not State.REJECTED:
        return None
    assert judgement.outcome is not None
    assert judgement.verdict.reason == judgement.outcome.reason
    assert judgement.verdict.message == judgement.outcome.message
    return judgement.outcome.reason


def looks(observation: Observation, *seconds: float, revision: Revision | None = None) -> Iterator[Judgement]:
    """Looks so many seconds after NOW, each with the memory of the one before."""
    suspicion = observation.suspicion
    for after in seconds:
        now = NOW + timedelta(seconds=after)
        found = judged(replace(observation, now=now, suspicion=suspicion), revision)
        suspicion = found.suspicion
        yield found


def lasting(observation: Observation, seconds: float = SETTINGS.confirm_seconds) -> Judgement:
    """The judgement on what has looked the same for so long."""
    *_, last = looks(observation, -seconds, 0)
    return last


# Success.


def test_it_is_good_once_every_replica_is_available_and_no_other_is_left() -> None:
    found = judged(looking(counts=rolled_out(3)))
    assert found.verdict == replace(candidate().verdict, state=State.GOOD, decided_at=NOW)
    assert found.outcome is not None
    assert found.outcome.reason is Reason.ALL_REPLICAS_READY


@pytest.mark.parametrize("late_by", [1, 10 * DEADLINE])
def test_success_is_judged_before_failure_however_late_and_however_often_it_crashed(late_by: float) -> None:
    pods = (a_pod(of=candidate(), ready=True, containerStatuses=died(1, crashes=9, running=True)),)
    late = ago(DEADLINE + late_by)
    found = judged(looking(*pods, counts=rolled_out(3)), candidate(started_at=late, progress_at=late))
    assert found.verdict is not None
    assert found.verdict.state is State.GOOD


@pytest.mark.parametrize(
    "counts",
    [
        {**rolled_out(3), "observedGeneration": 0},
        {**rolled_out(3), "updatedReplicas": 2},
        {**rolled_out(3), "replicas": 4},
        {**rolled_out(3), "availableReplicas": 2},
        {},
    ],
    ids=[
        "the newest spec has not been looked at",
        "one replica is of another template",
        "an old pod is left",
        "one has not soaked",
        "nothing is known",
    ],
)
def test_a_rollout_is_not_done_while(counts: dict[str, int]) -> None:
    observation = looking()
    assert observation.deployment is not None
    deployment = {**observation.deployment, "status": counts}
    assert not is_rolled_out(deployment)
    found = judged(replace(observation, deployment=deployment))
    assert found.verdict is None or found.verdict.state is State.CANDIDATE


def test_a_good_verdict_forgets_why_it_was_rejected_before() -> None:
    bad = a_revision(State.REJECTED, spec=SPEC, rollbacks=(ago(60),))
    found = judged(looking(counts=rolled_out(3)), bad)
    assert found.verdict is not None
    assert (found.verdict.state, found.verdict.reason, found.verdict.message) == (State.GOOD, "", "")
    assert found.verdict.rollbacks == (ago(60),), "the budget does not forget"


# A fault is no proof until it has lasted, or happened often enough.


def pods_with(**status: Any) -> Observation:
    return looking(a_pod(of=candidate(), **status))


STANDING: dict[str, tuple[Observation, Reason]] = {
    "an image name that is none": (pods_with(containerStatuses=IMAGE_NAME), Reason.INVALID_IMAGE_NAME),
    "an image that is not there": (
        pods_with(containerStatuses=waiting("ErrImagePull", "x:1: not found")),
        Reason.IMAGE_NOT_FOUND,
    ),
    "an image that may not be pulled": (
        pods_with(containerStatuses=waiting("ErrImagePull", "401 Unauthorized")),
        Reason.IMAGE_PULL_DENIED,
    ),
    "a Secret that is not there": (
        pods_with(containerStatuses=waiting("CreateContainerConfigError", 'secret "a" not found')),
        Reason.CONTAINER_CONFIG_ERROR,
    ),
    "a policy of the namespace": (
        looking(replica_sets=(a_refusal("violates PodSecurity", candidate()),)),
        Reason.POD_SECURITY_VIOLATION,
    ),
    "a policy that says no": (
        looking(replica_sets=(a_refusal('admission webhook "p" denied the request: no', candidate()),)),
        Reason.POD_CREATION_REFUSED,
    ),
    "more than a whole quota": (
        looking(
            replica_sets=(a_refusal("exceeded quota: a, requested: cpu=4, used: cpu=0, limited: cpu=2", candidate()),)
        ),
        Reason.QUOTA_EXCEEDED,
    ),
}
COUNTED: dict[str, tuple[Observation, Reason]] = {
    "a server that ended three times": (pods_with(containerStatuses=died(1, crashes=3)), Reason.CRASH_LOOP),
    "a server that said twice why": (
        pods_with(containerStatuses=died(78, message="no", crashes=2)),
        Reason.CRASH_LOOP,
    ),
    "too little memory twice": (pods_with(containerStatuses=died(137, "OOMKilled", crashes=2)), Reason.OOM_KILLED),
}
DOUBTS: dict[str, Observation] = {
    "a server that ended twice": pods_with(containerStatuses=died(1, crashes=2)),
    "a server that said once why": pods_with(containerStatuses=died(78, message="no")),
    "too little memory once": pods_with(containerStatuses=died(137, "OOMKilled")),
    "a server that is killed by its probe": pods_with(containerStatuses=died(137, crashes=9)),
    "a registry that is away": pods_with(containerStatuses=waiting("ErrImagePull", "503 Service Unavailable")),
    "an image that cannot be pulled, who knows why": pods_with(containerStatuses=waiting("ErrImagePull", "hm")),
    "a pod that fits nowhere": pods_with(
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
    ),
    "a pod that was evicted": pods_with(phase="Failed", reason="Evicted"),
    "a pod that waits in a queue": pods_with(
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    ),
    "a quota that others use up": looking(
        replica_sets=(a_refusal("exceeded quota: a, requested: cpu=2, used: cpu=1, limited: cpu=2", candidate()),)
    ),
    "a webhook that is away": looking(
        replica_sets=(a_refusal('Internal error occurred: failed calling webhook "w": EOF', candidate()),)
    ),
    "a priority class that may still come": looking(
        replica_sets=(a_refusal("no PriorityClass with name high was found", candidate()),)
    ),
    "a runtime that is slow": pods_with(containerStatuses=waiting("CreateContainerError", "context deadline exceeded")),
    "a sidecar that crashes": pods_with(containerStatuses=injected(died(1, crashes=9))),
    "a sidecar whose image is not there": pods_with(containerStatuses=injected(waiting("ErrImagePull", "not found"))),
    "nothing at all": looking(),
}


@pytest.mark.parametrize(("observation", "reason"), STANDING.values(), ids=STANDING)
def test_a_standing_fault_condemns_once_it_has_lasted(observation: Observation, reason: Reason) -> None:
    first, almost, last = looks(observation, 0, 9.9, 10)
    assert (rejection(first), rejection(almost), rejection(last)) == (None, None, reason)
    assert first.look_again_after == 10
    assert almost.look_again_after == pytest.approx(0.1)
    assert first.suspicion == almost.suspicion


@pytest.mark.parametrize(("observation", "reason"), COUNTED.values(), ids=COUNTED)
def test_what_happened_often_enough_condemns_at_once(observation: Observation, reason: Reason) -> None:
    assert rejection(judged(observation)) is reason


@pytest.mark.parametrize("observation", DOUBTS.values(), ids=DOUBTS)
def test_a_doubt_waits_for_the_deadline(observation: Observation) -> None:
    found = lasting(observation, seconds=59)
    assert found == Judgement(look_again_after=DEADLINE - 60)
    late = candidate(started_at=ago(DEADLINE), progress_at=ago(DEADLINE))
    assert rejection(judged(observation, late)) is not None


def test_a_fault_that_goes_away_must_last_from_the_beginning_when_it_comes_again() -> None:
    observation = looking(a_pod(of=candidate(), containerStatuses=IMAGE_NAME))
    (first,) = looks(observation, 0)
    (well,) = looks(replace(looking(), suspicion=first.suspicion), 8)
    assert well.suspicion is None
    (again,) = looks(replace(observation, suspicion=well.suspicion), 16)
    assert rejection(again) is None


@pytest.mark.parametrize("change", ["reason", "revision", "attempt"])
def test_a_suspicion_is_of_one_fault_of_one_revision_in_one_attempt(change: str) -> None:
    observation = looking(a_pod(of=candidate(), containerStatuses=IMAGE_NAME))
    (first,) = looks(observation, -60)
    assert first.suspicion is not None
    other: dict[str, Any] = {"reason": Reason.QUOTA_EXCEEDED, "revision": "another", "attempt": 2}
    suspicion = replace(first.suspicion, **{change: other[change]})
    found = judged(replace(observation, suspicion=suspicion))
    assert rejection(found) is None
    assert found.suspicion == replace(first.suspicion, since=NOW)


SILENT = waiting("ImagePullBackOff", 'Back-off pulling image "x:1"')


@pytest.mark.parametrize(
    ("words", "reason"), [("x:1: not found", Reason.IMAGE_NOT_FOUND), ("401 Unauthorized", Reason.IMAGE_PULL_DENIED)]
)
def test_a_kubelet_that_waits_in_silence_has_said_why_before(words: str, reason: Reason) -> None:
    """Older kubelets tell for a second why they cannot pull, and then for minutes only that they wait."""
    (spoken,) = looks(looking(a_pod(of=candidate(), containerStatuses=waiting("ErrImagePull", words))), 0)
    silent = replace(looking(a_pod(of=candidate(), containerStatuses=SILENT)), suspicion=spoken.suspicion)
    still, last = looks(silent, 5, 10)
    assert (rejection(still), rejection(last)) == (None, reason)
    assert last.outcome is not None
    assert words in last.outcome.message


def test_silence_is_told_apart_from_other_words_and_other_revisions() -> None:
    (spoken,) = looks(looking(a_pod(of=candidate(), containerStatuses=waiting("ErrImagePull", "not found"))), 0)
    full = looking(a_pod(of=candidate(), containerStatuses=waiting("ErrImagePull", "disk full")))
    assert rejection(next(looks(replace(full, suspicion=spoken.suspicion), 10))) is None
    silent = looking(a_pod(of=GOOD, containerStatuses=SILENT), suspicion=spoken.suspicion)
    fault = fault_of(silent, GOOD.hash)
    assert fault is not None
    assert fault.cause.reason is Reason.IMAGE_PULL_FAILED


def test_a_secret_that_a_kubelet_did_not_find_is_named_where_a_pull_is_denied() -> None:
    def told(words: str, *missing: str) -> str:
        pod = a_pod(of=candidate(), containerStatuses=waiting("ErrImagePull", words))
        fault = fault_of(looking(pod, missing_secrets=missing), candidate().hash)
        assert fault is not None
        return fault.cause.message

    assert "did not find Secret regcred: create it. It says: 401" in told("401 Unauthorized", "regcred")
    assert "did not find" not in told("401 Unauthorized")
    assert "did not find" not in told("not found", "regcred")


def test_a_new_process_waits_as_if_the_fault_had_begun_now() -> None:
    observation = looking(a_pod(of=candidate(), containerStatuses=IMAGE_NAME))
    found = judged(replace(observation, suspicion=None))
    assert (rejection(found), found.look_again_after) == (None, SETTINGS.confirm_seconds)


def test_the_confirm_time_is_a_setting() -> None:
    observation = looking(a_pod(of=candidate(), containerStatuses=IMAGE_NAME))
    at_once = judge(observation, SPEC, candidate(), GOOD, replace(SETTINGS, confirm_seconds=0.0))
    assert rejection(at_once) is Reason.INVALID_IMAGE_NAME


# What proves nothing about this revision, or this attempt.


def test_crashes_from_before_the_attempt_prove_nothing() -> None:
    retried = candidate(attempt=2, started_at=ago(60), progress_at=ago(60))
    before = looking(a_pod(of=candidate(), containerStatuses=died(1, crashes=9, at=ago(61))))
    assert rejection(judged(before, retried)) is None
    since = looking(a_pod(of=candidate(), containerStatuses=died(1, crashes=9, at=ago(60))))
    assert rejection(judged(since, retried)) is Reason.CRASH_LOOP


def test_crashes_from_before_the_attempt_are_still_told_at_the_deadline() -> None:
    late = candidate(attempt=2, started_at=ago(DEADLINE), progress_at=ago(DEADLINE))
    before = looking(a_pod(of=candidate(), containerStatuses=died(1, crashes=9, at=ago(DEADLINE + 1))))
    assert rejection(judged(before, late)) is Reason.CRASH_LOOP


@pytest.mark.parametrize("of", [GOOD, None], ids=["the good revision", "no revision"])
def test_pods_of_another_revision_prove_nothing_about_this_one(of: Revision | None) -> None:
    pods = (a_pod("bad", of=of, containerStatuses=IMAGE_NAME), a_pod("well", of=GOOD, ready=True))
    assert rejection(lasting(looking(*pods))) is None


def test_a_refusal_of_another_revisions_pods_proves_nothing() -> None:
    assert rejection(lasting(looking(replica_sets=(a_refusal("exceeded quota", GOOD),)))) is None


def test_pods_that_are_going_prove_nothing() -> None:
    assert rejection(lasting(looking(going(a_pod(of=candidate(), containerStatuses=IMAGE_NAME))))) is None


def test_a_sibling_that_is_ready_turns_a_standing_fault_into_a_doubt() -> None:
    sick = a_pod("sick", of=candidate(), containerStatuses=IMAGE_NAME)
    well = a_pod("well", of=candidate(), ready=True)
    assert rejection(lasting(looking(sick))) is Reason.INVALID_IMAGE_NAME
    assert rejection(lasting(looking(sick, well))) is None
    assert rejection(lasting(looking(sick, going(well)))) is Reason.INVALID_IMAGE_NAME


def test_a_sibling_that_is_ready_does_not_excuse_crashes() -> None:
    sick = a_pod("sick", of=candidate(), containerStatuses=died(1, crashes=3))
    assert rejection(judged(looking(sick, a_pod("well", of=candidate(), ready=True)))) is Reason.CRASH_LOOP


# The deadline.


def begun(seconds: float, **over: Any) -> Revision:
    return candidate(started_at=ago(seconds), progress_at=ago(seconds), **over)


def test_the_deadline_is_absolute() -> None:
    assert judged(looking(), begun(DEADLINE - 1)) == Judgement(look_again_after=1)
    found = judged(looking(), begun(DEADLINE))
    assert rejection(found) is Reason.PROGRESS_DEADLINE_EXCEEDED
    assert found.outcome is not None
    assert f"within {DEADLINE} s" in found.outcome.message


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        (
            {"containerStatuses": a_container_status(state={"running": {}}, started=True)},
            Reason.PROBE_TIMEOUT,
            "/readyz",
        ),
        ({"containerStatuses": a_container_status(state={"running": {}})}, Reason.PROBE_TIMEOUT, "/startupz"),
        ({"containerStatuses": waiting("ErrImagePull", "503 Bad Gateway")}, Reason.REGISTRY_UNAVAILABLE, "registry"),
        ({}, Reason.PROGRESS_DEADLINE_EXCEEDED, "No fault is known"),
    ],
    ids=["it never answers", "it never starts", "a doubt is known", "nothing is known"],
)
def test_what_is_known_when_the_time_is_over_is_the_reason(pod: dict[str, Any], reason: Reason, words: str) -> None:
    found = judged(looking(a_pod(of=candidate(), **pod)), begun(DEADLINE))
    assert rejection(found) is reason
    assert found.outcome is not None
    assert found.outcome.message.startswith(f"Not available within {DEADLINE} s")
    assert words in found.outcome.message


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        ({"containerStatuses": died(3, crashes=3)}, ()),
        ({"containerStatuses": died(3, crashes=3, message="the end")}, ("It says: the end",)),
        ({"containerStatuses": a_container_status(state={"running": {}})}, ()),
        ({}, ()),
    ],
    ids=["it crashed without a word", "it crashed with last words", "it never answered", "nothing is known"],
)
def test_a_rollback_names_no_pod_to_look_at_that_is_gone(status: dict[str, Any], kept: tuple[str, ...]) -> None:
    observation = looking(a_pod(of=candidate(), **status))
    back, stays = judged(observation, begun(DEADLINE)).verdict, judged(observation, begun(DEADLINE), good=None).verdict
    assert back is not None
    assert stays is not None
    assert "triage-1 --previous" not in back.message
    assert "describe" not in back.message
    assert all(words in back.message and words in stays.message for words in kept)
    if not kept:
        assert "a new spec.rollback.retryToken" in back.message, "the log can be read only while it is tried again"
        assert "kubectl logs -n clinic -l app.kubernetes.io/instance=triage" in back.message
    assert "See `kubectl" in stays.message, "its pods are still there"


# Missing room.

NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no cpu"}
IN_A_QUEUE = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}


def scaled(
    replicas: int,
    *,
    serve: int,
    made: int | None = None,
    old: int = 0,
    refusal: str = "",
    waiting_pods: tuple[Manifest, ...] | None = None,
    **over: Any,
) -> Observation:
    """So many replicas are declared; some serve, for the others that were made there is no node."""
    made = replicas if made is None else made
    spec = SPEC.model_copy(update={"replicas": replicas})
    if waiting_pods is None:
        waiting_pods = tuple(a_pod(f"no-{n}", of=candidate(), conditions=[NO_NODE]) for n in range(made - serve))
    pods = tuple(a_pod(f"serves-{n}", of=candidate(), ready=True) for n in range(serve)) + waiting_pods
    counts = {
        "replicas": made + old,
        "updatedReplicas": made,
        "readyReplicas": serve + old,
        "availableReplicas": serve + old,
    }
    refusals = (a_refusal(refusal, candidate()),) if refusal else ()
    return running(spec, candidate(), GOOD, counts=counts, pods=pods, replica_sets=refusals, **over)


def judged_after(observation: Observation, seconds: float, *, suffices: int | None) -> Judgement:
    spec = observation.parent.spec
    assert isinstance(spec, LLMDeploymentSpec)
    return judged(observation, begun(seconds, suffices=suffices), spec=spec)


def state(observation: Observation, seconds: float, *, suffices: int | None) -> State:
    found = judged_after(observation, seconds, suffices=suffices)
    return State.CANDIDATE if found.verdict is None else found.verdict.state


@pytest.mark.parametrize(
    "observation",
    [
        scaled(8, serve=2),
        scaled(8, serve=2, made=2, refusal="exceeded quota: pods, requested: pods=1, used: pods=2, limited: pods=2"),
        scaled(4, serve=2, waiting_pods=tuple(a_pod(f"g-{n}", of=candidate(), conditions=[IN_A_QUEUE]) for n in "ab")),
        scaled(8, serve=2, made=4, refusal="exceeded quota: pods"),
    ],
    ids=["no node", "a quota", "a queue", "no node and a quota"],
)
def test_replicas_that_lack_only_room_keep_nobody_from_being_good(observation: Observation) -> None:
    """An autoscaler may ask for more replicas than there is room for, at any time."""
    assert state(observation, 1, suffices=1) is State.GOOD
    assert state(observation, DEADLINE, suffices=2) is State.GOOD


def test_it_is_told_how_many_answered() -> None:
    found = judged_after(scaled(8, serve=2), 1, suffices=2)
    assert found.outcome is not None
    assert found.outcome.message.startswith("2 of 8 replicas answered")


def test_fewer_than_served_before_are_not_enough() -> None:
    assert state(scaled(20, serve=19), DEADLINE - 1, suffices=20) is State.CANDIDATE
    assert state(scaled(20, serve=19), DEADLINE, suffices=20) is State.REJECTED
    assert state(scaled(20, serve=19), DEADLINE, suffices=19) is State.GOOD


def test_of_an_attempt_that_an_earlier_operator_began_it_is_not_known_how_many_are_enough() -> None:
    assert state(scaled(20, serve=19), DEADLINE, suffices=None) is State.REJECTED


def test_while_old_pods_are_left_it_is_neither_good_nor_condemned_for_missing_room() -> None:
    observation = scaled(8, serve=2, made=3, old=1, waiting_pods=(a_pod("no", of=candidate(), conditions=[NO_NODE]),))
    found = judged_after(observation, DEADLINE, suffices=1)
    noted = begun(DEADLINE, suffices=1, lacks_room=True).verdict
    assert found == Judgement(noted, look_again_after=DEADLINE)
    spec = observation.parent.spec
    assert isinstance(spec, LLMDeploymentSpec)
    again = judged(observation, begun(DEADLINE, suffices=1, lacks_room=True), spec=spec)
    assert again == Judgement(look_again_after=DEADLINE), "it is written once"


def test_pods_that_got_room_after_the_deadline_have_all_their_time() -> None:
    observation = scaled(8, serve=2, made=3, old=1, waiting_pods=(a_pod("starts", of=candidate()),))
    spec = observation.parent.spec
    assert isinstance(spec, LLMDeploymentSpec)
    found = judged(observation, begun(9 * DEADLINE, suffices=1, lacks_room=True, extended=True), spec=spec)
    assert found.verdict is not None
    assert (found.verdict.state, found.verdict.progress_at) == (State.CANDIDATE, NOW)
    assert (found.verdict.lacks_room, found.verdict.extended) == (False, False)
    assert judged(observation, begun(9 * DEADLINE, suffices=1), spec=spec).verdict != found.verdict


def test_a_deployment_that_was_scaled_during_a_rollout_has_made_more_old_pods_too() -> None:
    """In proportion, and without ever taking one away while too few are available: that can last."""
    observation = scaled(8, serve=1, made=4, old=5)
    assert observation.deployment is not None
    observation.deployment["status"] |= {"readyReplicas": 2, "availableReplicas": 2}
    assert state(observation, DEADLINE, suffices=1) is State.CANDIDATE
    assert state(observation, DEADLINE, suffices=2) is State.REJECTED


def test_counts_of_an_older_spec_prove_nothing_about_room() -> None:
    observation = scaled(8, serve=2)
    assert observation.deployment is not None
    observation.deployment["status"]["observedGeneration"] = 0
    assert state(observation, 1, suffices=1) is State.CANDIDATE


def test_replicas_that_are_being_proved_are_waited_for() -> None:
    observation = scaled(8, serve=2)
    assert observation.deployment is not None
    observation.deployment["status"]["availableReplicas"] = 1
    assert state(observation, 1, suffices=1) is State.CANDIDATE


def test_a_replica_that_lacks_more_than_room_is_waited_for() -> None:
    slow = a_pod("slow", of=candidate(), containerStatuses=waiting("ErrImagePull", "dial tcp: i/o timeout"))
    no_node = a_pod("no", of=candidate(), conditions=[NO_NODE])
    observation = scaled(4, serve=2, waiting_pods=(slow, no_node))
    assert state(observation, 1, suffices=1) is State.CANDIDATE
    assert state(observation, DEADLINE, suffices=1) is State.REJECTED
    assert state(scaled(4, serve=2, waiting_pods=(no_node,)), 1, suffices=1) is State.CANDIDATE, "one has no pod yet"


def test_good_pods_that_nobody_gave_room_excuse_nothing() -> None:
    old = [a_pod("well", of=GOOD, ready=True)]
    old += [a_pod(f"no-{n}", of=GOOD, conditions=[NO_NODE]) for n in range(7)]
    new = a_pod("new", of=candidate(), containerStatuses=IMAGE_NAME)
    assert rejection(lasting(looking(new, *old))) is Reason.INVALID_IMAGE_NAME


def counts(available: int, updated: int, total: int = 4) -> dict[str, int]:
    return {"replicas": total, "updatedReplicas": updated, "availableReplicas": available}


def test_each_replica_that_comes_up_for_the_first_time_begins_the_time_anew() -> None:
    found = judged(looking(counts=counts(available=3, updated=2)), begun(DEADLINE - 1))
    assert found.verdict == replace(begun(DEADLINE - 1).verdict, progress=1, progress_at=NOW)
    assert (found.outcome, found.look_again_after) == (None, DEADLINE)


@pytest.mark.parametrize(
    ("progress", "status"),
    [
        (1, counts(available=3, updated=2)),
        (2, counts(available=3, updated=2)),
        (0, counts(available=2, updated=2)),
        (0, {**counts(available=3, updated=2), "observedGeneration": 0}),
        (0, counts(available=3, updated=3, total=4) | {"availableReplicas": 4}),
    ],
    ids=[
        "a replica that was up before",
        "fewer than before",
        "only old ones",
        "counts of an older spec",
        "the last one, for that is success",
    ],
)
def test_no_time_is_gained_by(progress: int, status: dict[str, int]) -> None:
    assert judged(looking(counts=status), begun(1, progress=progress)).verdict is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_readiness_that_comes_and_goes_never_extends_the_time(availability: list[int]) -> None:
    revision, end = begun(0), NOW
    for step, new in enumerate(availability):
        now = NOW + timedelta(seconds=step)
        observation = replace(looking(counts=counts(available=2 + new, updated=2)), now=now)
        found = judged(observation, revision)
        if found.verdict is not None:
            revision, end = revision.judged(found.verdict), now
    assert revision.verdict.progress_at == end
    firsts = [step for step, new in enumerate(availability) if new > max(availability[:step], default=0)]
    assert end == NOW + timedelta(seconds=firsts[-1] if firsts else 0)


def failing_everywhere(*, well: int = 0, ill: int = 3) -> Observation:
    old = [a_pod(f"well-{n}", of=GOOD, ready=True) for n in range(well)]
    old += [a_pod(f"ill-{n}", of=GOOD) for n in range(ill)]
    return looking(a_pod("new", of=candidate(), containerStatuses=IMAGE_NAME), *old)


def test_while_pods_of_the_good_revision_fail_too_nobody_is_blamed_before_twice_the_time() -> None:
    observation = failing_everywhere()
    assert rejection(lasting(observation)) is None
    (first,) = looks(observation, 0, revision=begun(DEADLINE))
    assert first.verdict == replace(begun(DEADLINE).verdict, extended=True)
    assert (first.outcome, first.look_again_after) == (None, DEADLINE)
    assert judged(observation, begun(2 * DEADLINE - 1, extended=True)).look_again_after == 1
    assert rejection(judged(observation, begun(2 * DEADLINE, extended=True))) is Reason.INVALID_IMAGE_NAME


def test_time_that_was_given_stays_when_the_good_pods_come_back_first() -> None:
    found = judged(looking(a_pod(of=candidate())), begun(DEADLINE + 1, extended=True))
    assert found == Judgement(look_again_after=DEADLINE - 1)


def test_an_ended_pod_that_lies_around_excuses_nothing() -> None:
    corpses = [a_pod(f"old-{n}", of=GOOD, phase="Failed", reason="Evicted") for n in range(9)]
    new = a_pod("new", of=candidate(), containerStatuses=IMAGE_NAME)
    well = a_pod("well", of=GOOD, ready=True)
    assert rejection(lasting(looking(new, well, *corpses))) is Reason.INVALID_IMAGE_NAME


@pytest.mark.parametrize(("well", "ill", "blamed"), [(2, 1, True), (1, 1, True), (1, 2, False), (0, 0, True)])
def test_more_than_half_of_the_good_pods_must_fail_to_excuse_the_new_one(well: int, ill: int, blamed: bool) -> None:
    assert (rejection(lasting(failing_everywhere(well=well, ill=ill))) is not None) is blamed


def test_good_pods_that_are_going_excuse_nothing() -> None:
    new = a_pod("new", of=candidate(), containerStatuses=IMAGE_NAME)
    assert rejection(lasting(looking(new, going(a_pod("old", of=GOOD))))) is Reason.INVALID_IMAGE_NAME


def test_without_a_good_revision_nothing_is_excused() -> None:
    observation = failing_everywhere()
    (first,) = looks(observation, -10)
    found = judged(replace(observation, suspicion=first.suspicion), good=None)
    assert rejection(found) is Reason.INVALID_IMAGE_NAME


# After an outage of the API server.


def back_since(seconds: float, *pods: Manifest) -> Observation:
    return looking(*pods, contact_since=ago(seconds))


GRACE = CONTACT_GRACE.total_seconds()


def test_after_an_outage_the_deadline_waits_until_the_kubelets_have_told_what_happened() -> None:
    assert judged(back_since(GRACE - 1), begun(10 * DEADLINE)) == Judgement(look_again_after=1)
    assert rejection(judged(back_since(GRACE), begun(10 * DEADLINE))) is Reason.PROGRESS_DEADLINE_EXCEEDED


def test_after_an_outage_proofs_wait_too() -> None:
    crashed = a_pod(of=candidate(), containerStatuses=died(1, crashes=9))
    found = judged(back_since(GRACE - 1, crashed))
    assert (rejection(found), found.look_again_after) == (None, 1)
    assert rejection(judged(back_since(GRACE, crashed))) is Reason.CRASH_LOOP


def test_after_an_outage_success_counts_at_once() -> None:
    observation = looking(counts=rolled_out(3), contact_since=NOW)
    found = judged(observation, begun(10 * DEADLINE))
    assert found.verdict is not None
    assert found.verdict.state is State.GOOD


# What a rejection says.


def test_a_rejection_counts_as_a_rollback_only_where_there_is_one() -> None:
    late, disabled = (
        begun(DEADLINE, rollbacks=(ago(9),)),
        SPEC.model_copy(update={"rollback": a_spec(rollback={"enabled": False}).rollback}),
    )

    def rollbacks(found: Judgement) -> tuple[datetime, ...]:
        assert found.verdict is not None
        assert found.verdict.state is State.REJECTED
        return found.verdict.rollbacks

    assert rollbacks(judged(looking(), late)) == (ago(9), NOW)
    assert rollbacks(judged(looking(), late, good=None)) == (ago(9),)
    assert rollbacks(judged(looking(), late, spec=disabled)) == (ago(9),)


def test_a_rejected_revision_is_not_rejected_again() -> None:
    bad = a_revision(State.REJECTED, spec=SPEC)
    assert judged(looking(a_pod(of=bad, containerStatuses=IMAGE_NAME)), bad) == Judgement()


# Nothing to judge by.


@pytest.mark.parametrize("started", [True, False])
def test_while_nothing_is_to_run_nothing_is_proved(started: bool) -> None:
    none = SPEC.model_copy(update={"replicas": 0})
    revision = (
        begun(10 * DEADLINE, progress=2, extended=True) if started else candidate(started_at=None, progress_at=None)
    )
    found = judge(looking(counts={}), none, revision, GOOD, SETTINGS)
    stopped = replace(revision.verdict, started_at=None, progress=0, progress_at=None, extended=False)
    assert found == (Judgement(stopped) if started else Judgement())


@pytest.mark.parametrize("lost", ["started_at", "progress_at"])
def test_an_attempt_whose_beginning_is_not_known_begins_now(lost: str) -> None:
    revision = candidate(**{lost: None}, progress=2, extended=True)
    found = judged(looking(), revision)
    begun_now = replace(revision.verdict, started_at=NOW, progress=0, progress_at=NOW, extended=False, suffices=3)
    assert found.verdict == begun_now
    assert found.look_again_after == DEADLINE


def test_every_judgement_that_leaves_it_open_says_when_to_look_again() -> None:
    everything = [*DOUBTS.values(), *(one for one, _ in itertools.chain(STANDING.values(), COUNTED.values()))]
    for observation in everything:
        for seconds in (0, 1, DEADLINE - 1, DEADLINE, 2 * DEADLINE):
            found = judged(observation, begun(seconds))
            decided = found.verdict is not None and found.verdict.state is State.REJECTED
            assert decided or (found.look_again_after or 0) > 0
