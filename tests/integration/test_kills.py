"""The operator dies, or loses an answer, right after each of its writes: in the end nothing is different.

For every k the process is killed after its k-th write that succeeded, and another one finishes. The same with
writes that were done and whose answer was lost, and with writes that never arrived.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ControlPlane, running_operator
from tests.integration.faults import After, Call, Drop, DropAnswer, Fault, FaultProxy, Record, running_fault_proxy
from tests.integration.test_rollback import INSTANCE, REVISION, VERDICT, entries, new_namespace
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, condition, eventually, is_ready

# Others make and remove objects of these kinds by themselves, some of them at any time.
COUNTED = ("controllerrevisions", "deployments", "services", "replicasets", "pods")
MOST_WRITES = 20


def counts(call: Call) -> bool:
    """Whether it is one of the writes that bring an LLMDeployment forward."""
    return call.is_write and call.resource not in ("events", "leases")


@dataclass(frozen=True)
class Scenario:
    """What is done to an object, from which state, and how to see that the operator has done its part."""

    act: Callable[[Kubectl], object]
    is_done: Callable[[Manifest | None], bool]
    start: Callable[[Kubectl], object] | None = None


def apply(**spec: Any) -> Callable[[Kubectl], object]:
    return lambda kubectl: kubectl.apply(an_llmdeployment(replicas=2, **spec))


def is_rolled_back(parent: Manifest | None) -> bool:
    found = condition(parent, "RolledBack")
    return found.get("status") == "True" and condition(parent, "Stalled").get("status") == "True"


SCENARIOS = {
    "create": Scenario(apply(), is_ready),
    "update": Scenario(apply(image="registry.example.com/server:2"), is_ready, start=apply()),
    "rollback": Scenario(apply(image="kwok/crash:1"), is_rolled_back, start=apply()),
}


@dataclass
class End:
    """What is there in the end, without names and times, and what was made and removed on the way."""

    conditions: list[tuple[str, str, str]]
    verdicts: dict[str, tuple[str, int, int]]
    revisions: dict[str, Any]
    template: Any
    pods: int
    events: Mapping[str, int]
    made: Mapping[str, int] = field(default_factory=dict)


def look(kubectl: Kubectl) -> End:
    """The end state of the one object in a namespace."""
    parent, deployment = kubectl.get("llmdep", "triage"), kubectl.get("deployment", "triage")
    assert parent is not None
    assert deployment is not None
    verdicts = {}
    for one in kubectl.list("controllerrevisions", "-l", f"{INSTANCE}=triage"):
        marks = one["metadata"]["annotations"]
        verdict = json.loads(marks[VERDICT])
        verdicts[marks[REVISION]] = (verdict["state"], verdict["attempt"], len(verdict.get("rollbacks", [])))
    events = Counter(
        one["reason"] for one in kubectl.list("events.events.k8s.io") if one.get("regarding", {}).get("name") == "triage"
    )
    return End(
        conditions=sorted((one["type"], one["status"], one["reason"]) for one in parent["status"]["conditions"]),
        verdicts=verdicts,
        revisions={key: value for key, value in parent["status"].items() if key.endswith("Revision")},
        template=deployment["spec"]["template"],
        pods=len(kubectl.list("pods")),
        # What is told of a fault on the way depends on when it is looked at.
        events={reason: events[reason] for reason in ("AllReplicasReady", "RollingBack", "RolledBack")},
    )


def made(plane: ControlPlane, since: int) -> dict[str, Counter[str]]:
    """Objects made and removed by anybody, by namespace, from entry `since` of the audit log on."""
    found: dict[str, Counter[str]] = {}
    for one in plane.requests(since=since):
        about = one.get("objectRef", {})
        is_done = one.get("responseStatus", {}).get("code", 500) < 300 and not about.get("subresource")
        if about.get("resource") in COUNTED and one["verb"] in ("create", "delete") and is_done:
            found.setdefault(about["namespace"], Counter())[f"{one['verb']} {about['resource']}"] += 1
    return found


def settled(kubectl: Kubectl, scenario: Scenario, *, pods: int = 2) -> None:
    """Wait until nobody has anything left to do."""

    def is_settled() -> bool:
        replica_sets = kubectl.list("replicasets")
        return (
            scenario.is_done(kubectl.get("llmdep", "triage"))
            and len(kubectl.list("pods")) == pods
            and all(one["status"].get("replicas", 0) == one["spec"]["replicas"] for one in replica_sets)
        )

    eventually(is_settled, seconds=120, every=0.5)


@contextmanager
def mortal_operator(plane: ControlPlane, proxy: FaultProxy, log: Path, namespace: str) -> Iterator["Mortal"]:
    """An operator behind the proxy that may be killed, and then is started again."""
    mortal = Mortal(plane, proxy, log, namespace)
    try:
        yield mortal
    finally:
        mortal.stop()


class Mortal:
    """One process after the other, for one namespace."""

    def __init__(self, plane: ControlPlane, proxy: FaultProxy, log: Path, namespace: str) -> None:
        self._start = lambda: running_operator(
            plane,
            log,
            KUBECONFIG=str(proxy.kubeconfig),
            LLMOP_NAMESPACES=namespace,
            LLMOP_LEADER_ELECTION="false",
        )
        self._running = self._start()
        self._process = self._running.__enter__()
        self.is_killed = threading.Event()

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self._process.kill()
        self._process.wait()
        self.is_killed.set()

    def again(self) -> None:
        """Start another one in the place of the one that was killed."""
        self._end()
        self._running = self._start()
        self._process = self._running.__enter__()
        self.is_killed.clear()

    def stop(self) -> None:
        """End for good."""
        if self.is_killed.is_set():
            self._end()
        else:
            self._running.__exit__(None, None, None)

    def _end(self) -> None:
        # It complains that the process has ended, which is what was wanted.
        with pytest.raises(AssertionError, match="exit code -9"):
            self._running.__exit__(None, None, None)


def killed_after_each_write(plane: ControlPlane, folder: Path, scenario: Scenario, clean: End) -> int:
    """Kill it after the first, the second, ... write, each time on a fresh object; how many there were."""
    kubectl = new_namespace(plane)
    with (
        running_fault_proxy(plane.operator_kubeconfig, folder) as proxy,
        mortal_operator(plane, proxy, folder / "log", kubectl.namespace) as operator,
    ):
        for number in range(1, MOST_WRITES):
            if scenario.start is not None:
                scenario.start(kubectl)
                settled(kubectl, SCENARIOS["create"])
            since = entries(plane)
            seen = 0

            def kill(record: Record, number: int = number) -> None:
                nonlocal seen
                seen += record.succeeded
                if record.succeeded and seen == number:
                    operator.kill()

            with proxy.faults(lambda call, kill=kill: After(kill) if counts(call) else None):
                scenario.act(kubectl)
                eventually(
                    lambda: operator.is_killed.is_set() or scenario.is_done(kubectl.get("llmdep", "triage")), seconds=60
                )
            was_killed = seen >= number
            if was_killed:
                operator.again()
            settled(kubectl, scenario)
            end = look(kubectl)
            end.made = made(plane, since).get(kubectl.namespace, Counter())
            assert end == clean, f"killed after write {number}"
            kubectl("delete", "llmdep", "triage", "--cascade=foreground", "--timeout=60s")
            eventually(lambda: not kubectl.list("pods,controllerrevisions"))
            kubectl("delete", "events.events.k8s.io", "--all")
            if not was_killed:
                return number - 1
    raise AssertionError(f"more than {MOST_WRITES} writes")


@dataclass
class Clean:
    """The end of each scenario without any fault, and how many writes it took."""

    ends: dict[str, End]
    writes: dict[str, int]


def run_all(
    plane: ControlPlane, proxy: FaultProxy, log: Path, chosen: list[tuple[str, Kubectl, list[Callable[[Call], Fault | None]]]]
) -> list[End]:
    """Scenarios, each in a namespace and under rules of its own, all at the same time against one operator."""
    with running_operator(plane, log, KUBECONFIG=str(proxy.kubeconfig), LLMOP_LEADER_ELECTION="false"):
        for name, kubectl, _ in chosen:
            start = SCENARIOS[name].start
            if start is not None:
                start(kubectl)
        for name, kubectl, _ in chosen:
            if SCENARIOS[name].start is not None:
                settled(kubectl, SCENARIOS["create"])
        since = entries(plane)
        rules = [rule for _, _, some in chosen for rule in some]
        with proxy.faults(*rules):
            for name, kubectl, _ in chosen:
                SCENARIOS[name].act(kubectl)
            for name, kubectl, _ in chosen:
                settled(kubectl, SCENARIOS[name])
        ends = [look(kubectl) for _, kubectl, _ in chosen]
        counted = made(plane, since)
        for end, (_, kubectl, _) in zip(ends, chosen, strict=True):
            end.made = counted.get(kubectl.namespace, Counter())
        return ends


def write_number(number: int, namespace: str, fault: Fault) -> Callable[[Call], Fault | None]:
    """A rule: the `number`-th write in the namespace suffers the fault."""
    seen = 0

    def rule(call: Call) -> Fault | None:
        nonlocal seen
        if not counts(call) or call.namespace != namespace:
            return None
        seen += 1
        return fault if seen == number else None

    return rule


@pytest.fixture(scope="module")
def clean(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """What happens when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("clean")
    chosen = [(name, new_namespace(control_plane), []) for name in SCENARIOS]
    with running_fault_proxy(control_plane.operator_kubeconfig, folder) as proxy:
        ends = run_all(control_plane, proxy, folder / "log", chosen)
        records = proxy.writes()
    writes = Counter(record.call.namespace for record in records if counts(record.call) and record.succeeded)
    return Clean(
        ends={name: end for (name, _, _), end in zip(chosen, ends, strict=True)},
        writes={name: writes[kubectl.namespace] for name, kubectl, _ in chosen},
    )


