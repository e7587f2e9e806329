"""What is edited, deleted or scaled while a change is being tried or taken back."""

from collections.abc import Callable

import pytest

from tests.integration.courses import Courses, Story
from tests.integration.failures import FAILURES, SOON, fails, tells
from tests.integration.subject import (
    GOOD,
    INSTANCE,
    Subject,
    good_and_not_to_come_back,
    is_rolled_back,
    new_namespace,
    revision,
    rollout,
    runs_image,
    says,
    told,
)
from tests.kubectl import Manifest, Refused, condition, eventually, is_ready

COURSES = Courses()


def a_b_and_back(subject: Subject, moment: Callable[[Subject], object]) -> Manifest:
    """A is good, B is declared, and at some moment A again: Ready, and the pod of A was there all along."""
    subject.apply()
    a = subject.until(is_ready)
    pods = subject.pods()
    subject.edit(image="kwok/crash:1")
    moment(subject)
    subject.edit(image=None)
    found = subject.until(is_ready)
    subject.pods_are(pods)
    assert subject.pods_ever(revision(a, "desired")) == pods
    assert revision(found, "active") == revision(found, "lastKnownGood") == revision(a, "desired")
    assert subject.verdicts()[revision(a, "desired")]["state"] == "Good"
    return found


MOMENTS: dict[str, Callable[[Subject], object]] = {
    "at_once": lambda _: None,
    "when_it_is_applied": lambda subject: subject.once(
        lambda version: told(version) and revision(version, "active") == revision(version, "desired")
    ),
    "when_its_pod_is_there": lambda subject: subject.pod_once(lambda pod: runs_image(pod, "kwok/crash:1")),
    "while_it_is_taken_back": lambda subject: subject.once(says("Ready", "RollingBack", "False")),
    "when_it_was_taken_back": lambda subject: subject.until(is_rolled_back),
}


for when, the_moment in MOMENTS.items():
    COURSES[f"a_b_a_{when}"] = lambda subject, moment=the_moment: a_b_and_back(subject, moment)


def a_b_then_c(subject: Subject, moment: Callable[[Subject], object]) -> None:
    """A is good, B fails, and at some moment C is declared, which is good."""
    subject.apply()
    a = subject.until(is_ready)
    subject.edit(image="kwok/crash:1")
    moment(subject)
    subject.edit(image=GOOD)
    found = subject.until(is_ready)
    assert revision(found, "active") == revision(found, "lastKnownGood") == revision(found, "desired")
    assert revision(found, "active") != revision(a, "desired")
    assert len(subject.pods_ever(revision(a, "desired"))) == 1
    assert len(subject.pods_ever(revision(found, "desired"))) == 1
    for version in subject.versions():
        available = condition(version, "Available").get("status")
        assert available == "True" or is_ready(version) or version["metadata"]["generation"] == 1, version["status"]


for when, the_moment in MOMENTS.items():
    COURSES[f"a_b_c_{when}"] = lambda subject, moment=the_moment: a_b_then_c(subject, moment)


def a_good_change_is_edited_again(subject: Subject, moment: Callable[[Subject], object], to: str | None) -> None:
    """A serves, B would be good, and before it has proved itself A or C is declared."""
    subject.apply()
    before = subject.until(is_ready)
    pods = subject.pods()
    # A soak that ends by itself would decide what the second edit meets.
    subject.edit(image=GOOD, rollout=rollout(soak=300))
    moment(subject)
    subject.edit(image=to, rollout=rollout())
    found = subject.until(is_ready)
    assert found["status"]["rejected"] == []
    if to is None:
        subject.pods_are(pods)
    assert (revision(found, "active") == revision(before, "active")) is (to is None)


for when, what in {"at_once": lambda _: None, "while_it_soaks": tells("Soaking")}.items():
    for letter, other in {"a": None, "c": "registry.example.com/server:3"}.items():
        COURSES[f"a_good_b_{letter}_{when}"] = lambda subject, moment=what, to=other: a_good_change_is_edited_again(
            subject, moment, to
        )


