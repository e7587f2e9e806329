"""What the user is told: one fact a condition, and no more writes than there are facts."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_operator.api.conditions import FINE, Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec, LLMDeploymentStatus
from llm_operator.core.names import Manifest
from llm_operator.core.observation import InvalidSpec, Observation
from llm_operator.core.planner import plan
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import fallback_spec
from llm_operator.core.status.conditions import READY, REJECTED_SHOWN, SERVING_SHOWN, build_status, is_news
from llm_operator.core.status.events import events_of
from llm_operator.core.times import timestamp
from tests.unit.operator.builders import (
    NOW,
    SETTINGS,
    a_cached_spec,
    a_claim,
    a_container_status,
    a_fetch,
    a_fetch_pod,
    a_parent,
    a_pod,
    a_revision,
    a_spec,
    ago,
    an_observation,
    going,
    last_words_of,
    rolled_out,
    running,
    waiting,
)

SPEC = a_spec(replicas=2)
GOOD = a_revision(State.GOOD, spec=SPEC)
BAD_SPEC = a_spec(replicas=2, image="bad:1")
SURGED = {"replicas": 3, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2}
NOTHING_UP = {"replicas": 2, "updatedReplicas": 2}
TIMED_OUT = {
    **NOTHING_UP,
    "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}],
}

Told = dict[str, tuple[str, str]]


def status_of(observation: Observation, obstacle: Cause | None = None) -> Manifest:
    status = build_status(observation, obstacle)
    LLMDeploymentStatus.model_validate(status, extra="forbid")
    return status


def conditions(observation: Observation, obstacle: Cause | None = None) -> Told:
    return {one["type"]: (one["status"], one["reason"]) for one in status_of(observation, obstacle)["conditions"]}


def messages(observation: Observation, obstacle: Cause | None = None) -> dict[str, str]:
    return {one["type"]: one["message"] for one in status_of(observation, obstacle)["conditions"]}


def candidate(**over: Any) -> Revision:
    return a_revision(number=2, spec=BAD_SPEC, **over)


def rejected(**over: Any) -> Revision:
    return a_revision(State.REJECTED, number=2, spec=BAD_SPEC, **over)


def serving(*of: Revision) -> tuple[Manifest, ...]:
    return tuple(a_pod(f"well-{number}", of=revision, ready=True) for number, revision in enumerate(of))


def later(observation: Observation, status: Manifest, **spec: Any) -> Observation:
    """The same world years later, with this status stored."""
    parent = replace(observation.parent, status=status, **spec)
    return replace(observation, parent=parent, now=NOW.replace(year=2030))


AVAILABLE = {"Available": ("True", "ReplicasAvailable")}

# The table of states: what is there, and every condition that is told.
STATES: dict[str, tuple[Observation, Told]] = {
    "nothing is made yet": (
        an_observation(),
        {
            "Ready": ("False", "RollingOut"),
            "Available": ("False", "NoReplicasAvailable"),
            "Reconciling": ("True", "RollingOut"),
        },
    ),
    "all is well": (
        running(SPEC, GOOD),
        {"Ready": ("True", "AllReplicasReady"), **AVAILABLE},
    ),
    "the newest spec has not been looked at": (
        running(SPEC, GOOD, counts={**rolled_out(2), "observedGeneration": 0}),
        {"Ready": ("False", "RollingOut"), **AVAILABLE, "Reconciling": ("True", "RollingOut")},
    ),
    "an edit that is not applied yet": (
        running(BAD_SPEC, GOOD),
        {"Ready": ("False", "RollingOut"), **AVAILABLE, "Reconciling": ("True", "RollingOut")},
    ),
    "a scale that is not applied yet": (
        replace(running(SPEC, GOOD), parent=a_parent(spec=a_spec(replicas=5))),
        {"Ready": ("False", "RollingOut"), **AVAILABLE, "Reconciling": ("True", "RollingOut")},
    ),
    "a change comes up": (
        running(BAD_SPEC, candidate(), GOOD, counts=SURGED),
        {"Ready": ("False", "RollingOut"), **AVAILABLE, "Reconciling": ("True", "RollingOut")},
    ),
    "the new replicas must go on answering": (
        running(SPEC, a_revision(spec=SPEC), counts={**rolled_out(2), "availableReplicas": 1}),
        {"Ready": ("False", "Soaking"), **AVAILABLE, "Reconciling": ("True", "Soaking")},
    ),
    "all have come up and nobody has said so yet": (
        running(SPEC, a_revision(spec=SPEC)),
        {"Ready": ("False", "RollingOut"), **AVAILABLE, "Reconciling": ("True", "RollingOut")},
    ),
    "a change fails while the good one serves": (
        running(
            BAD_SPEC,
            candidate(),
            GOOD,
            counts=SURGED,
            pods=(*serving(GOOD), a_pod(of=candidate(), containerStatuses=waiting("ErrImagePull", "hm"))),
        ),
        {"Ready": ("False", "ImagePullFailed"), **AVAILABLE, "Reconciling": ("True", "ImagePullFailed")},
    ),
    "a change fails and the good one does so too": (
        running(
            BAD_SPEC,
            candidate(),
            GOOD,
            counts={"replicas": 3, "updatedReplicas": 1},
            pods=(a_pod("a", of=GOOD), a_pod("b", of=GOOD), a_pod("c", of=candidate())),
        ),
        {
            "Ready": ("False", "RollingOut"),
            "Available": ("False", "NoReplicasAvailable"),
            "Reconciling": ("True", "RollingOut"),
            "Degraded": ("True", "InfrastructureSuspected"),
        },
    ),
    "rolling back": (
        running(BAD_SPEC, GOOD, rejected(), counts=SURGED),
        {"Ready": ("False", "RollingBack"), **AVAILABLE, "Reconciling": ("True", "RollingBack")},
    ),
    "rejected and still applied": (
        running(BAD_SPEC, rejected(), GOOD, counts=SURGED),
        {"Ready": ("False", "RollingBack"), **AVAILABLE, "Reconciling": ("True", "RollingBack")},
    ),
    "rolled back": (
        running(BAD_SPEC, GOOD, rejected()),
        {
            "Ready": ("False", "RolledBack"),
            **AVAILABLE,
            "Stalled": ("True", "RolledBack"),
            "RolledBack": ("True", "ImageNotFound"),
        },
    ),
    "rolled back, and nobody knows when it was rejected": (
        running(BAD_SPEC, GOOD, rejected(decided_at=None), counts=NOTHING_UP),
        {
            "Ready": ("False", "RollingBack"),
            "Available": ("False", "NoReplicasAvailable"),
            "Reconciling": ("True", "RollingBack"),
        },
    ),
    "the good one does not come back": (
        running(BAD_SPEC, GOOD, rejected(), counts=TIMED_OUT),
        {
            "Ready": ("False", "RollbackFailed"),
            "Available": ("False", "NoReplicasAvailable"),
            "Stalled": ("True", "RollbackFailed"),
            "Degraded": ("True", "RollbackFailed"),
        },
    ),
    "what was rejected long ago is declared again, and the good one comes back": (
        running(BAD_SPEC, GOOD, rejected(decided_at=ago(9000)), counts=NOTHING_UP),
        {
            "Ready": ("False", "RollingBack"),
            "Available": ("False", "NoReplicasAvailable"),
            "Reconciling": ("True", "RollingBack"),
        },
    ),
    "the one before was too late, and the good one has just been applied": (
        running(BAD_SPEC, GOOD, rejected(), counts={**TIMED_OUT, "observedGeneration": 0}),
        {
            "Ready": ("False", "RollingBack"),
            "Available": ("False", "NoReplicasAvailable"),
            "Reconciling": ("True", "RollingBack"),
        },
    ),
    "rejected, and none was ever good": (
        running(BAD_SPEC, rejected(), counts=NOTHING_UP),
        {
            "Ready": ("False", "ImageNotFound"),
            "Available": ("False", "NoReplicasAvailable"),
            "Stalled": ("True", "NoKnownGoodRevision"),
        },
    ),
    "rejected, and rollback is disabled": (
        running(a_spec(replicas=2, image="bad:1", rollback={"enabled": False}), rejected(), GOOD, counts=SURGED),
        {"Ready": ("False", "ImageNotFound"), **AVAILABLE, "Stalled": ("True", "RollbackDisabled")},
    ),
    "one that was good has lost its pods": (
        running(SPEC, GOOD, counts=NOTHING_UP, pods=(a_pod(of=GOOD, containerStatuses=waiting("ErrImagePull", "hm")),)),
        {
            "Ready": ("False", "ImagePullFailed"),
            "Available": ("False", "NoReplicasAvailable"),
            "Reconciling": ("True", "ImagePullFailed"),
            "Degraded": ("True", "ImagePullFailed"),
        },
    ),
    "scaled to zero": (
        running(a_spec(replicas=0), GOOD),
        {"Ready": ("True", "ScaledToZero"), "Available": ("False", "ScaledToZero")},
    ),
    "on the way to zero": (
        running(a_spec(replicas=0), GOOD, counts={"replicas": 1}),
        {
            "Ready": ("False", "RollingOut"),
            "Available": ("False", "ScaledToZero"),
            "Reconciling": ("True", "RollingOut"),
        },
    ),
}


@pytest.mark.parametrize(("observation", "told"), STATES.values(), ids=STATES)
def test_the_conditions_are_those_of_the_state(observation: Observation, told: Told) -> None:
    assert conditions(observation) == told


@pytest.mark.parametrize(("observation", "_"), STATES.values(), ids=STATES)
def test_the_status_is_a_fixed_point_so_nothing_is_written_at_rest(observation: Observation, _: Told) -> None:
    first = status_of(observation)
    again = replace(observation, parent=replace(observation.parent, status=first), now=NOW + timedelta(seconds=1))
    assert status_of(again) == first


def test_what_only_somebody_else_can_change_is_stalled_and_what_serves_is_still_told() -> None:
    for reason in (Reason.NAME_CONFLICT, Reason.INVALID_SPEC, Reason.APPLY_REFUSED, Reason.DRIFT_NOT_REPAIRED):
        assert conditions(running(SPEC, GOOD), Cause(reason, "why")) == {
            "Ready": ("False", reason),
            **AVAILABLE,
            "Stalled": ("True", reason),
        }


def test_an_earlier_namesake_goes_by_itself_and_stalls_nothing() -> None:
    told = conditions(an_observation(), Cause(Reason.WAITING_FOR_DELETION, "why"))
    assert told["Reconciling"] == ("True", "WaitingForDeletion")
    assert "Stalled" not in told


def test_a_change_that_is_held_back_is_stalled_while_the_good_one_serves() -> None:
    bad = [
        a_revision(State.REJECTED, number=9 - n, spec=a_spec(image=f"bad:{n}"), rollbacks=(ago(60),)) for n in range(3)
    ]
    observation = running(a_spec(replicas=2, image="new:1"), GOOD, *bad)
    assert conditions(observation, plan(observation, SETTINGS).obstacle) == {
        "Ready": ("False", "RollbackBudgetExceeded"),
        **AVAILABLE,
        "Stalled": ("True", "RollbackBudgetExceeded"),
    }


def mock_in_place(**counts: int) -> tuple[Observation, Revision]:
    spec = a_spec(replicas=2, image="bad:1", rollback={"fallback": "Mock"})
    mock = a_revision(State.FALLBACK, number=3, spec=fallback_spec(spec))
    return running(spec, mock, rejected(), counts=counts or None), mock


def test_the_mock_that_serves_is_told_as_what_it_is() -> None:
    observation, mock = mock_in_place()
    assert conditions(observation) == {
        "Ready": ("False", "RolledBack"),
        **AVAILABLE,
        "Stalled": ("True", "RolledBack"),
        "RolledBack": ("True", "ImageNotFound"),
        "Degraded": ("True", "FallbackServes"),
    }
    assert f"the mock of revision {mock.hash}" in messages(observation)["Ready"]
    assert status_of(replace(observation, pods=serving(mock)))["mode"] == "mock"


def test_a_mock_on_its_way_serves_nothing_yet() -> None:
    assert conditions(mock_in_place(**NOTHING_UP)[0]) == {
        "Ready": ("False", "RollingBack"),
        "Available": ("False", "NoReplicasAvailable"),
        "Reconciling": ("True", "RollingBack"),
    }


# One that was good, and is not now.


@pytest.mark.parametrize(
    ("was", "told"),
    [
        ({"Available": "True"}, True),
        ({"Available": "False", "Degraded": "True"}, True),
        ({"Available": "False"}, False),
        ({}, False),
    ],
    ids=["it answered", "it was told already", "it never answered", "nothing is known"],
)
def test_a_good_revision_without_a_known_fault_is_degraded_only_after_it_had_answered(
    was: dict[str, str], told: bool
) -> None:
    stored = {"conditions": [{"type": kind, "status": status} for kind, status in was.items()]}
    observation = running(SPEC, GOOD, counts=NOTHING_UP)
    observation = replace(observation, parent=replace(observation.parent, status=stored))
    expected = {"Degraded": ("True", "ReplicasUnavailable")} if told else {}
    assert {kind: one for kind, one in conditions(observation).items() if kind == "Degraded"} == expected


def test_some_good_replicas_that_answer_are_not_degraded() -> None:
    stored = {"conditions": [{"type": "Available", "status": "True"}]}
    observation = running(SPEC, GOOD, counts={**NOTHING_UP, "readyReplicas": 1})
    observation = replace(observation, parent=replace(observation.parent, status=stored))
    assert "Degraded" not in conditions(observation)


def test_the_fault_of_the_good_pods_is_told_where_it_matters() -> None:
    sick = a_pod("sick", of=GOOD, containerStatuses=waiting("InvalidImageName"))
    back = running(BAD_SPEC, GOOD, rejected(), counts=TIMED_OUT, pods=(sick,))
    assert "cannot be parsed" in messages(back)["Ready"]
    both = running(BAD_SPEC, candidate(), GOOD, counts={"replicas": 1}, pods=(sick,))
    assert "cannot be parsed" in messages(both)["Degraded"]


# Words.


def test_the_message_says_how_far_a_change_is_and_what_is_left_of_the_old() -> None:
    told = messages(running(BAD_SPEC, candidate(), GOOD, counts=SURGED))
    assert told["Ready"] == (
        "1 of 2 replicas run the declared revision, 0 of these are available; 2 of an earlier revision still run."
    )
    fresh = messages(running(BAD_SPEC, candidate(), counts=NOTHING_UP))
    assert fresh["Ready"] == "2 of 2 replicas run the declared revision, 0 of these are available."


def test_a_rollback_tells_what_was_rejected_why_what_serves_and_what_to_do() -> None:
    told = messages(running(BAD_SPEC, GOOD, rejected()))["Ready"]
    for words in (rejected().hash, "ImageNotFound", "There is no such image.", GOOD.hash, "retryToken"):
        assert words in told


@pytest.mark.parametrize("others", [(GOOD,), ()], ids=["rolled back", "nothing to go back to"])
def test_a_reason_that_only_a_newer_operator_knows_is_passed_on(others: tuple[Revision, ...]) -> None:
    failed = rejected(reason="CheckFailed", message="In its own words.")
    observation = running(BAD_SPEC, *others, failed) if others else running(BAD_SPEC, failed, counts=SURGED)
    status = status_of(observation)
    assert status["rejected"][0]["reason"] == "CheckFailed"
    told = {one["type"]: one for one in status["conditions"]}
    assert told["RolledBack" if others else "Ready"]["reason"] == "CheckFailed"
    assert "In its own words." in told["Ready"]["message"]
    assert events_of(observation.parent, status, NOW)


def test_availability_names_the_revisions_that_answer() -> None:
    pods = (*serving(GOOD, candidate()), going(a_pod("gone", of=a_revision(), ready=True)), a_pod("none", ready=True))
    told = messages(running(BAD_SPEC, candidate(), GOOD, counts=SURGED, pods=pods))["Available"]
    both = " and ".join(sorted((GOOD.hash, candidate().hash)))
    assert told == f"2 replicas of revision {both} answer requests."
    assert messages(running(SPEC, GOOD))["Available"] == "2 replicas answer requests."


def failing(words: str) -> Observation:
    containers = a_container_status(
        state={"waiting": {"reason": "ErrImagePull" if words else "ImagePullBackOff", "message": words}}
    )
    return running(SPEC, a_revision(spec=SPEC), counts=NOTHING_UP, pods=(a_pod(of=GOOD, containerStatuses=containers),))


def test_words_of_the_runtime_do_not_come_and_go() -> None:
    first = status_of(failing("no idea"))
    assert status_of(later(failing(""), first)) == first
    changed = status_of(later(failing("no clue"), first))
    assert changed != first
    edited = status_of(later(failing(""), first, generation=2))
    assert "no idea" not in {one["type"]: one["message"] for one in edited["conditions"]}["Ready"]


def ready_message(observation: Observation) -> str:
    return next(one["message"] for one in status_of(observation)["conditions"] if one["type"] == "Ready")


BAD = a_revision(number=2, spec=BAD_SPEC)
END = timestamp(ago(60) + timedelta(seconds=900))


@pytest.mark.parametrize(
    ("well", "serves"),
    [
        ((), "Nothing serves"),
        ((GOOD,), f"Revision {GOOD.hash} serves"),
        ((GOOD, GOOD, BAD), f"Revisions {GOOD.hash} and {BAD.hash} serve"),
    ],
    ids=["a first install", "the good one", "both"],
)
def test_a_doubt_tells_what_serves_and_when_it_ends(well: tuple[Revision, ...], serves: str) -> None:
    """A moment that stays the same: a message that counts down would be written again and again."""
    pods = [a_pod("new", of=BAD, containerStatuses=waiting("ErrImagePull", "i/o timeout"))]
    pods += [a_pod(f"well-{n}", of=one, ready=True) for n, one in enumerate(well)]
    observation = running(BAD_SPEC, BAD, GOOD, counts=NOTHING_UP, pods=tuple(pods))
    message = ready_message(observation)
    assert f"{serves}; given up at {END}. It says: i/o timeout" in message
    assert ready_message(later(observation, {})) == message


def test_a_proof_and_a_fault_of_what_was_good_are_given_up_at_no_time() -> None:
    sick = waiting("InvalidImageName")
    proof = running(BAD_SPEC, BAD, GOOD, counts=NOTHING_UP, pods=(a_pod(of=BAD, containerStatuses=sick),))
    assert "given up" not in ready_message(proof)
    away = waiting("ErrImagePull", "i/o timeout")
    good = a_revision(State.GOOD, spec=SPEC)
    assert "given up" not in ready_message(
        running(SPEC, good, counts=NOTHING_UP, pods=(a_pod(of=good, containerStatuses=away),))
    )


def test_a_fetch_that_may_yet_succeed_tells_what_serves_and_when_it_ends() -> None:
    spec = a_cached_spec()
    new = a_revision(number=2, spec=spec)
    pods = (a_fetch_pod(40, last_words_of(40, "HostNotFound")),)
    observation = running(
        spec, GOOD, new, claim=a_claim(), fetch=a_fetch(), fetch_pods=pods, pods=(a_pod(of=GOOD, ready=True),)
    )
    message = ready_message(observation)
    assert f"Revision {GOOD.hash} serves; given up at {END}. It says: It went wrong. " in message
    going_on = ready_message(replace(observation, fetch_pods=(a_fetch_pod(),)))
    assert "given up" not in going_on, "no doubt, no end"


NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no cpu"}


@pytest.mark.parametrize(
    ("state", "suffices", "given_up"),
    [(State.GOOD, None, False), (State.CANDIDATE, 2, False), (State.CANDIDATE, 3, True), (State.CANDIDATE, None, True)],
    ids=["it is good", "enough serve", "fewer than before", "an earlier operator began"],
)
def test_how_many_serve_is_told_where_room_is_missing(state: State, suffices: int | None, given_up: bool) -> None:
    spec = a_spec(replicas=3)
    new = a_revision(state, spec=spec, suffices=suffices)
    pods = (*(a_pod(f"well-{n}", of=new, ready=True) for n in "ab"), a_pod("no", of=new, conditions=[NO_NODE]))
    counts = {"replicas": 3, "updatedReplicas": 3, "readyReplicas": 2, "availableReplicas": 2}
    message = ready_message(running(spec, new, counts=counts, pods=pods))
    assert message.startswith("2 of 3 replicas serve. Pod no fits on no node")
    assert ("given up at" in message) is given_up


# The rest of the status.


def test_revisions_are_named() -> None:
    status = status_of(running(BAD_SPEC, GOOD, rejected(attempt=2)))
    assert (status["desiredRevision"], status["activeRevision"]) == (rejected().hash, GOOD.hash)
    assert status["lastKnownGoodRevision"] == GOOD.hash
    assert status["rejected"] == [
        {
            "revision": rejected().hash,
            "reason": "ImageNotFound",
            "message": "There is no such image.",
            "attempts": 2,
            "rejectedAt": "2026-01-02T03:03:05Z",
        }
    ]


def test_only_the_newest_rejected_revisions_are_told() -> None:
    bad = [
        a_revision(State.REJECTED, number=n, spec=a_spec(image=f"bad:{n}"), decided_at=ago(n) if n else None)
        for n in range(REJECTED_SHOWN + 1)
    ]
    told = status_of(running(SPEC, GOOD, *bad))["rejected"]
    assert [one["revision"] for one in told] == [one.hash for one in bad[1:]]
    (unknown,) = status_of(running(SPEC, GOOD, bad[0]))["rejected"]
    assert unknown["rejectedAt"] == "1970-01-01T00:00:00Z"


def test_nothing_is_told_of_revisions_that_are_not_known() -> None:
    status = status_of(an_observation())
    assert {"mode", "url", "activeRevision", "lastKnownGoodRevision"} & status.keys() == set()
    assert status["rejected"] == []


def test_a_spec_that_cannot_be_read_still_has_what_serves_told() -> None:
    observation = running(SPEC, GOOD, pods=serving(GOOD))
    observation = replace(observation, parent=replace(observation.parent, spec=InvalidSpec(("why",))))
    cause = plan(observation, SETTINGS).obstacle
    status = status_of(observation, cause)
    assert conditions(observation, cause) == {
        "Ready": ("False", "InvalidSpec"),
        **AVAILABLE,
        "Stalled": ("True", "InvalidSpec"),
    }
    assert (status["mode"], status["servingRevision"], status["readyReplicas"]) == ("mock", GOOD.hash, 2)
    assert "desiredRevision" not in status


def test_of_a_spec_that_cannot_be_read_nothing_is_claimed() -> None:
    observation = running(SPEC, GOOD)
    observation = replace(observation, parent=replace(observation.parent, spec=InvalidSpec(("why",))))
    assert conditions(observation)["Ready"] == ("False", "RollingOut")


def test_a_foreign_deployment_gives_neither_replicas_nor_availability() -> None:
    observation = running(SPEC, GOOD, pods=serving(GOOD))
    assert observation.deployment is not None
    observation.deployment["metadata"]["ownerReferences"] = []
    status = status_of(observation, Cause(Reason.NAME_CONFLICT, "why"))
    assert status["replicas"] == 0
    assert "mode" not in status
    assert "url" in status, "the Service is our own"
    assert conditions(observation, Cause(Reason.NAME_CONFLICT, "why"))["Available"][0] == "False"


def test_a_foreign_service_has_no_url() -> None:
    observation = running(SPEC, GOOD)
    assert observation.service is not None
    assert status_of(observation)["url"] == "http://triage.clinic.svc:8002"
    observation.service["metadata"]["ownerReferences"] = []
    assert "url" not in status_of(observation)


MODEL_SPEC = a_spec(replicas=2, mode="qwen", model={"source": "image"})
MODEL = a_revision(number=2, spec=MODEL_SPEC)


WORDS = "It says: ModeNotSupported: the image holds no engine. "


def test_a_long_message_stands_in_ready_and_the_others_tell_their_own_fact() -> None:
    message = f"Pod triage-1: container server exited with code 78. {WORDS}" + "long " * 200
    bad = rejected(reason="CrashLoop", message=message)
    found = messages(running(BAD_SPEC, GOOD, bad, pods=serving(GOOD, GOOD)))
    assert message in found["Ready"]
    assert f"Revision {bad.hash} was rejected: CrashLoop. Now revision {GOOD.hash} serves" in found["Stalled"]
    assert found["RolledBack"].endswith("Pod triage-1: container server exited with code 78.")
    assert [kind for kind, text in found.items() if WORDS in text] == ["Ready"]


def test_while_it_lasts_a_long_message_stands_in_ready_alone() -> None:
    pod = a_pod(of=candidate(), containerStatuses=waiting("ErrImagePull", "hm " * 200))
    found = messages(running(BAD_SPEC, candidate(), GOOD, counts=SURGED, pods=(*serving(GOOD), pod)))
    assert [kind for kind, text in found.items() if "It says: hm" in text] == ["Ready"]
    assert found["Ready"].startswith(found["Reconciling"])
    # What nothing but a change makes go away is all that kstatus shows.
    refused = Cause(Reason.APPLY_REFUSED, "The API server refused it. It says: no")
    found = messages(running(SPEC, GOOD), refused)
    assert found["Ready"] == found["Stalled"] == refused.message


def test_a_fight_over_a_field_hides_no_fault_of_the_pods() -> None:
    fight = Cause(Reason.DRIFT_NOT_REPAIRED, "Something keeps changing spec.x of Deployment triage.")
    pod = a_pod(of=candidate(), containerStatuses=waiting("ErrImagePull", "hm"))
    fails = running(BAD_SPEC, candidate(), GOOD, counts=SURGED, pods=(*serving(GOOD), pod))
    assert conditions(fails, fight) == {
        "Ready": ("False", "ImagePullFailed"),
        **AVAILABLE,
        "Reconciling": ("True", "ImagePullFailed"),
    }
    assert fight.message in messages(fails, fight)["Ready"]
    assert conditions(running(SPEC, GOOD), fight)["Ready"] == ("False", "DriftNotRepaired")


def answers_of(observation: Observation) -> tuple[str | None, str | None]:
    status = status_of(observation)
    return status.get("mode"), status.get("servingRevision")


def test_during_a_roll_out_what_answers_is_told_and_not_what_was_applied() -> None:
    coming = a_pod("new", of=MODEL)
    observation = running(MODEL_SPEC, MODEL, GOOD, counts=SURGED, pods=(*serving(GOOD, GOOD), coming))
    assert status_of(observation)["activeRevision"] == MODEL.hash
    assert answers_of(observation) == ("mock", GOOD.hash)


def test_while_two_revisions_answer_both_are_told_that_of_the_most_replicas_first() -> None:
    observation = running(MODEL_SPEC, MODEL, GOOD, pods=serving(MODEL, GOOD, GOOD))
    assert answers_of(observation) == ("mock,qwen", f"{GOOD.hash},{MODEL.hash}")
    observation = replace(observation, pods=serving(MODEL, MODEL, GOOD))
    assert answers_of(observation) == ("qwen,mock", f"{MODEL.hash},{GOOD.hash}")
    both = a_revision(number=3, spec=a_spec(replicas=2, image="b:1"))
    observation = running(SPEC, GOOD, both, pods=serving(GOOD, both))
    assert answers_of(observation)[0] == "mock"


def test_a_pipeline_gone_wild_is_told_in_a_few_words() -> None:
    many = [a_revision(number=number, spec=a_spec(image=f"i:{number}")) for number in range(9)]
    mode, revisions = answers_of(running(SPEC, *many, pods=serving(*many)))
    assert revisions is not None
    assert (mode, len(revisions.split(","))) == ("mock", SERVING_SHOWN)


@pytest.mark.parametrize("pods", [(), (a_pod(of=GOOD),), (going(a_pod(of=GOOD, ready=True)),), (a_pod(ready=True),)])
def test_where_no_replica_answers_nothing_is_told_to_serve(pods: tuple[Manifest, ...]) -> None:
    assert answers_of(running(SPEC, GOOD, counts=NOTHING_UP, pods=pods)) == (None, None)


@pytest.mark.parametrize("env", [[], [{"name": "OTHER", "value": "mock"}], [{"name": "LLM_MODE", "value": "by hand"}]])
def test_a_mode_that_is_none_is_not_told(env: list[dict[str, str]]) -> None:
    observation = replace(running(SPEC, GOOD, pods=serving(GOOD)), revisions=())
    assert observation.deployment is not None
    assert status_of(observation)["mode"] == "mock", "by what the Deployment says: the record is lost"
    observation.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = env
    assert answers_of(observation) == (None, GOOD.hash)
    observation.deployment["spec"]["template"]["spec"]["containers"] = []
    assert answers_of(observation) == (None, GOOD.hash)
    observation.deployment["metadata"]["annotations"] = {}
    assert answers_of(observation) == (None, GOOD.hash)


def test_after_a_rollback_the_mode_is_that_of_what_runs() -> None:
    spec = a_spec(mode="qwen")
    bad = a_revision(State.REJECTED, number=2, spec=spec)
    good = a_revision(State.GOOD)
    assert status_of(running(spec, good, bad, pods=serving(good)))["mode"] == "mock"


def test_every_condition_speaks_about_the_generation_that_was_read() -> None:
    observation = running(SPEC, GOOD)
    status = status_of(replace(observation, parent=replace(observation.parent, generation=5)))
    assert status["observedGeneration"] == 5
    assert {one["observedGeneration"] for one in status["conditions"]} == {5}


def test_the_transition_time_moves_only_with_the_status() -> None:
    before = status_of(running(SPEC, GOOD))
    fewer = running(
        SPEC, GOOD, counts={"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1, "readyReplicas": 1}
    )
    times = {one["type"]: one["lastTransitionTime"][:4] for one in status_of(later(fewer, before))["conditions"]}
    assert times == {"Ready": "2030", "Reconciling": "2030", "Available": "2026"}


# What is worth a write of its own.


def test_other_counts_and_other_words_are_no_news() -> None:
    before = status_of(running(BAD_SPEC, candidate(), GOOD, counts=SURGED))
    after = status_of(running(BAD_SPEC, candidate(), GOOD, counts={**SURGED, "replicas": 2, "readyReplicas": 1}))
    assert before != after
    assert not is_news(before, after)


@pytest.mark.parametrize(
    "after",
    [
        running(BAD_SPEC, GOOD, rejected()),
        running(BAD_SPEC, candidate(), counts=SURGED),
        running(a_spec(replicas=2, image="other:1"), candidate(), GOOD, counts=SURGED),
        replace(running(BAD_SPEC, candidate(), GOOD, counts=SURGED), parent=a_parent(spec=BAD_SPEC, generation=2)),
    ],
    ids=["a condition", "the good revision", "the declared revision", "the generation"],
)
def test_it_is_news_when_another_is(after: Observation) -> None:
    assert is_news(status_of(running(BAD_SPEC, candidate(), GOOD, counts=SURGED)), status_of(after))


@pytest.mark.parametrize("before", [{}, {"observedGeneration": -1}], ids=["no status", "the CRD's default"])
@pytest.mark.parametrize(
    ("first", "news"),
    [
        (running(SPEC, GOOD), True),
        (running(BAD_SPEC, rejected(), counts=SURGED), True),
        (running(BAD_SPEC, candidate(), counts=SURGED), False),
        (replace(running(BAD_SPEC, candidate()), deployment=None, service=None), False),
    ],
    ids=["Ready", "rejected", "rolling out", "nothing there yet"],
)
def test_the_first_status_is_news_unless_it_only_says_that_there_will_be_some(
    before: Manifest, first: Observation, news: bool
) -> None:
    assert is_news(before, status_of(first)) is news


# The rules of kstatus, whatever there is.


def revisions(spec: LLMDeploymentSpec) -> Any:
    others = st.lists(st.sampled_from(State), max_size=2).map(
        lambda states: [a_revision(one, number=n + 5, spec=a_spec(image=f"other:{n}")) for n, one in enumerate(states)]
    )
    own = st.none() | st.sampled_from(State).map(lambda state: a_revision(state, spec=spec))
    return st.tuples(own, others)


@st.composite
def worlds(draw: Any) -> Observation:
    spec = draw(st.sampled_from([SPEC, a_spec(replicas=0), a_spec(rollback={"enabled": False})]))
    own, others = draw(revisions(spec))
    known = [*([] if own is None else [own]), *others]
    runs = draw(st.sampled_from(known or [a_revision(spec=spec)]))
    counts = draw(st.sampled_from([{}, NOTHING_UP, SURGED, rolled_out(spec.replicas), {"observedGeneration": 0}]))
    pods = draw(st.sampled_from([(), serving(runs), (a_pod(of=runs, containerStatuses=waiting("InvalidImageName")),)]))
    observation = running(spec, runs, *(one for one in known if one is not runs), counts=counts, pods=pods)
    if not known:
        observation = replace(observation, revisions=())
    if draw(st.booleans()):
        observation = replace(observation, deployment=None)
    return observation


@settings(deadline=None)
@given(worlds())
def test_one_condition_tells_the_tools_whether_to_wait(observation: Observation) -> None:
    obstacle = plan(observation, SETTINGS).obstacle
    told = conditions(observation, obstacle)
    assert not {"Stalled", "Reconciling"} <= told.keys()
    ready, reason = told["Ready"]
    assert (ready == "True") is (Reason(reason) in READY)
    assert (ready == "True") is not bool({"Stalled", "Reconciling"} & told.keys())
    assert {status for kind, (status, _) in told.items() if kind not in ("Ready", "Available")} <= {"True"}
    assert told["Available"][0] == "False" or Reason(told["Available"][1]) in FINE


def test_a_parent_that_was_never_looked_at_has_its_first_conditions_now() -> None:
    status = status_of(an_observation(parent=a_parent(status={})))
    assert {one["lastTransitionTime"] for one in status["conditions"]} == {"2026-01-02T03:04:05Z"}
