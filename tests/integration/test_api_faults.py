"""An API server that fails, is slow, is away, or tells old news: afterwards all is as it would have been.

Each course has an operator of its own behind a proxy of its own. They run at the same time.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ControlPlane
from tests.integration.faults import Answer, Before, Call, Drop, DropAnswer, Fault, FaultProxy, running_fault_proxy
from tests.integration.subject import INSTANCE, REVISION, VERDICT, new_namespace, rollout
from tests.integration.test_leader import Operator
from tests.kubectl import Kubectl, Manifest, Refused, an_llmdeployment, condition, eventually, is_ready

SEED = 20_261_125
PATIENCE = 300.0


@dataclass
class World:
    """What a course has for itself."""

    kubectl: Kubectl
    proxy: FaultProxy
    operator: Operator

    def keep_alive(self) -> None:
        """What a kubelet does: start it again if it has ended because it could not go on."""
        code = self.operator.process.poll()
        if code is not None:
            assert code == 1, self.operator.log.read_text()[-2000:]
            self.operator.start()

    def eventually(self, check: Callable[[], Any]) -> Any:
        """As `eventually`, with a kubelet."""

        def with_kubelet() -> Any:
            self.keep_alive()
            return check()

        return eventually(with_kubelet, seconds=PATIENCE, every=0.5)

    def ready(self, *names: str) -> None:
        """Wait until the objects are Ready about their newest generation."""

        def all_ready() -> bool:
            found = {one["metadata"]["name"]: one for one in self.kubectl.list("llmdep")}
            late = [name for name in names if not is_ready(found[name])]
            assert not late, {name: found[name].get("status", {}).get("conditions") for name in late}
            return True

        self.eventually(all_ready)

    def verdicts(self, name: str) -> Counter[str]:
        """How many revisions of an object are in which state."""
        found = self.kubectl.list("controllerrevisions", "-l", f"{INSTANCE}={name}")
        return Counter(json.loads(one["metadata"]["annotations"][VERDICT])["state"] for one in found)


Course = Callable[[World], None]
COURSES: dict[str, tuple[Course, dict[str, str]]] = {}
# Without a resync, which would make good what the watches must, if one only waits for it.
ALONE = {"LLMOP_LEADER_ELECTION": "false", "LLMOP_RESYNC_SECONDS": "86400"}


def course(run: Course) -> Course:
    """One of the tests."""
    COURSES[run.__name__] = (run, ALONE)
    return run


@contextmanager
def world(plane: ControlPlane, folder: Path, settings: dict[str, str]) -> Iterator[World]:
    """A namespace, a proxy and an operator."""
    kubectl = new_namespace(plane)
    folder.mkdir()
    with running_fault_proxy(plane.operator_kubeconfig, folder) as proxy:
        operator = Operator(proxy, folder / "log", LLMOP_NAMESPACES=kubectl.namespace, **settings)
        try:
            try:
                eventually(operator.is_ready, seconds=180)
            except AssertionError as error:
                error.add_note(f"exit code {operator.process.poll()}\n{operator.log.read_text()[-4000:]}")
                raise
            yield World(kubectl, proxy, operator)
        finally:
            operator.end()
    kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


def unreliable(chance: random.Random, share: float, call: Call) -> Fault | None:
    """Now and then an error, in every form there is; watches are let through, lists are not."""
    if chance.random() >= share:
        return None
    fault: Fault = chance.choice(
        [Answer(500), Answer(503), Answer(504), Answer(429, retry_after=1), Drop(), DropAnswer()]
    )
    return None if call.verb == "watch" and isinstance(fault, DropAnswer) else fault


@course
def every_fifth_request_fails(world: World) -> None:
    names = [f"o{number}" for number in range(10)]
    chance = random.Random(SEED)
    with world.proxy.faults(partial(unreliable, chance, 0.2)):
        world.kubectl.apply(*(an_llmdeployment(name, rollout=rollout()) for name in names))
        world.ready(*names)
        for image in ("registry.example.com/server:2", "registry.example.com/server:3"):
            world.kubectl.apply(*(an_llmdeployment(name, rollout=rollout(), image=image) for name in names))
            world.ready(*names)
    for name in names:
        assert world.verdicts(name) == {"Good": 3}
    assert len(world.kubectl.list("deployments")) == len(world.kubectl.list("services")) == len(names)
    assert len(world.kubectl.list("replicasets")) == 3 * len(names)
    eventually(lambda: len(world.kubectl.list("pods")) == len(names))
    events = Counter(
        (one["regarding"]["name"], one["reason"])
        for one in world.kubectl.list("events.events.k8s.io")
        if one["regarding"]["kind"] == "LLMDeployment"
    )
    # On a slow machine a write may fail for so long that it is told.
    assert {reason for _, reason in events} <= {"AllReplicasReady", "ApplyFailing"}
    # An event may be lost, it must not come twice: there were three times at which it became Ready.
    assert max(count for (_, reason), count in events.items() if reason == "AllReplicasReady") <= 3


@course
def every_other_write_is_a_conflict(world: World) -> None:
    """Somebody else writes between look and write: status, annotations, labels."""
    names = [f"o{number}" for number in range(5)]
    seen: Counter[tuple[str, str | None]] = Counter()

    def somebody_was_faster(call: Call) -> Fault | None:
        if call.resource != "llmdeployments" or call.subresource != "status":
            return None
        seen["status", call.name] += 1
        number = seen["status", call.name]
        if number % 2 == 0:
            return None
        return Before(
            lambda _: world.kubectl("annotate", "llmdep", str(call.name), f"seen={number}", "--overwrite") and None
        )

    def conflicts(call: Call) -> Fault | None:
        if call.verb != "patch" or call.resource not in ("deployments", "controllerrevisions"):
            return None
        seen[call.resource, call.name] += 1
        return Answer(409) if seen[call.resource, call.name] % 2 else None

    with world.proxy.faults(somebody_was_faster, conflicts):
        world.kubectl.apply(*(an_llmdeployment(name, rollout=rollout()) for name in names))
        world.ready(*names)
        image = "registry.example.com/server:2"
        world.kubectl.apply(*(an_llmdeployment(name, rollout=rollout(), image=image) for name in names))
        world.ready(*names)
    for name in names:
        assert world.verdicts(name) == {"Good": 2}
        found = world.kubectl.get("llmdep", name)
        assert found is not None
        assert found["metadata"]["annotations"]["seen"]
        assert {one["type"] for one in found["status"]["conditions"]} == {"Ready", "Available"}
    assert sum(number for (kind, _), number in seen.items() if kind == "status") >= 2 * len(names)


def follows(world: World, image: str) -> None:
    """An edit reaches the pods and their becoming ready the status, or the process is not healthy: never both not."""
    world.kubectl.patch("llmdep", "triage", {"spec": {"image": image}})
    world.ready("triage")
    deployment = world.kubectl.get("deployment", "triage")
    assert deployment is not None
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image


WAYS: dict[str, Callable[[FaultProxy], None]] = {
    "cut in the middle of a line": FaultProxy.cut_watches,
    "ended in the middle of a line": lambda proxy: proxy.cut_watches(ended=True),
    "an error 410 in the stream": lambda proxy: proxy.end_watches(410),
    "an error 500 in the stream": lambda proxy: proxy.end_watches(500),
}
KINDS = 7


def watches_end(world: World, way: Callable[[FaultProxy], None]) -> None:
    """All watches end at once, then one after the other."""
    world.kubectl.apply(an_llmdeployment(rollout=rollout()))
    world.ready("triage")
    for number, kind in enumerate((None, "llmdeployments", "pods")):
        world.eventually(lambda: len(world.proxy.open_watches()) == KINDS)
        if kind is None:
            way(world.proxy)
        else:
            for call in world.proxy.open_watches(kind)[:1]:
                assert call.resource == kind
            world.proxy.cut_watches(kind)
        follows(world, f"registry.example.com/server:{number + 2}")
    assert world.verdicts("triage") == {"Good": 4}


for one_way in WAYS:
    COURSES[f"watches: {one_way}"] = (partial(watches_end, way=WAYS[one_way]), ALONE)


@course
def what_happens_while_no_watch_is_open_is_made_good(world: World) -> None:
    """Children and objects vanish between two watches: nobody tells of that, and nothing is done for ghosts."""
    world.kubectl.apply(*(an_llmdeployment(name, rollout=rollout()) for name in ("triage", "ghost")))
    world.ready("triage", "ghost")
    blind = [Answer(503)]
    with world.proxy.faults(lambda call: blind[0] if call.verb in ("watch", "list") else None):
        world.proxy.end_watches(410)
        world.kubectl("delete", "llmdep", "ghost", "--timeout=120s")
        world.kubectl("delete", "service", "triage")
        world.kubectl("delete", "deployment", "triage", "--cascade=foreground")
        eventually(lambda: not world.kubectl.list("deployments,services,pods"))
        written = len(world.proxy.records())
    # No event tells of what is gone: the edit does, as the resync would.
    follows(world, "registry.example.com/server:2")
    world.eventually(lambda: world.kubectl.get("service", "triage"))
    about_ghost = [one for one in world.proxy.writes(since=written) if one.call.name and "ghost" in one.call.name]
    assert about_ghost == []
    assert world.kubectl.get("deployment", "ghost") is None


@course
def frozen_watches_are_given_up(world: World) -> None:
    world.kubectl.apply(an_llmdeployment(rollout=rollout()))
    world.ready("triage")
    world.eventually(lambda: len(world.proxy.open_watches()) == KINDS)
    frozen = world.proxy.open_watches()
    world.proxy.freeze_watches()
    world.kubectl.patch("llmdep", "triage", {"spec": {"image": "registry.example.com/server:2"}})
    world.ready("triage")
    assert world.verdicts("triage") == {"Good": 2}
    assert not set(map(id, frozen)) & set(map(id, world.proxy.open_watches("llmdeployments")))


def an_outage_condemns_nothing(world: World) -> None:
    """Deadlines pass while the API server is away, and what was slow is ready when it is back."""
    # All must be rolling out before the outage begins, and none be late by then, however slow the machine.
    deadline, slowness = 75, 90
    slow, bad = [f"slow{number}" for number in range(6)], ["bad"]
    world.kubectl.apply(*(an_llmdeployment(name, rollout=rollout(deadline=deadline)) for name in slow + bad))
    world.ready(*slow, *bad)
    images = dict.fromkeys(slow, f"kwok/slow:{slowness}") | dict.fromkeys(bad, "kwok/never:1")
    world.kubectl.apply(
        *(an_llmdeployment(name, rollout=rollout(deadline=deadline), image=image) for name, image in images.items())
    )
    applied = {(name, image) for name, image in images.items()}
    world.eventually(
        lambda: (
            applied
            <= {
                (one["metadata"]["name"], one["spec"]["template"]["spec"]["containers"][0]["image"])
                for one in world.kubectl.list("deployments")
            }
        )
    )
    with world.proxy.outage():

        def slow_ones_are_up() -> bool:
            found = {one["metadata"]["name"]: one["status"] for one in world.kubectl.list("deployments")}
            return all(
                found[name].get("availableReplicas")
                == found[name].get("updatedReplicas")
                == found[name]["replicas"]
                == 1
                for name in slow
            )

        world.eventually(slow_ones_are_up)
    world.ready(*slow)
    for name in slow:
        assert world.verdicts(name) == {"Good": 2}, name
    world.eventually(lambda: condition(world.kubectl.get("llmdep", "bad"), "RolledBack").get("status") == "True")
    events = Counter(
        one["reason"]
        for one in world.kubectl.list("events.events.k8s.io")
        if one["regarding"]["kind"] == "LLMDeployment"
    )
    assert (events["RollingBack"], events["RolledBack"]) == (1, 1)


# With the lease: the leader ends when it cannot renew it, and another process meets the outage.
COURSES["an_outage_condemns_nothing"] = (an_outage_condemns_nothing, {"LLMOP_IDENTITY": "operator-of-the-outage"})


def snapshot(kubectl: Kubectl, name: str) -> dict[str, Manifest]:
    """What the API server says now, by path."""
    where = f"/namespaces/{kubectl.namespace}"
    own = {
        f"/apis/llm.carepath.ai/v1alpha1{where}/llmdeployments/{name}": "",
        f"/apis/apps/v1{where}/deployments/{name}": "",
        f"/api/v1{where}/services/{name}": "",
        f"/api/v1{where}/pods": f"?labelSelector={INSTANCE}%3D{name}",
        f"/apis/apps/v1{where}/controllerrevisions": f"?labelSelector={INSTANCE}%3D{name}",
    }
    return {path: json.loads(kubectl("get", "--raw", path + query)) for path, query in own.items()}


def old_news(answers: dict[str, Manifest], served: list[str], call: Call) -> Fault | None:
    """Reads are answered as if nothing had happened since."""
    if call.method != "GET" or call.verb == "watch" or call.path not in answers:
        return None
    served.append(call.path)
    return Answer(200, body=answers[call.path])


@course
def reads_of_an_earlier_time_do_no_harm(world: World) -> None:
    world.kubectl.apply(an_llmdeployment(rollout=rollout()))
    world.ready("triage")
    served: list[str] = []
    before = snapshot(world.kubectl, "triage")
    written = len(world.proxy.records())
    with world.proxy.faults(partial(old_news, before, served)):
        world.kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/slow:2"}})
        world.eventually(lambda: served)
    world.ready("triage")
    assert world.verdicts("triage") == {"Good": 2}
    assert [one for one in world.proxy.writes(since=written) if one.call.verb == "delete"] == []
    found = world.kubectl.get("llmdep", "triage")
    assert found is not None
    assert found["status"]["rejected"] == []


def old_pods_condemn_nobody(world: World) -> None:
    """A revision was condemned, another one is tried, and the reads still show the pod of the first."""
    world.kubectl.apply(an_llmdeployment(rollout=rollout()))
    world.ready("triage")
    # It stays although it was rejected, and so does its pod.
    world.kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/badconfig:1", "rollback": {"enabled": False}}})
    world.eventually(lambda: world.verdicts("triage")["Rejected"])
    path = f"/api/v1/namespaces/{world.kubectl.namespace}/pods"
    old = {path: snapshot(world.kubectl, "triage")[path]}
    states = [one["status"]["containerStatuses"][0]["state"] for one in old[path]["items"]]
    assert any("waiting" in one for one in states)
    world.kubectl.patch("llmdep", "triage", {"spec": {"image": "registry.example.com/server:2"}})
    world.ready("triage")
    served: list[str] = []
    with world.proxy.faults(partial(old_news, old, served)):
        world.kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/slow:3"}})
        world.ready("triage")
    assert world.verdicts("triage") == {"Good": 3, "Rejected": 1}
    assert {one["metadata"]["annotations"][REVISION] for one in world.kubectl.list("pods")}


# What is seen for one moment would condemn.
COURSES["old_pods_condemn_nobody"] = (old_pods_condemn_nobody, {**ALONE, "LLMOP_CONFIRM_SECONDS": "0"})


@course
def reads_of_one_of_the_same_name_that_is_gone_do_no_harm(world: World) -> None:
    world.kubectl.apply(an_llmdeployment(rollout=rollout()))
    world.ready("triage")
    served: list[str] = []
    before = snapshot(world.kubectl, "triage")
    written = len(world.proxy.records())
    with world.proxy.faults(partial(old_news, before, served)):
        world.kubectl("delete", "llmdep", "triage", "--cascade=foreground", "--timeout=120s")
        world.kubectl.apply(an_llmdeployment(rollout=rollout(), image="registry.example.com/server:2"))
        world.eventually(lambda: served)
    world.ready("triage")
    assert world.verdicts("triage") == {"Good": 1}
    assert [one for one in world.proxy.writes(since=written) if one.call.verb == "delete"] == []
    found = world.kubectl.get("llmdep", "triage")
    assert found is not None
    for kind in ("deployment", "service"):
        child = world.kubectl.get(kind, "triage")
        assert child is not None
        assert child["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]


def a_dead_webhook(name: str, namespace: str) -> Manifest:
    """One that must be asked about Deployments of a namespace, where nobody listens."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": f"{name}.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 2,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "clientConfig": {"url": "https://127.0.0.1:9/"},
                "rules": [
                    {
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["deployments"],
                    }
                ],
            }
        ],
    }


