"""When a revision is tried again, and what spec.rollback decides."""

from collections import Counter
from typing import Any

from tests.integration.courses import Courses, Story
from tests.integration.failures import FAILURES, SOON, fails
from tests.integration.subject import (
    GOOD,
    NODE,
    Subject,
    entries,
    is_rolled_back,
    label_of,
    new_namespace,
    revision,
    rollout,
    says,
    serves,
    told,
    written_since,
)
from tests.kubectl import eventually, is_ready

COURSES = Courses()


@COURSES.add
def a_retry_token_gives_one_more_attempt(subject: Subject) -> None:
    after = fails(subject, FAILURES["crash"])
    bad, pods = revision(after, "desired"), subject.pods()
    assert len(subject.pods_ever(bad)) == 1
    subject.edit(rollback={"retryToken": "first"})
    found = subject.until(is_rolled_back)
    assert found["status"]["rejected"][0]["attempts"] == 2
    subject.pods_are(pods)
    assert len(subject.pods_ever(bad)) == 2
    # The same token again, another setting, no token: nothing.
    for rollback in ({"retryToken": "first"}, {"maxPerHour": 9}, {"retryToken": None}):
        subject.edit(rollback=rollback)
        subject.until(is_rolled_back)
    assert len(subject.pods_ever(bad)) == 2
    assert found["status"]["rejected"][0]["attempts"] == 2
    assert subject.pods() == pods


@COURSES.add
def a_token_that_was_there_when_it_failed_is_no_new_one(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/crash:1", rollback={"retryToken": "t"})
    found = subject.until(is_rolled_back)
    assert found["status"]["rejected"][0]["attempts"] == 1
    subject.edit(rollback={"retryToken": "u"}, image="kwok/crash:1")
    found = subject.until(is_rolled_back)
    assert found["status"]["rejected"][0]["attempts"] == 2


@COURSES.add
def a_retry_may_succeed(subject: Subject) -> None:
    label = label_of(subject)
    subject.apply()
    subject.until(is_ready)
    subject.edit(nodeSelector={label: "here"}, rollout=rollout(deadline=SOON))
    subject.until(is_rolled_back)
    # The second attempt is to succeed, however busy this machine is.
    subject.edit(rollout=rollout())
    subject.kubectl("label", "node", NODE, f"{label}=here")
    subject.edit(rollback={"retryToken": "labelled"})
    found = subject.until(is_ready)
    assert subject.states() == {"Good": 2}
    assert subject.verdicts()[revision(found, "desired")]["attempt"] == 2
    assert found["status"]["rejected"] == []


@COURSES.add
def too_many_rollbacks_hold_the_next_one_back(subject: Subject) -> None:
    subject.apply(rollback={"maxPerHour": 1})
    subject.until(is_ready)
    pods = subject.pods()
    subject.edit(image="kwok/crash:1")
    subject.until(is_rolled_back)
    subject.edit(image=GOOD)
    held = subject.until(says("Stalled", "RollbackBudgetExceeded"))
    assert told(held)["Ready"] == ("False", "RollbackBudgetExceeded")
    assert told(held)["Available"][0] == "True"
    # Nor does a token help.
    subject.edit(rollback={"retryToken": "please"})
    held = subject.until(says("Stalled", "RollbackBudgetExceeded"))
    assert subject.pods_ever(revision(held, "desired")) == set()
    subject.pods_are(pods)
    subject.edit(rollback={"maxPerHour": 2})
    subject.until(is_ready)


@COURSES.add
def back_to_good_is_ready_though_the_budget_is_used_up(subject: Subject) -> None:
    subject.apply(rollback={"maxPerHour": 1})
    subject.until(is_ready)
    pods = subject.pods()
    subject.edit(image="kwok/crash:1")
    subject.until(is_rolled_back)
    subject.edit(image="kwok/crash:2")
    subject.until(says("Stalled", "RollbackBudgetExceeded"))
    subject.edit(image=None)
    subject.until(is_ready)
    subject.pods_are(pods)


@COURSES.add
def without_rollback_it_stays(subject: Subject) -> None:
    subject.apply(rollback={"enabled": False})
    subject.until(is_ready)
    pods = subject.pods()
    subject.edit(image="kwok/crash:1")
    found = subject.until(says("Stalled", "RollbackDisabled"))
    assert told(found)["Ready"] == ("False", "CrashLoop")
    assert told(found)["Available"][0] == "True"
    assert revision(found, "active") == revision(found, "desired")
    assert pods < subject.pods()
    # Switched on, it goes back after all.
    subject.edit(rollback={"enabled": True})
    subject.until(is_rolled_back)
    subject.pods_are(pods)


@COURSES.add
def a_mock_stands_in_when_nothing_was_ever_good(subject: Subject) -> None:
    subject.apply(mode="qwen", model={"source": "image"}, image="kwok/crash:1", rollback={"fallback": "Mock"})
    found = subject.until(says("Degraded", "FallbackServes"))
    assert told(found)["Ready"] == ("False", "RolledBack")
    assert told(found)["Stalled"][0] == told(found)["Available"][0] == told(found)["RolledBack"][0] == "True"
    assert "lastKnownGoodRevision" not in found["status"]
    subject.until(serves("mock"))
    subject.edit(image=GOOD)
    found = subject.until(is_ready)
    subject.until(serves("qwen"))
    assert set(told(found)) == {"Ready", "Available"}
    eventually(lambda: len(subject.pods()) == 1)


@COURSES.add
def a_first_install_that_fails_waits_for_a_fix(subject: Subject) -> None:
    subject.apply(image="kwok/crash:1")
    found = subject.until(says("Stalled", "NoKnownGoodRevision"))
    assert told(found)["Ready"] == ("False", "CrashLoop")
    assert told(found)["Available"][0] == "False"
    before = subject.deployment()
    subject.edit(image=GOOD)
    subject.until(is_ready)
    assert subject.deployment()["metadata"]["uid"] == before["metadata"]["uid"]
    assert subject.states() == {"Good": 1, "Rejected": 1}


@COURSES.add
def the_same_rejected_spec_again_and_again_is_heard_once(subject: Subject) -> None:
    subject.kubectl = new_namespace(subject.world.plane)
    spec: dict[str, Any] = {"rollout": rollout()}
    subject.apply(**spec)
    subject.until(is_ready)
    subject.apply(**spec, image="kwok/crash:1")
    subject.until(is_rolled_back)
    eventually(lambda: len(subject.pods()) == 1)
    start = entries(subject.world.plane)
    for number in range(10):
        subject.apply(**spec, image="kwok/crash:1")
        subject.kubectl("annotate", "llmdep", subject.name, f"synced={number}", "--overwrite")
    # An edit that it must write for comes after all that it could have written for the others.
    marker = Subject(subject.world, "marker", subject.kubectl)
    marker.apply()
    marker.until(is_ready)
    written = written_since(subject.world.plane, start, subject.kubectl.namespace)
    assert Counter(one["objectRef"]["name"].partition(".")[0].partition("-")[0] for one in written).keys() == {"marker"}


class TestAnotherAttempt(Story):
    courses = COURSES