def test_the_clean_run_is_what_it_should_be(clean: Clean) -> None:
    create, update, rollback = (clean.ends[name] for name in SCENARIOS)
    assert create.made == {f"create {kind}": 1 for kind in COUNTED} | {"create pods": 2}
    assert update.made == {
        "create controllerrevisions": 1, "create replicasets": 1, "create pods": 2, "delete pods": 2 + 2
    }  # fmt: skip
    assert rollback.made["create pods"] == 1
    assert rollback.events == {"AllReplicasReady": 1, "RollingBack": 1, "RolledBack": 1}
    assert {state for state, _, _ in rollback.verdicts.values()} == {"Good", "Rejected"}


def test_killed_after_every_write(clean: Clean, control_plane: ControlPlane, tmp_path: Path) -> None:
    def run(name: str) -> int:
        folder = tmp_path / name
        folder.mkdir()
        return killed_after_each_write(control_plane, folder, SCENARIOS[name], clean.ends[name])

    with ThreadPoolExecutor() as pool:
        killed = dict(zip(SCENARIOS, pool.map(run, SCENARIOS), strict=True))
    # A status that is written on the way may be skipped, or written once more.
    assert all(number >= 4 for number in killed.values()), killed


@pytest.mark.parametrize("fault", [DropAnswer(), Drop()], ids=["whose answer was lost", "that never arrived"])
def test_a_write(clean: Clean, control_plane: ControlPlane, tmp_path: Path, fault: Fault) -> None:
    chosen = []
    for name, writes in clean.writes.items():
        for number in range(1, writes + 1):
            kubectl = new_namespace(control_plane)
            chosen.append((name, kubectl, [write_number(number, kubectl.namespace, fault)]))
    with running_fault_proxy(control_plane.operator_kubeconfig, tmp_path) as proxy:
        ends = run_all(control_plane, proxy, tmp_path / "log", chosen)
    for (name, kubectl, _), end in zip(chosen, ends, strict=True):
        assert end == clean.ends[name], (name, kubectl.namespace)


def test_deleted_while_it_is_away(control_plane: ControlPlane, tmp_path: Path) -> None:
    kubectl = new_namespace(control_plane)
    with (
        running_fault_proxy(control_plane.operator_kubeconfig, tmp_path) as proxy,
        mortal_operator(control_plane, proxy, tmp_path / "log", kubectl.namespace) as operator,
    ):
        apply()(kubectl)
        settled(kubectl, SCENARIOS["create"])
        apply(image="kwok/crash:1")(kubectl)
        with proxy.after_write(2, operator.kill):
            eventually(operator.is_killed.is_set)
        kubectl("delete", "llmdep", "triage", "--timeout=30s")
        eventually(lambda: not kubectl.list("deployments,services,replicasets,pods,controllerrevisions"))
        operator.again()
        apply()(kubectl)
        settled(kubectl, SCENARIOS["create"])
        start = len(proxy.writes())
        kubectl("delete", "llmdep", "triage", "--timeout=30s")
        eventually(lambda: not kubectl.list("deployments,services,replicasets,pods,controllerrevisions"))
        assert proxy.writes()[start:] == [], "to delete is the garbage collector's work"