@course
def what_a_dead_webhook_fails_is_told_and_done_when_it_is_gone(world: World) -> None:
    world.kubectl.apply(an_llmdeployment(rollout=rollout()))
    world.ready("triage")
    name = f"dead-{world.kubectl.namespace}"
    world.kubectl.apply(a_dead_webhook(name, world.kubectl.namespace))
    try:
        # Deletions are let through; the API server may need a moment to learn of the webhook.
        eventually(lambda: is_refused(world.kubectl, "deployment", "triage"))
        world.kubectl.patch("llmdep", "triage", {"spec": {"image": "registry.example.com/server:2"}})

        def is_told() -> bool:
            found = world.kubectl.get("llmdep", "triage")
            assert found is not None
            ready = condition(found, "Ready")
            assert (ready["status"], ready["reason"]) == ("False", "ApplyFailing"), ready
            assert f"{name}.example.com" in ready["message"]
            assert condition(found, "Reconciling")["reason"] == "ApplyFailing"
            assert condition(found, "Available")["status"] == "True"
            return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])

        world.eventually(is_told)
    finally:
        world.kubectl("delete", "validatingwebhookconfiguration", name)
    world.ready("triage")
    assert world.verdicts("triage") == {"Good": 2}
    events = Counter(
        one["reason"]
        for one in world.kubectl.list("events.events.k8s.io")
        if one["regarding"]["kind"] == "LLMDeployment"
    )
    assert events["ApplyFailing"] == 1


def is_refused(kubectl: Kubectl, kind: str, name: str) -> bool:
    """Whether a write that changes nothing fails."""
    try:
        kubectl("label", kind, name, "seen=yes", "--overwrite", "--dry-run=server")
    except Refused:
        return True
    return False


@pytest.fixture(scope="module")
def results(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Future[None]]:
    """What came of each chosen course."""
    folder = tmp_path_factory.mktemp("faults")
    chosen = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }

    def run(number: int, name: str) -> None:
        act, settings = COURSES[name]
        with world(control_plane, folder / str(number), settings) as own:
            act(own)

    with ThreadPoolExecutor(len(COURSES)) as pool:
        return {name: pool.submit(run, number, name) for number, name in enumerate(COURSES) if name in chosen}


@pytest.mark.parametrize("name", COURSES)
def test_course(results: dict[str, Future[None]], name: str) -> None:
    results[name].result()
