"""A change that fails is taken back, whatever the kind of failure and whatever happens meanwhile.

Each test is a course of events on an object of its own. They are independent and spend their time waiting for
kubelets and deadlines, so all of them run at the same time, against one operator.
"""

import json
import subprocess
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import OPERATOR, WRITES, ControlPlane, running_operator
from tests.kubectl import Kubectl, Manifest, Refused, an_llmdeployment, condition, eventually, is_ready

VERDICT = "llm.carepath.ai/verdict"
REVISION = "llm.carepath.ai/revision"
INSTANCE = "app.kubernetes.io/instance"
NODE = "kwok-2"
AT_A_TIME = 12
GOOD = "registry.example.com/server:2"
PATIENCE = 300.0


class Watch:
    """Every version of every object of a kind, as `kubectl get --watch` tells them."""

    def __init__(self, kubectl: Kubectl, kind: str) -> None:
        arguments = ["get", kind, "--all-namespaces", "--watch", "--output-watch-events", "-o", "json"]
        self._process = subprocess.Popen(
            [kubectl.program, "--kubeconfig", str(kubectl.kubeconfig), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._versions: defaultdict[tuple[str, str], list[Manifest]] = defaultdict(list)
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, name=f"watch-{kind}")
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            metadata = event["object"]["metadata"]
            with self._news:
                version = {**event["object"], "gone": event["type"] == "DELETED"}
                self._versions[metadata["namespace"], metadata["name"]].append(version)
                self._news.notify_all()

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._thread.join()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def versions(self, namespace: str, name: str | None = None) -> list[Manifest]:
        """What one object was, the oldest version first; without a name all objects of the namespace."""
        with self._news:
            found = [
                one for (where, what), one in self._versions.items() if where == namespace and name in (None, what)
            ]
        return [version for versions in found for version in versions]

    def until(
        self,
        namespace: str,
        name: str,
        check: Callable[[Manifest], Any],
        *,
        seconds: float = PATIENCE,
        ever: bool = False,
    ) -> Manifest:
        """Wait until the newest version passes, with `ever` until any of them does, and return it."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                versions = self._versions[namespace, name]
                for version in versions if ever else versions[-1:]:
                    if check(version):
                        return version
                left = deadline - time.monotonic()
                if left <= 0:
                    seen = versions[-1].get("status") if versions else None
                    raise AssertionError(f"{name}: not within {seconds} s; last seen: {json.dumps(seen, indent=1)}")
                self._news.wait(left)


@contextmanager
def watching(plane: ControlPlane, *kinds: str) -> Iterator[list[Watch]]:
    """Watches of kinds in all namespaces."""
    watches = [Watch(plane.kubectl("default"), kind) for kind in kinds]
    try:
        yield watches
    finally:
        for watch in watches:
            watch.stop()


def new_namespace(plane: ControlPlane, name: str = "") -> Kubectl:
    """kubectl in a fresh namespace that enforces Pod Security `restricted`."""
    name = name or f"test-{uuid.uuid4().hex[:8]}"
    ours = plane.kubectl(name)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    ours.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    eventually(lambda: ours.get("serviceaccount", "default"))
    return ours


@dataclass
class World:
    """What all courses share."""

    plane: ControlPlane
    kubectl: Kubectl
    objects: Watch
    pods: Watch


@dataclass
class Subject:
    """One LLMDeployment, and what became of it."""

    world: World
    name: str
    kubectl: Kubectl
    generation: int = 0
    uid: str = ""

    def apply(self, **spec: Any) -> None:
        """Create it, or apply it anew."""
        manifest = an_llmdeployment(self.name, **{"rollout": rollout(), **spec})
        self._took(self.kubectl("apply", "-f", "-", "-o", "json", stdin=json.dumps(manifest)))

    def edit(self, **spec: Any) -> None:
        """Change fields of the spec."""
        patch = json.dumps({"spec": spec})
        self._took(self.kubectl("patch", "llmdep", self.name, "--type=merge", "-p", patch, "-o", "json"))

    def _took(self, answer: str) -> None:
        metadata = json.loads(answer)["metadata"]
        self.generation, self.uid = metadata["generation"], metadata["uid"]

    def until(self, check: Callable[[Manifest], Any], *, ever: bool = False) -> Manifest:
        """Wait until the object passes, with the last edit in it."""

        def passes(version: Manifest) -> Any:
            metadata = version["metadata"]
            is_new = metadata["uid"] == self.uid and metadata["generation"] >= self.generation
            return is_new and check(version)

        return self.world.objects.until(self.kubectl.namespace, self.name, passes, ever=ever)

    def once(self, check: Callable[[Manifest], Any]) -> Manifest:
        """Wait until it passes or has passed since the last edit: for what may be over before anybody looks."""
        return self.until(check, ever=True)

    def versions(self) -> list[Manifest]:
        """Every version there was."""
        return self.world.objects.versions(self.kubectl.namespace, self.name)

    def pods(self) -> set[str]:
        """The uids of its pods."""
        return {pod["metadata"]["uid"] for pod in self.kubectl.list("pods", "-l", f"{INSTANCE}={self.name}")}

    def pods_that_run(self) -> list[Manifest]:
        """Its pods whose container runs, Ready or not, and which nobody deletes."""
        found = self.kubectl.list("pods", "-l", f"{INSTANCE}={self.name}")
        return [pod for pod in found if is_running(pod) and "deletionTimestamp" not in pod["metadata"]]

    def pods_ever(self, revision: str) -> set[str]:
        """The uids of all pods of a revision there ever were."""
        return {
            pod["metadata"]["uid"]
            for pod in self._pod_versions()
            if pod["metadata"]["annotations"][REVISION] == revision
        }

    def pod_once(self, check: Callable[[Manifest], Any]) -> None:
        """Wait until one of its pods passes or has passed: some live for a second only."""
        eventually(lambda: any(check(pod) for pod in self._pod_versions()), seconds=PATIENCE)

    def _pod_versions(self) -> list[Manifest]:
        found = self.world.pods.versions(self.kubectl.namespace)
        return [pod for pod in found if pod["metadata"].get("labels", {}).get(INSTANCE) == self.name]

    def pods_are(self, uids: set[str]) -> None:
        """Wait until these pods are there and no other."""

        def are_the_same() -> bool:
            found = self.pods()
            assert found == uids, f"{found} instead of {uids}"
            return True

        eventually(are_the_same, seconds=PATIENCE)

    def verdicts(self) -> dict[str, Manifest]:
        """What is recorded, by revision."""
        found = self.kubectl.list("controllerrevisions", "-l", f"{INSTANCE}={self.name}")
        marks = [one["metadata"]["annotations"] for one in found]
        return {one[REVISION]: json.loads(one[VERDICT]) for one in marks}

    def states(self) -> Counter[str]:
        """How many revisions are in which state."""
        return Counter(one["state"] for one in self.verdicts().values())

    def events(self) -> Counter[str]:
        """How often which reason was told."""
        found = self.kubectl.list("events.events.k8s.io")
        mine = ("LLMDeployment", self.name)
        return Counter(one["reason"] for one in found if (one["regarding"]["kind"], one["regarding"]["name"]) == mine)

    def deployment(self) -> Manifest:
        """The Deployment."""
        found = self.kubectl.get("deployment", self.name)
        assert found is not None
        return found


def label_of(subject: Subject) -> str:
    """A node label of its own."""
    return f"course-{subject.name}"


def rollout(*, deadline: int = 600, soak: int = 0, strategy: str = "RollingUpdate") -> Manifest:
    """`spec.rollout`."""
    return {"progressDeadlineSeconds": deadline, "soakSeconds": soak, "strategy": strategy}


def told(version: Manifest) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition; an empty dict while they speak about an earlier generation."""
    conditions = version.get("status", {}).get("conditions", [])
    if any(one["observedGeneration"] != version["metadata"]["generation"] for one in conditions):
        return {}
    return {one["type"]: (one["status"], one["reason"]) for one in conditions}


def says(kind: str, reason: str, status: str = "True") -> Callable[[Manifest], bool]:
    """A check for `until`."""
    return lambda version: told(version).get(kind) == (status, reason)


def serves(mode: str) -> Callable[[Manifest], bool]:
    """A check for `until`: what answers, as far as the pods' own events have told."""
    return lambda version: version.get("status", {}).get("mode") == mode


is_rolled_back = says("Stalled", "RolledBack")


def container(pod: Manifest) -> Manifest:
    """What is known of the only container of a pod; an empty dict before anything is."""
    found: Manifest = pod.get("status", {}).get("containerStatuses", [{}])[0]
    return found


def is_running(pod: Manifest) -> bool:
    """Whether its container runs, Ready or not."""
    return "running" in container(pod).get("state", {})


def runs_image(pod: Manifest, image: str) -> bool:
    """Whether the pod is of that image."""
    return bool(pod["spec"]["containers"][0]["image"] == image)


def revision(version: Manifest, which: str) -> str:
    """desired, active or lastKnownGood."""
    found: str = version["status"][f"{which}Revision"]
    return found


Course = Callable[[Subject], None]
COURSES: dict[str, Course] = {}


def course(run: Course) -> Course:
    """One of the tests."""
    COURSES[run.__name__] = run
    return run


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


for kind, one_failure in FAILURES.items():
    COURSES[f"fails_{kind.replace('-', '_')}"] = lambda subject, failure=one_failure: fails(subject, failure)


@course
def fails_with_several_replicas(subject: Subject) -> None:
    fails(subject, FAILURES["crash"], replicas=3)


@course
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


@course
def three_edits_in_a_second_leave_no_verdict_on_what_was_skipped(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    for image in ("kwok/slow:2", "kwok/never:1", "kwok/slow:2"):
        subject.edit(image=image)
    found = subject.until(is_ready)
    assert len(subject.pods_ever(revision(found, "desired"))) in (1, 2)
    assert "Rejected" not in subject.states()
    assert "RolledBack" not in subject.events()


def good_and_not_to_come_back(subject: Subject) -> Manifest:
    """A good revision whose pod runs on, and could not be started anew: its node has another label now."""
    label = label_of(subject)
    subject.kubectl("label", "node", NODE, f"{label}=here")
    subject.apply(nodeSelector={label: "here"}, rollout=rollout(strategy="Recreate"))
    good = subject.until(is_ready)
    subject.kubectl("label", "node", NODE, f"{label}-")
    return good


@course
def an_edit_during_a_rollback_wins(subject: Subject) -> None:
    good = good_and_not_to_come_back(subject)
    subject.edit(nodeSelector=None, image="kwok/crash:1")
    subject.until(says("Ready", "RollingBack", "False"))
    subject.edit(image=GOOD)
    found = subject.until(is_ready)
    assert "RolledBack" not in subject.events(), "nobody waited for the end of the rollback"
    assert revision(found, "lastKnownGood") == revision(found, "desired") != revision(good, "lastKnownGood")


@course
def recreate_comes_back_by_itself(subject: Subject) -> None:
    subject.apply(image="kwok/slow:1", rollout=rollout(strategy="Recreate"))
    good = subject.until(is_ready)
    subject.edit(image="kwok/crash:1")
    subject.once(says("Available", "NoReplicasAvailable", "False"))
    found = subject.until(is_rolled_back)
    assert told(found)["Available"][0] == "True"
    assert revision(found, "active") == revision(good, "desired")
    assert len(subject.pods_ever(revision(good, "desired"))) == 2


@course
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


@course
def a_token_that_was_there_when_it_failed_is_no_new_one(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/crash:1", rollback={"retryToken": "t"})
    found = subject.until(is_rolled_back)
    assert found["status"]["rejected"][0]["attempts"] == 1
    subject.edit(rollback={"retryToken": "u"}, image="kwok/crash:1")
    found = subject.until(is_rolled_back)
    assert found["status"]["rejected"][0]["attempts"] == 2


@course
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


@course
def a_node_that_comes_in_time_saves_it(subject: Subject) -> None:
    label = label_of(subject)
    subject.apply()
    subject.until(is_ready)
    subject.edit(nodeSelector={label: "here"})
    subject.until(says("Ready", "Unschedulable", "False"))
    subject.kubectl("label", "node", NODE, f"{label}=here")
    subject.until(is_ready)
    assert "Rejected" not in subject.states()


@course
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


@course
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


@course
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


@course
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


@course
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


@course
def a_slow_start_is_not_a_failure(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/slow:5")
    subject.until(is_ready)
    assert subject.states() == {"Good": 2}
    assert set(subject.events()) <= {"AllReplicasReady"}


@course
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
    for container in status["containerStatuses"]:
        container |= {"ready": True, "started": True, "state": {"running": {"startedAt": now}}}
    conditions = [{"type": one["type"], "status": "True", "lastTransitionTime": now} for one in status["conditions"]]
    patch = {"status": {**status, "phase": "Running", "conditions": conditions}}
    subject.kubectl.patch("pod", pod["metadata"]["name"], patch, "--subresource=status")


@course
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


@course
def a_good_one_that_crashes_is_only_degraded(subject: Subject) -> None:
    fails_later(subject, "kwok/latecrash:1", "CrashLoop")


@course
def a_good_one_that_runs_out_of_memory_is_only_degraded(subject: Subject) -> None:
    fails_later(subject, "kwok/oomlater:1", "OOMKilled")


@course
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


@course
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


@course
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


@course
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


@course
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


@course
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


def entries(plane: ControlPlane) -> int:
    """How many entries the audit log has."""
    with plane.audit_log.open() as log:
        return sum(1 for _ in log)


def written_since(plane: ControlPlane, start: int, namespace: str | None = None) -> list[Manifest]:
    """The operator's writes, as the audit log has them."""
    return [
        one
        for one in plane.requests(since=start)
        if one["user"]["username"] == OPERATOR
        and one["verb"] in WRITES
        and namespace in (None, one["objectRef"].get("namespace"))
    ]


@course
def a_wait_right_after_a_bad_edit_does_not_return_the_old_answer(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/crash:1")
    with pytest.raises(Refused, match="timed out"):
        subject.kubectl("wait", "--for=condition=Ready", f"llmdep/{subject.name}", "--timeout=2s")
    subject.kubectl("wait", "--for=condition=Stalled", f"llmdep/{subject.name}", "--timeout=120s")


@course
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


@course
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


@course
def one_of_the_same_name_made_at_once_becomes_ready(subject: Subject) -> None:
    for _ in range(4):
        subject.apply(image=GOOD)
        subject.until(is_ready)
        subject.kubectl("delete", "llmdep", subject.name, "--timeout=120s")
    subject.apply(image=GOOD)
    subject.until(is_ready)
    assert subject.states() == {"Good": 1}


@course
def a_deployment_deleted_by_hand_in_the_middle_of_a_rollout(subject: Subject) -> None:
    subject.apply()
    subject.until(is_ready)
    subject.edit(image="kwok/slow:3")
    MOMENTS["when_it_is_applied"](subject)
    subject.kubectl("delete", "deployment", subject.name)
    subject.until(is_ready)
    assert subject.states() == {"Good": 2}


@course
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


@dataclass
class Runs:
    """What came of each course, and the world at the end of all."""

    world: World
    results: dict[str, Future[None]]
    log: Path


@pytest.fixture(scope="module")
def runs(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Runs]:
    """All chosen courses, run to their ends against one operator, which then ends."""
    chosen = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    log = tmp_path_factory.mktemp("rollback") / "log"
    kubectl = new_namespace(control_plane)
    with watching(control_plane, "llmdep", "pods") as (objects, pods):
        world = World(control_plane, kubectl, objects, pods)
        # The operator ends after the pool, when all courses have been run.
        with running_operator(control_plane, log, LLMOP_CONFIRM_SECONDS="2"), ThreadPoolExecutor(AT_A_TIME) as pool:
            # From now on both watches are told of everything as it happens.
            first = Subject(world, "first", kubectl)
            first.apply()
            first.until(is_ready)
            first.pod_once(lambda _: True)
            results = {
                name: pool.submit(run, Subject(world, f"c{number}", kubectl))
                for number, (name, run) in enumerate(COURSES.items())
                if name in chosen
            }
        yield Runs(world, results, log)
    kubectl("delete", "llmdep", "--all", "--wait=false")
    kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.mark.parametrize("name", COURSES)
def test_course(runs: Runs, name: str) -> None:
    runs.results[name].result()


def test_kstatus_was_never_in_two_minds(runs: Runs) -> None:
    for version in runs.world.objects.versions(runs.world.kubectl.namespace):
        conditions = version.get("status", {}).get("conditions", [])
        kinds = {one["type"] for one in conditions if one["status"] == "True"}
        assert not {"Stalled", "Reconciling"} <= kinds
        assert not {"Ready", "Stalled"} <= kinds
        assert not {"Ready", "Reconciling"} <= kinds or "Degraded" in kinds


def test_the_log_tells_of_no_unexpected_error(runs: Runs) -> None:
    lines = [json.loads(line) for line in runs.log.read_text().splitlines() if line.startswith("{")]
    assert [one for one in lines if one["level"] in ("ERROR", "CRITICAL")] == []


def test_another_version_of_the_operator_restarts_no_pod_and_writes_nothing(runs: Runs, tmp_path: Path) -> None:
    world, kubectl = runs.world, runs.world.kubectl
    before = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in kubectl.list("pods")}
    start = entries(world.plane)
    settings = {"LLMOP_SERVER_IMAGE": "registry.example.com/server:of-the-next-version", "LLMOP_RESYNC_SECONDS": "1"}
    with running_operator(world.plane, tmp_path / "log", **settings):
        # It has looked at all of them once it has done something for the last one.
        marker = Subject(world, "marker", kubectl)
        marker.apply()
        marker.until(is_ready)
        after = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in kubectl.list("pods")}
        assert {uid: name for uid, name in after.items() if marker.name not in name} == before
        written = written_since(world.plane, start, kubectl.namespace)
        assert [one["objectRef"] for one in written if not one["objectRef"]["name"].startswith(marker.name)] == []
