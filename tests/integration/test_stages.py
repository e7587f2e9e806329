"""Pods that KWOK plays fail as a kubelet's do: what stages.yaml promises, seen through a watch."""

import json
import re
import subprocess
import uuid
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.conftest import ControlPlane
from tests.kubectl import Kubectl, Manifest, eventually

History = dict[str, list[Manifest]]

# What a pod of the image goes through, each state with its restart count.
COURSES = {
    "registry.example.com/server:1": "Ready#0",
    "kwok/anything-else:1": "Ready#0",
    "kwok/crash:1": "Creating#0 Running#0 Error(1)#0 Running#1 Error(1)#1 CrashLoopBackOff#1 Running#2 Error(1)#2",
    "kwok/crash:3": "Creating#0 Running#0 Error(3)#0 Running#1 Error(3)#1 CrashLoopBackOff#1 Running#2 Error(3)#2 "
    "CrashLoopBackOff#2 Running#3 Error(3)#3 CrashLoopBackOff#3 Running#4 Error(3)#4 CrashLoopBackOff#4 Running#5",
    "kwok/oom:1": "Creating#0 Running#0 OOMKilled(137)#0 Running#1 OOMKilled(137)#1 CrashLoopBackOff#1 Running#2",
    "kwok/latecrash:1": "Creating#0 Running#0 Ready#0 Error(1)#0 Running#1 Ready#1 Error(1)#1 CrashLoopBackOff#1 "
    "Running#2 Ready#2",
    "kwok/oomlater:1": "Creating#0 Running#0 Ready#0 OOMKilled(137)#0 Running#1 Ready#1 OOMKilled(137)#1",
    "kwok/probekill:1": "Creating#0 Running#0 Running#1 Running#2",
    "kwok/slow:3": "Creating#0 Running#0 Ready#0",
    "kwok/slow:8": "Creating#0 Running#0 Ready#0",
    "kwok/never:1": "Creating#0 Running#0",
    "kwok/flap:1": "Creating#0 Running#0 Ready#0 Running#0 Ready#0 Running#0",
    "kwok/notfound:1": "Creating#0 ErrImagePull#0 ImagePullBackOff#0 ErrImagePull#0 ImagePullBackOff#0",
    "kwok/denied:1": "Creating#0 ErrImagePull#0 ImagePullBackOff#0 ErrImagePull#0 ImagePullBackOff#0",
    "kwok/registry503:1": "Creating#0 ErrImagePull#0 ImagePullBackOff#0 ErrImagePull#0 ImagePullBackOff#0",
    "kwok/badconfig:1": "Creating#0 CreateContainerConfigError#0",
    "kwok/badname:1": "Creating#0 InvalidImageName#0",
}
MARKER = "registry.example.com/marker:1"
FOR_EVER = {"kwok/never:1": "Running#0", "kwok/badconfig:1": "CreateContainerConfigError#0"}

LAST_WORDS = '{"reason":"ModeNotSupported","message":"no such mode.","remedy":"Set LLM_MODE=mock."}'
UNRESOLVED = 'failed to pull and unpack image "IMAGE": failed to resolve reference "IMAGE": '
NOT_FOUND = f"rpc error: code = NotFound desc = {UNRESOLVED}IMAGE: not found"
DENIED = (
    f"rpc error: code = Unknown desc = {UNRESOLVED}pull access denied, repository does not exist or may require "
    "authorization: authorization failed: no basic auth credentials"
)
UNWELL = (
    f"rpc error: code = Unknown desc = {UNRESOLVED}unexpected status from HEAD request to "
    "https://registry.example.com/v2/kwok/registry503/manifests/1: 503 Service Unavailable"
)
NO_NAME = 'Failed to apply default image tag "IMAGE": couldn\'t parse image name "IMAGE": invalid reference format'
WORDS = {
    ("kwok/crash:3", "Error"): LAST_WORDS,
    ("kwok/latecrash:1", "Error"): LAST_WORDS,
    ("kwok/crash:3", "CrashLoopBackOff"): "back-off 10s restarting failed container=server pod=POD_NAMESPACE(UID)",
    ("kwok/notfound:1", "ErrImagePull"): NOT_FOUND,
    ("kwok/notfound:1", "ImagePullBackOff"): f'Back-off pulling image "IMAGE": ErrImagePull: {NOT_FOUND}',
    ("kwok/denied:1", "ErrImagePull"): DENIED,
    ("kwok/registry503:1", "ErrImagePull"): UNWELL,
    ("kwok/badconfig:1", "CreateContainerConfigError"): 'secret "huggingface-token" not found',
    ("kwok/badname:1", "InvalidImageName"): NO_NAME,
}


