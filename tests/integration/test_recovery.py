"""What heals by itself, what fails after it was good, and a rollback that does not succeed at once."""

from tests.integration.courses import Courses, Story
from tests.integration.failures import SOON
from tests.integration.subject import (
    INSTANCE,
    NODE,
    Subject,
    container,
    good_and_not_to_come_back,
    is_rolled_back,
    label_of,
    revision,
    rollout,
    says,
    told,
)
from tests.kubectl import Manifest, is_ready

COURSES = Courses()


@COURSES.add
def recreate_comes_back_by_itself(subject: Subject) -> None:
    subject.apply(image="kwok/slow:1", rollout=rollout(strategy="Recreate"))
    good = subject.until(is_ready)
    subject.edit(image="kwok/crash:1")
    subject.once(says("Available", "NoReplicasAvailable", "False"))
    found = subject.until(is_rolled_back)
    assert told(found)["Available"][0] == "True"
    assert revision(found, "active") == revision(good, "desired")
    assert len(subject.pods_ever(revision(good, "desired"))) == 2


@COURSES.add
def a_node_that_comes_in_time_saves_it(subject: Subject) -> None:
    label = label_of(subject)
    subject.apply()
    subject.until(is_ready)
    subject.edit(nodeSelector={label: "here"})
    subject.until(says("Ready", "Unschedulable", "False"))
    subject.kubectl("label", "node", NODE, f"{label}=here")
    subject.until(is_ready)
    assert "Rejected" not in subject.states()


@COURSES.add
def a_slow_start_is_not_a_failure(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/slow:5")
    subject.until(is_ready)
    assert subject.states() == {"Good": 2}
    assert set(subject.events()) <= {"AllReplicasReady"}


@COURSES.add
def a_registry_that_heals_in_time_costs_nothing(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/registry503:1")
    subject.until(says("Ready", "RegistryUnavailable", "False"))
    heal(subject, "registry503")
    subject.until(is_ready)
    assert subject.states() == {"Good": 2}
    assert "RollingBack" not in subject.events()


def heal(subject: Subject, image: str) -> None:
    """The pod of this image runs after all: what the kubelet would write."""
    pods = subject.kubectl.list("pods", "-l", f"{INSTANCE}={subject.name}")
    (pod,) = [one for one in pods if f"kwok/{image}:" in one["spec"]["containers"][0]["image"]]
    status = pod["status"]
    now = status["startTime"]
    for status_of_one in status["containerStatuses"]:
        status_of_one |= {"ready": True, "started": True, "state": {"running": {"startedAt": now}}}
    conditions = [{"type": one["type"], "status": "True", "lastTransitionTime": now} for one in status["conditions"]]
    patch = {"status": {**status, "phase": "Running", "conditions": conditions}}
    subject.kubectl.patch("pod", pod["metadata"]["name"], patch, "--subresource=status")


@COURSES.add
def a_rejected_first_install_that_heals_is_good(subject: Subject) -> None:
    subject.apply(image="kwok/badconfig:1")
    subject.until(says("Stalled", "NoKnownGoodRevision"))
    heal(subject, "badconfig")
    subject.until(is_ready)
    assert subject.states() == {"Good": 1}


def fails_later(subject: Subject, image: str, reason: str) -> None:
    """It was good, and fails afterwards: that is told, and nothing is rolled back."""
    subject.apply(rollout=rollout(strategy="Recreate"))
    subject.until(is_ready)
    subject.edit(image=image)
    # On a busy machine it may crash before it was seen to be Ready: then once more.
    good = subject.once(lambda version: is_ready(version) or is_rolled_back(version))
    for number in range(9):
        if is_ready(good):
            break
        subject.edit(rollback={"retryToken": f"t{number}", "maxPerHour": 9})
        good = subject.once(lambda version: is_ready(version) or is_rolled_back(version))

    def is_later(version: Manifest) -> bool:
        return int(version["metadata"]["resourceVersion"]) > int(good["metadata"]["resourceVersion"])

    found = subject.once(lambda version: is_later(version) and says("Degraded", reason)(version))
    assert told(found)["Reconciling"] == ("True", reason)
    assert subject.verdicts()[revision(good, "desired")]["state"] == "Good"
    # Through two more of its crashes.
    restarts = 3
    (pod,) = subject.kubectl.list("pods", "-l", f"{INSTANCE}={subject.name}")
    name = pod["metadata"]["name"]
    subject.world.pods.until(
        subject.kubectl.namespace,
        name,
        lambda version: container(version)["restartCount"] >= restarts,
    )
    for version in subject.versions():
        if is_later(version):
            assert not {"RolledBack", "Stalled"} & set(told(version))
    assert subject.states() == {"Good": 2}
    assert subject.kubectl.list("pods", "-l", f"{INSTANCE}={subject.name}")[0]["metadata"]["name"] == name
    subject.kubectl("delete", "llmdep", subject.name)  # it would be heard of for ever


@COURSES.add
def a_good_one_that_crashes_is_only_degraded(subject: Subject) -> None:
    fails_later(subject, "kwok/latecrash:1", "CrashLoop")


@COURSES.add
def a_good_one_that_runs_out_of_memory_is_only_degraded(subject: Subject) -> None:
    fails_later(subject, "kwok/oomlater:1", "OOMKilled")


@COURSES.add
def when_the_good_one_does_not_come_back_either(subject: Subject) -> None:
    good = good_and_not_to_come_back(subject)
    subject.edit(nodeSelector=None, image="kwok/crash:1")
    subject.until(says("Ready", "RollingBack", "False"))
    subject.edit(rollout={"progressDeadlineSeconds": SOON})
    found = subject.until(says("Stalled", "RollbackFailed"))
    assert told(found)["Ready"] == ("False", "RollbackFailed")
    assert told(found)["Degraded"] == ("True", "RollbackFailed")
    assert revision(found, "active") == revision(good, "desired")
    bad = revision(found, "desired")
    generation = subject.deployment()["metadata"]["generation"]
    # It stays with the good one: no going back and forth, and no more writes.
    for number in range(3):
        subject.kubectl("label", "llmdep", subject.name, f"look={number}", "--overwrite")
    assert len(subject.pods_ever(bad)) == 1
    assert subject.deployment()["metadata"]["generation"] == generation
    subject.kubectl("label", "node", NODE, f"{label_of(subject)}=here")
    subject.until(is_rolled_back)
    assert subject.events()["RollbackFailed"] == 1


class TestRecovery(Story):
    courses = COURSES