@COURSES.add
def three_edits_in_a_second_leave_no_verdict_on_what_was_skipped(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    for image in ("kwok/slow:2", "kwok/never:1", "kwok/slow:2"):
        subject.edit(image=image)
    found = subject.until(is_ready)
    assert len(subject.pods_ever(revision(found, "desired"))) in (1, 2)
    assert "Rejected" not in subject.states()
    assert "RolledBack" not in subject.events()


@COURSES.add
def an_edit_during_a_rollback_wins(subject: Subject) -> None:
    good = good_and_not_to_come_back(subject)
    subject.edit(nodeSelector=None, image="kwok/crash:1")
    subject.until(says("Ready", "RollingBack", "False"))
    subject.edit(image=GOOD)
    found = subject.until(is_ready)
    assert "RolledBack" not in subject.events(), "nobody waited for the end of the rollback"
    assert revision(found, "lastKnownGood") == revision(found, "desired") != revision(good, "lastKnownGood")


@COURSES.add
def a_wait_right_after_a_bad_edit_does_not_return_the_old_answer(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/crash:1")
    with pytest.raises(Refused, match="timed out"):
        subject.kubectl("wait", "--for=condition=Ready", f"llmdep/{subject.name}", "--timeout=2s")
    subject.kubectl("wait", "--for=condition=Stalled", f"llmdep/{subject.name}", "--timeout=120s")


def nothing_is_left(subject: Subject) -> bool:
    found = subject.kubectl.list(
        "llmdep,deployments,replicasets,services,pods,controllerrevisions", "-l", f"{INSTANCE}={subject.name}"
    )
    return not found and subject.kubectl.get("llmdep", subject.name) is None


def is_deleted(subject: Subject, moment: Callable[[Subject], object]) -> None:
    """Deleted at some moment: all goes, and nothing comes back."""
    subject.apply(image="kwok/slow:1", rollout=rollout(strategy="Recreate"))
    subject.until(is_ready)
    subject.edit(image="kwok/crash:1")
    moment(subject)
    subject.kubectl("delete", "llmdep", subject.name, "--timeout=120s")
    eventually(lambda: nothing_is_left(subject))


for when, the_moment in MOMENTS.items():
    if when != "when_its_pod_is_there":
        COURSES[f"deleted_{when}"] = lambda subject, moment=the_moment: is_deleted(subject, moment)


def its_namespace_is_deleted(subject: Subject, moment: Callable[[Subject], object]) -> None:
    subject.kubectl = new_namespace(subject.world.plane)
    subject.apply(image="kwok/slow:1", rollout=rollout(strategy="Recreate"))
    subject.until(is_ready)
    subject.edit(image="kwok/crash:1")
    moment(subject)
    subject.kubectl("delete", "namespace", subject.kubectl.namespace, "--timeout=240s")


for when in ("when_it_is_applied", "while_it_is_taken_back"):
    COURSES[f"namespace_deleted_{when}"] = lambda subject, moment=MOMENTS[when]: its_namespace_is_deleted(
        subject, moment
    )


@COURSES.add
def one_of_the_same_name_made_at_once_has_a_history_of_its_own(subject: Subject) -> None:
    fails(subject, FAILURES["crash"])
    old = subject.kubectl.get("llmdep", subject.name)
    assert old is not None
    subject.kubectl("delete", "llmdep", subject.name, "--timeout=120s")
    # With the spec that was rejected before: nobody remembers, and nothing good is there to go back to.
    subject.apply(image="kwok/crash:1")
    found = subject.until(says("Stalled", "NoKnownGoodRevision"))
    assert "lastKnownGoodRevision" not in found["status"]
    owned = subject.kubectl.list("controllerrevisions", "-l", f"{INSTANCE}={subject.name}")
    owners = {one["metadata"]["ownerReferences"][0]["uid"] for one in owned}
    assert owners == {found["metadata"]["uid"]} != {old["metadata"]["uid"]}
    subject.edit(image=None)
    subject.until(is_ready)


@COURSES.add
def one_of_the_same_name_made_at_once_becomes_ready(subject: Subject) -> None:
    for _ in range(4):
        subject.apply(image=GOOD)
        subject.until(is_ready)
        subject.kubectl("delete", "llmdep", subject.name, "--timeout=120s")
    subject.apply(image=GOOD)
    subject.until(is_ready)
    assert subject.states() == {"Good": 1}


@COURSES.add
def a_deployment_deleted_by_hand_in_the_middle_of_a_rollout(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/slow:3")
    MOMENTS["when_it_is_applied"](subject)
    subject.kubectl("delete", "deployment", subject.name)
    subject.until(is_ready)
    assert subject.states() == {"Good": 2}


@COURSES.add
def scaled_down_and_up_while_it_is_being_proved(subject: Subject) -> None:
    subject.apply(replicas=2)
    subject.until(is_ready)
    subject.edit(image="kwok/never:1")
    MOMENTS["when_it_is_applied"](subject)
    subject.edit(replicas=0)
    found = subject.until(says("Ready", "ScaledToZero"))
    assert subject.verdicts()[revision(found, "desired")]["state"] == "Candidate", (
        "where nothing runs nothing is proved"
    )
    subject.edit(replicas=1)
    eventually(subject.pods_that_run)
    subject.edit(rollout={"progressDeadlineSeconds": SOON})
    found = subject.until(is_rolled_back)
    assert found["status"]["rejected"][0]["reason"] == "ProbeTimeout"


class TestEditsMeanwhile(Story):
    courses = COURSES
