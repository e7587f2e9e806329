"""A change that fails is taken back, whatever the kind of failure."""

from tests.integration.courses import Courses, Story
from tests.integration.failures import FAILURES, Failure, fails, tells
from tests.integration.subject import GOOD, Subject, new_namespace, rollout
from tests.kubectl import eventually, is_ready

COURSES = Courses()


for kind, one_failure in FAILURES.items():
    COURSES[f"fails_{kind.replace('-', '_')}"] = lambda subject, failure=one_failure: fails(subject, failure)


@COURSES.add
def fails_with_several_replicas(subject: Subject) -> None:
    fails(subject, FAILURES["crash"], replicas=3)


@COURSES.add
def fails_by_quota_and_is_tried_again_when_there_is_room(subject: Subject) -> None:
    subject.kubectl = new_namespace(subject.world.plane)
    subject.kubectl("create", "quota", "pods", "--hard=pods=1")
    eventually(lambda: "hard" in (subject.kubectl.get("quota", "pods") or {}).get("status", {}))
    fails(subject, Failure({"image": GOOD}, ("QuotaExceeded",), seen=tells("QuotaExceeded")))
    subject.kubectl.patch("quota", "pods", {"spec": {"hard": {"pods": "2"}}})
    eventually(lambda: (subject.kubectl.get("quota", "pods") or {})["status"]["hard"]["pods"] == "2")
    # The second attempt is to succeed, however busy this machine is.
    subject.edit(rollback={"retryToken": "there-is-room"}, rollout=rollout())
    subject.until(is_ready)
    assert subject.states() == {"Good": 2}


class TestFailures(Story):
    courses = COURSES