def pod_of(image: str) -> Manifest:
    """A pod of one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": re.sub("[^a-z0-9]", "-", image)},
        "spec": {"containers": [{"name": "server", "image": image}], "terminationGracePeriodSeconds": 3600},
    }


def container(pod: Manifest) -> Manifest:
    """The state of its container."""
    found: Manifest = pod["status"]["containerStatuses"][0]
    return found


def ready(pod: Manifest) -> Manifest:
    """Its Ready condition."""
    return next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")


def detail(pod: Manifest) -> Manifest:
    """What is said of the state the container is in."""
    found: Manifest = next(iter(container(pod)["state"].values()))
    return found


def state(pod: Manifest) -> str:
    """The state of a pod in the words of COURSES."""
    match container(pod)["state"]:
        case {"waiting": waiting}:
            word = waiting["reason"].removeprefix("Container")
        case {"terminated": terminated}:
            word = f"{terminated['reason']}({terminated['exitCode']})"
        case _:
            word = "Ready" if ready(pod)["status"] == "True" else "Running"
    return f"{word}#{container(pod)['restartCount']}"


def read_watch(output: Path) -> History:
    """The pods in `kubectl get --watch -o json`, by image, from their first container status on."""
    history: History = defaultdict(list)
    decoder, text, position = json.JSONDecoder(), output.read_text(), 0
    while position < len(text):
        try:
            pod, position = decoder.raw_decode(text, position)
        except ValueError:
            break  # kubectl has not written the end yet
        position += 1
        if "containerStatuses" in pod["status"]:
            history[pod["spec"]["containers"][0]["image"]].append(pod)
    return history


def is_complete(history: History) -> bool:
    """Whether every pod has gone as far as COURSES tells."""
    return all(len(history[image]) >= len(course.split()) for image, course in COURSES.items())


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane) -> Iterator[Kubectl]:
    """kubectl in a namespace of its own."""
    name = f"stages-{uuid.uuid4().hex[:8]}"
    admin = control_plane.kubectl("default")
    admin("create", "namespace", name)
    ours = control_plane.kubectl(name)
    eventually(lambda: ours.get("serviceaccount", "default"))
    yield ours
    admin("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def history(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> History:
    """A pod of each image, every state it was seen in."""
    output = tmp_path_factory.mktemp("stages") / "watch"
    command = [kubectl.program, "--kubeconfig", str(kubectl.kubeconfig), "-n", kubectl.namespace]
    with (
        output.open("wb") as file,
        subprocess.Popen([*command, "get", "pods", "--watch", "-o", "json"], stdout=file) as watch,
    ):
        try:
            # From when on the watch tells of everything as it happens: before, it would tell of the last state only.
            kubectl.apply(pod_of(MARKER))
            eventually(lambda: MARKER in read_watch(output))
            kubectl.apply(*map(pod_of, COURSES))
            eventually(lambda: is_complete(read_watch(output)), seconds=300, every=1)
        finally:
            watch.kill()
    return read_watch(output)


@pytest.mark.parametrize("image", COURSES)
def test_the_course_of_a_pod(history: History, image: str) -> None:
    course = COURSES[image].split()
    assert [state(pod) for pod in history[image]][: len(course)] == course


@pytest.mark.parametrize("image", FOR_EVER)
def test_a_pod_that_stays_as_it_is(history: History, image: str) -> None:
    assert state(history[image][-1]) == FOR_EVER[image]


@pytest.mark.parametrize(("image", "reason"), WORDS)
def test_what_the_runtime_says(history: History, image: str, reason: str) -> None:
    pod = next(pod for pod in history[image] if detail(pod).get("reason") == reason)
    named = {"IMAGE": image, "POD": "name", "NAMESPACE": "namespace", "UID": "uid"}
    words = WORDS[image, reason]
    for word, key in named.items():
        words = words.replace(word, pod["metadata"].get(key, key))
    assert detail(pod)["message"] == words


@pytest.mark.parametrize("image", COURSES)
def test_a_status_is_consistent(history: History, image: str) -> None:
    for before, pod in zip([None, *history[image]], history[image], strict=False):
        is_ready = ready(pod)["status"] == "True"
        assert container(pod)["ready"] == is_ready
        assert ready(pod).get("reason") == (None if is_ready else "ContainersNotReady")
        assert pod["status"]["phase"] == (
            "Pending" if "waiting" in container(pod)["state"] and not _ran(pod) else "Running"
        )
        assert pod["status"]["podIP"]
        if _ran(pod):
            last = container(pod)["lastState"]["terminated"]
            assert last["finishedAt"] >= last["startedAt"]
        if before and ready(before)["status"] == ready(pod)["status"]:
            assert ready(before)["lastTransitionTime"] == ready(pod)["lastTransitionTime"]


def _ran(pod: Manifest) -> bool:
    return int(container(pod)["restartCount"]) > 0


@pytest.mark.parametrize("seconds", [3, 8])
def test_a_slow_pod_takes_its_time(history: History, seconds: int) -> None:
    pod = history[f"kwok/slow:{seconds}"][-1]
    started = datetime.fromisoformat(detail(pod)["startedAt"])
    became_ready = datetime.fromisoformat(ready(pod)["lastTransitionTime"])
    assert (became_ready - started).total_seconds() >= seconds - 1


def test_a_previous_exit_is_remembered(history: History) -> None:
    for image, exit_code, reason in (("kwok/crash:3", 3, "Error"), ("kwok/probekill:1", 137, "Error")):
        last = container(history[image][-1])["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (exit_code, reason)


def test_they_are_deleted_at_once_in_any_state(history: History, kubectl: Kubectl) -> None:
    # Not after the hour that they have been given.
    kubectl("delete", "pods", "--all", "--timeout=120s")
