"""Edits that cannot become good, and the whole way of one: from a good revision to the end of the rollback."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.integration.subject import (
    Subject,
    container,
    is_rolled_back,
    is_running,
    revision,
    rollout,
    runs_image,
    says,
    told,
)
from tests.kubectl import Manifest, condition, is_ready


@dataclass(frozen=True)
class Failure:
    """An edit that cannot become good, and why it is rejected.

    What nothing but the deadline condemns is first to be `seen`; then its deadline is brought to an end.
    """

    edit: Mapping[str, Any]
    reasons: tuple[str, ...]
    deadline: int = 600
    soak: int = 0
    seen: Callable[[Subject], object] | None = None


SOON = 6
# No machine stands still for so long, then says that a pod was Ready all the time.
LONG_SOAK = 30


def tells(reason: str) -> Callable[[Subject], object]:
    """It is seen once the object says so: it goes on saying it."""
    return lambda subject: subject.until(says("Ready", reason, "False"))


def starts(image: str, *, restarts: int = 0) -> Callable[[Subject], object]:
    """It is seen once a pod of the image runs, after so many restarts."""
    return lambda subject: subject.pod_once(
        lambda pod: runs_image(pod, image) and is_running(pod) and container(pod)["restartCount"] >= restarts
    )


FAILURES = {
    "crash": Failure({"image": "kwok/crash:1"}, ("CrashLoop",)),
    "oom": Failure({"image": "kwok/oom:1", "resources": {"limits": {"memory": "1Mi"}}}, ("OOMKilled",)),
    "image-not-found": Failure({"image": "kwok/notfound:1"}, ("ImageNotFound",)),
    "image-denied": Failure({"image": "kwok/denied:1"}, ("ImagePullDenied",)),
    "no-secret": Failure({"image": "kwok/badconfig:1"}, ("ContainerConfigError",)),
    "image-name": Failure({"image": "kwok/badname:1"}, ("InvalidImageName",)),
    "no-priority-class": Failure(
        {"priorityClassName": "missing"}, ("PodCreationFailed",), seen=tells("PodCreationFailed")
    ),
    "late-crash": Failure({"image": "kwok/latecrash:1"}, ("CrashLoop",), soak=LONG_SOAK),
    "late-oom": Failure({"image": "kwok/oomlater:1"}, ("OOMKilled",), soak=LONG_SOAK),
    "registry-down": Failure(
        {"image": "kwok/registry503:1"}, ("RegistryUnavailable",), seen=tells("RegistryUnavailable")
    ),
    "never-ready": Failure({"image": "kwok/never:1"}, ("ProbeTimeout",), seen=starts("kwok/never:1")),
    "killed-by-probe": Failure(
        {"image": "kwok/probekill:1"}, ("ProbeTimeout",), seen=starts("kwok/probekill:1", restarts=1)
    ),
    "unschedulable": Failure({"nodeSelector": {"disk": "of-gold"}}, ("Unschedulable",), seen=tells("Unschedulable")),
    # Readiness that comes and goes moves no deadline; what is seen at the deadline depends on the moment.
    "flapping": Failure(
        {"image": "kwok/flap:1"},
        ("ProbeTimeout", "ProgressDeadlineExceeded"),
        deadline=LONG_SOAK + 1,
        soak=LONG_SOAK,
    ),
}


def fails(subject: Subject, failure: Failure, *, replicas: int = 1) -> Manifest:
    """From a good revision through the edit to the end of the rollback, with all that must hold on the way."""
    subject.apply(replicas=replicas)
    before = subject.until(is_ready)
    pods, good = subject.pods(), revision(before, "desired")
    first = len(subject.versions())
    subject.edit(**failure.edit, rollout=rollout(deadline=failure.deadline, soak=failure.soak))
    if failure.seen is not None:
        failure.seen(subject)
        subject.edit(rollout=rollout(deadline=SOON))
    after = subject.until(is_rolled_back)
    subject.pods_are(pods)

    conditions = told(after)
    rejected = after["status"]["rejected"][0]
    assert set(conditions) == {"Ready", "Available", "Stalled", "RolledBack"}
    assert conditions["Ready"] == ("False", "RolledBack")
    assert conditions["Available"][0] == "True"
    assert conditions["RolledBack"] == ("True", rejected["reason"])
    assert rejected["reason"] in failure.reasons
    assert (rejected["revision"], rejected["attempts"]) == (revision(after, "desired"), 1)
    assert revision(after, "active") == revision(after, "lastKnownGood") == good != rejected["revision"]
    assert subject.pods_ever(good) == pods, "no pod of the good revision was ever started anew"
    assert {one["state"] for one in subject.verdicts().values()} == {"Good", "Rejected"}
    for version in subject.versions()[first:]:
        assert condition(version, "Available")["status"] == "True"
        assert not {"Stalled", "Reconciling"} <= set(told(version)), "kstatus would not know which"
    check_spec_is_the_users(subject)
    events = subject.events()
    assert (events["RollingBack"], events["RolledBack"]) == (1, 1), events
    # What was Ready before anything was told of it made no transition.
    assert events["AllReplicasReady"] <= 1, events
    return after


def check_spec_is_the_users(subject: Subject) -> None:
    found = json.loads(subject.kubectl("get", "llmdep", subject.name, "-o", "json", "--show-managed-fields"))
    assert found["metadata"]["generation"] == subject.generation
    owners = {one["manager"]: one for one in found["metadata"]["managedFields"] if "f:spec" in one["fieldsV1"]}
    assert all(owner.startswith("kubectl") for owner in owners), owners
