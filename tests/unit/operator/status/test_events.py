"""Events tell transitions, once, whoever tells them."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation, Parent
from llm_operator.core.revisions.state import State
from llm_operator.core.status.conditions import build_status
from llm_operator.core.status.events import NOTE_LIMIT, events_of
from tests.unit.operator.builders import NOW, a_parent, a_revision, a_spec, ago, rolled_out, running

SINCE = "2026-01-01T00:00:00Z"


def conditions(told: dict[str, tuple[str, str]], *, since: str = SINCE, message: str = "Words.") -> Manifest:
    return {
        "observedGeneration": 1,
        "conditions": [
            {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
            for kind, (status, reason) in told.items()
        ],
    }


def events(before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]], **over: Any) -> list[Manifest]:
    return events_of(a_parent(status=conditions(before)), conditions(after, **over), NOW)


def told(before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    return [(event["type"], event["reason"]) for event in events(before, after)]


WELL = {"Ready": ("True", "AllReplicasReady"), "Available": ("True", "ReplicasAvailable")}
ROLLING = {"Ready": ("False", "RollingOut"), "Available": ("True", "ReplicasAvailable")}
FAILING = {"Ready": ("False", "ImageNotFound"), "Available": ("True", "ReplicasAvailable")}
BACK = {
    "Ready": ("False", "RolledBack"),
    "Stalled": ("True", "RolledBack"),
    "RolledBack": ("True", "ImageNotFound"),
    "Available": ("True", "ReplicasAvailable"),
}
GONE = {"Ready": ("False", "RollingOut"), "Available": ("False", "NoReplicasAvailable")}

CASES: dict[str, tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]], list[tuple[str, str]]]] = {
    "an object that is new": ({}, GONE, []),
    "nothing changes": (FAILING, FAILING, []),
    "a change begins": (WELL, ROLLING, []),
    "it is ready": (ROLLING, WELL, [("Normal", "AllReplicasReady")]),
    "it is ready before anything was told": ({}, WELL, []),
    "it fails": (ROLLING, FAILING, [("Warning", "ImageNotFound")]),
    "it fails for another reason": (
        FAILING,
        {**FAILING, "Ready": ("False", "CrashLoop")},
        [("Warning", "CrashLoop")],
    ),
    "it is rolled back, in one event": (FAILING, BACK, [("Warning", "RolledBack")]),
    "it stalls for a reason of its own": (
        FAILING,
        {**FAILING, "Stalled": ("True", "NoKnownGoodRevision")},
        [("Warning", "NoKnownGoodRevision")],
    ),
    "nothing answers any more": (WELL, GONE, [("Warning", "NoReplicasAvailable")]),
    "nothing has ever answered": (GONE, {**GONE, "Ready": ("False", "Soaking")}, []),
    "it is scaled to zero": (
        WELL,
        {"Ready": ("True", "ScaledToZero"), "Available": ("False", "ScaledToZero")},
        [("Normal", "ScaledToZero")],
    ),
    "it answers again": (GONE, ROLLING, []),
    "the mock serves": (
        BACK,
        {**BACK, "Degraded": ("True", "FallbackServes")},
        [("Warning", "FallbackServes")],
    ),
    "what was degraded is no more": ({**WELL, "Degraded": ("True", "ReplicasUnavailable")}, WELL, []),
    "a reason that an earlier operator gave": (
        {"Ready": ("False", "Whim")},
        FAILING,
        [("Warning", "ImageNotFound")],
    ),
}


@pytest.mark.parametrize(("before", "after", "expected"), CASES.values(), ids=CASES)
def test_only_transitions_that_mean_something_are_told(
    before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    assert told(before, after) == expected


def test_an_event_is_about_the_object_and_says_what_its_condition_says() -> None:
    (event,) = events(ROLLING, WELL)
    parent = a_parent()
    assert event["regarding"] == {
        "apiVersion": "llm.carepath.ai/v1alpha1",
        "kind": "LLMDeployment",
        "name": parent.name,
        "namespace": parent.namespace,
        "uid": parent.uid,
    }
    assert event["metadata"]["namespace"] == parent.namespace
    assert (event["note"], event["eventTime"]) == ("Words.", "2026-01-02T03:04:05.000000Z")
    assert event["reportingController"]
    assert len(event["reportingInstance"]) <= 128


def test_words_alone_are_no_transition() -> None:
    assert events(FAILING, FAILING, message="Other words.") == []


# The name follows from the transition.


def name_of(parent: Parent, status: Manifest, now: datetime = NOW) -> str:
    (event,) = events_of(parent, status, now)
    name: str = event["metadata"]["name"]
    assert name.startswith(f"{parent.name}.")
    return name


def test_an_event_told_again_after_a_crash_before_the_status_has_the_same_name() -> None:
    parent = a_parent(status=conditions(ROLLING))
    then = conditions(FAILING, since="2026-01-02T03:04:35Z", message="Words with another time.")
    once = name_of(parent, conditions(FAILING, since="2026-01-02T03:04:05Z"))
    assert name_of(replace(parent, resource_version="8"), then, NOW + timedelta(seconds=30)) == once


@pytest.mark.parametrize("other", ["uid", "generation", "where it came from", "when it came there", "where it goes"])
def test_another_transition_has_another_name(other: str) -> None:
    parent, status = a_parent(status=conditions(ROLLING)), conditions(FAILING)
    name = name_of(parent, status)
    match other:
        case "uid":
            parent = replace(parent, uid="another")
        case "generation":
            status = {**status, "observedGeneration": 2}
        case "where it came from":
            parent = replace(parent, status=conditions({**ROLLING, "Ready": ("False", "Soaking")}))
        case "when it came there":
            parent = replace(parent, status=conditions(ROLLING, since="2026-01-01T00:00:01Z"))
        case "where it goes":
            status = conditions({**FAILING, "Ready": ("False", "CrashLoop")})
    assert name_of(parent, status) != name


BYTES = ["one byte each", "two bytes each", "cut within a character", "four bytes each"]


@pytest.mark.parametrize("message", ["x" * 5000, "ü" * 5000, "x" + "ü" * 5000, "🩺" * 2000], ids=BYTES)
def test_a_note_is_no_longer_than_the_api_server_takes(message: str) -> None:
    (event,) = events(ROLLING, FAILING, message=message)
    size = len(event["note"].encode())
    assert NOTE_LIMIT - 8 < size <= NOTE_LIMIT
    assert event["note"].endswith("…")
    assert message.startswith(event["note"][:-1])


def test_a_note_that_just_fits_is_not_cut() -> None:
    (event,) = events(ROLLING, FAILING, message="ü" * (NOTE_LIMIT // 2))
    assert event["note"] == "ü" * (NOTE_LIMIT // 2)


def test_a_bad_change_is_three_events_in_all() -> None:
    good, spec = a_revision(State.GOOD), a_spec(image="bad:1")
    bad = a_revision(State.REJECTED, number=2, spec=spec)
    surged = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    story: list[Observation] = [
        running(a_spec(), a_revision(), counts={"replicas": 1, "updatedReplicas": 1}),
        running(a_spec(), good),
        running(spec, a_revision(number=2, spec=spec), good, counts=surged),
        running(spec, bad, good, counts=surged),
        running(spec, good, bad, counts=surged),
        running(spec, good, bad, counts=rolled_out(1)),
        running(spec, good, bad, counts=rolled_out(1), now=ago(-3600)),
    ]
    status, seen = a_parent().status, []
    for observation in story:
        parent = replace(observation.parent, status=status)
        status = build_status(replace(observation, parent=parent), None)
        seen += [event["reason"] for event in events_of(parent, status, observation.now)]
    assert seen == ["AllReplicasReady", "RollingBack", "RolledBack"]
