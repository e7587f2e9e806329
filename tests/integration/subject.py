"""One LLMDeployment under test, and what became of it: every version, its pods, records, events."""

import json
import subprocess
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.integration.conftest import OPERATOR, WRITES, ControlPlane
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, eventually, is_ready

VERDICT = "llm.carepath.ai/verdict"
REVISION = "llm.carepath.ai/revision"
INSTANCE = "app.kubernetes.io/instance"
NODE = "kwok-2"
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


def good_and_not_to_come_back(subject: Subject) -> Manifest:
    """A good revision whose pod runs on, and could not be started anew: its node has another label now."""
    label = label_of(subject)
    subject.kubectl("label", "node", NODE, f"{label}=here")
    subject.apply(nodeSelector={label: "here"}, rollout=rollout(strategy="Recreate"))
    good = subject.until(is_ready)
    subject.kubectl("label", "node", NODE, f"{label}-")
    return good


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
