"""What is recorded of revisions: lost, spoiled, forgotten, and not made where nothing changed."""

import json
from contextlib import suppress
from typing import Any

from tests.integration.courses import Courses, Story
from tests.integration.failures import FAILURES, fails
from tests.integration.subject import INSTANCE, REVISION, VERDICT, Subject, is_rolled_back, revision, says, told
from tests.kubectl import Manifest, condition, eventually, is_ready

COURSES = Courses()


@COURSES.add
def what_does_not_shape_the_pods_makes_no_revision(subject: Subject) -> None:
    subject.apply()
    before = subject.until(is_ready)
    pods = subject.pods()
    subject.kubectl("label", "llmdep", subject.name, "team=triage")
    subject.kubectl("annotate", "llmdep", subject.name, "note=x")
    edits: list[dict[str, Any]] = [
        {"rollout": {"progressDeadlineSeconds": 77, "soakSeconds": 1}},
        {"rollback": {"maxPerHour": 9, "enabled": False, "fallback": "Mock", "retryToken": "x"}},
        {"rollout": {"strategy": "Recreate"}},
        {"replicas": 3},
        {"replicas": 1},
    ]
    for edit in edits:
        subject.edit(**edit)
        found = subject.until(is_ready)
        assert revision(found, "desired") == revision(before, "desired")
        assert len(subject.verdicts()) == 1
    assert len(subject.pods() & pods) == 1 or len(subject.pods()) == 1
    subject.edit(replicas=0)
    subject.until(says("Ready", "ScaledToZero"))
    subject.edit(replicas=1)
    found = subject.until(is_ready)
    assert told(found)["Ready"][1] == "AllReplicasReady"
    assert subject.states() == {"Good": 1}


@COURSES.add
def a_status_that_is_lost_is_made_anew(subject: Subject) -> None:
    after = fails(subject, FAILURES["crash"])
    pods = subject.pods()
    live = subject.kubectl.get("llmdep", subject.name)
    assert live is not None
    wiped = {**live, "status": {"observedGeneration": -1}}
    subject.kubectl("replace", "--subresource=status", "-f", "-", stdin=json.dumps(wiped))
    subject.once(lambda version: version["status"].get("observedGeneration") == -1)
    found = subject.until(is_rolled_back)
    for key in ("desiredRevision", "activeRevision", "lastKnownGoodRevision", "rejected", "url", "replicas"):
        assert found["status"][key] == after["status"][key], key
    assert told(found) == told(after)
    assert subject.pods() == pods
    assert subject.states() == {"Good": 1, "Rejected": 1}


@COURSES.add
def records_that_are_deleted_are_made_anew_without_a_rollout(subject: Subject) -> None:
    subject.apply()
    before = subject.until(is_ready)
    pods, deployment = subject.pods(), subject.deployment()
    subject.kubectl("delete", "controllerrevisions", "-l", f"{INSTANCE}={subject.name}")
    eventually(lambda: subject.states() == {"Good": 1})
    found = subject.until(is_ready)
    assert revision(found, "desired") == revision(before, "desired")
    assert subject.pods() == pods
    assert subject.deployment()["spec"] == deployment["spec"]
    # And it can be rolled back to.
    subject.edit(image="kwok/crash:1")
    subject.until(is_rolled_back)
    subject.pods_are(pods)


@COURSES.add
def all_records_deleted_after_a_rollback_leave_what_serves(subject: Subject) -> None:
    after = fails(subject, FAILURES["crash"])
    pods = subject.pods()
    subject.kubectl("delete", "controllerrevisions", "-l", f"{INSTANCE}={subject.name}")
    # The verdict on the bad one is gone too: it is tried once more, and taken back once more.
    eventually(lambda: subject.states() == {"Good": 1, "Rejected": 1})
    found = subject.until(is_rolled_back)
    assert revision(found, "lastKnownGood") == revision(after, "lastKnownGood")
    subject.pods_are(pods)
    for version in subject.versions():
        assert version["metadata"]["generation"] == 1 or condition(version, "Available")["status"] == "True"


def spoiled(subject: Subject, patch: Manifest) -> None:
    """Somebody changes the record of the good revision: it is healed or judged anew, and no pod restarts."""
    subject.apply()
    before = subject.until(is_ready)
    pods, generation = subject.pods(), subject.deployment()["metadata"]["generation"]
    name = f"{subject.name}-{revision(before, 'desired')}"
    subject.kubectl.patch("controllerrevision", name, patch)

    def is_healed() -> bool:
        with suppress(ValueError):  # what was put there is no JSON
            return subject.states() == {"Good": 1}
        return False

    eventually(is_healed)
    subject.until(is_ready)
    found = subject.kubectl.get("controllerrevision", name)
    assert found is not None
    assert found["metadata"]["labels"][INSTANCE] == subject.name
    assert found["metadata"]["annotations"][REVISION] == revision(before, "desired")
    assert subject.pods() == pods
    assert subject.deployment()["metadata"]["generation"] == generation
    subject.edit(image="kwok/crash:1")
    subject.until(is_rolled_back)
    subject.pods_are(pods)


SPOILED: dict[str, Manifest] = {
    "labels": {"metadata": {"labels": None}},
    "annotations": {"metadata": {"annotations": None}},
    "labels_and_annotations": {"metadata": {"labels": None, "annotations": None}},
    "verdict": {"metadata": {"annotations": {VERDICT: "{not json"}}},
    "verdict_from_the_future": {
        "metadata": {"annotations": {VERDICT: '{"state": "Excellent", "attempt": -7, "startedAt": "yesterday"}'}}
    },
    "revision_annotation": {"metadata": {"annotations": {REVISION: None}}},
}


for what, change in SPOILED.items():
    COURSES[f"spoiled_record_{what}"] = lambda subject, patch=change: spoiled(subject, patch)


@COURSES.add
def old_revisions_are_forgotten_and_needed_ones_kept(subject: Subject) -> None:
    subject.apply()
    for number in range(12):
        subject.edit(image=f"registry.example.com/server:{number}")
        subject.until(is_ready)
    eventually(lambda: len(subject.verdicts()) <= 6)
    subject.edit(image="kwok/crash:1")
    found = subject.until(is_rolled_back)
    eventually(lambda: len(subject.verdicts()) <= 7)
    kept = subject.verdicts()
    assert {revision(found, which) for which in ("desired", "active", "lastKnownGood")} <= set(kept)
    assert kept[revision(found, "active")]["state"] == "Good"
    # What ran last comes back last: the newest five and no others.
    subject.edit(image="registry.example.com/server:10")
    subject.until(is_ready)
    assert len(subject.verdicts()) <= 7


class TestRecords(Story):
    courses = COURSES
