"""The operator dies, or loses an answer, right after each of its writes: in the end nothing is different.

For every k the process is killed after its k-th write that succeeded, and another one finishes. The same with
writes that were done and whose answer was lost, and with writes that never arrived.
"""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from tests.integration.conftest import ControlPlane, running_operator
from tests.integration.faults import After, Call, Drop, DropAnswer, Fault, FaultProxy, Record, running_fault_proxy
from tests.integration.subject import INSTANCE, REVISION, VERDICT, entries, new_namespace
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, condition, eventually, is_ready

KINDS = ("llmdeployments", "controllerrevisions", "deployments", "services", "replicasets", "pods")
# Pods are deleted by several controllers, now and then by two of them.
COUNTED = {("create", kind) for kind in KINDS} | {("delete", kind) for kind in KINDS if kind != "pods"}
MOST_WRITES = 20
# Of each scenario so many are killed at the same time, each an operator of its own.
LANES = 3
REPLICAS = 2
NAME = "triage"


def counts(call: Call) -> bool:
    """Whether it is one of the writes that bring an LLMDeployment forward."""
    return call.is_write and call.resource not in ("events", "leases")


def triage(**spec: Any) -> Manifest:
    """The object all this is about."""
    return an_llmdeployment(NAME, replicas=REPLICAS, **spec)


def is_rolled_back(parent: Manifest | None) -> bool:
    """Whether the last change was taken back."""
    return condition(parent, "Stalled").get("reason") == condition(parent, "Ready").get("reason") == "RolledBack"


@dataclass(frozen=True)
class Scenario:
    """What is declared, before and now, and how to see that the operator has done its part."""

    declared: Manifest
    is_done: Callable[[Manifest | None], bool] = is_ready
    before: Manifest | None = None


SCENARIOS = {
    "create": Scenario(triage()),
    "update": Scenario(triage(image="registry.example.com/server:2"), before=triage()),
    "rollback": Scenario(triage(image="kwok/crash:1"), is_rolled_back, before=triage()),
}


class Snapshot:
    """All objects of some namespaces at one time."""

    def __init__(self, kubectl: Kubectl, *arguments: str) -> None:
        self._found: defaultdict[tuple[str, str], list[Manifest]] = defaultdict(list)
        for one in kubectl.list(",".join([*KINDS, "events.events.k8s.io"]), *arguments):
            self._found[one["metadata"]["namespace"], one["kind"]].append(one)

    def all(self, namespace: str, kind: str) -> list[Manifest]:
        """The objects of a kind."""
        return self._found[namespace, kind]

    def parent(self, namespace: str) -> Manifest | None:
        """The LLMDeployment."""
        return next(iter(self.all(namespace, "LLMDeployment")), None)

    def is_settled(self, namespace: str, is_done: Callable[[Manifest | None], bool]) -> bool:
        """Whether nobody has anything left to do."""
        sets = self.all(namespace, "ReplicaSet")
        return (
            is_done(self.parent(namespace))
            and len(self.all(namespace, "Pod")) == REPLICAS
            and all(one["status"].get("replicas", 0) == one["spec"]["replicas"] for one in sets)
        )


@dataclass
class End:
    """What is there in the end, without names and times, and what was made and removed on the way."""

    conditions: list[tuple[str, str, str]]
    verdicts: dict[str, tuple[str, int, int]]
    revisions: dict[str, Any]
    template: Any
    events: Mapping[str, int]
    made: Mapping[str, int] = field(default_factory=dict)


def end_of(snapshot: Snapshot, namespace: str) -> End:
    """The end of one scenario."""
    parent, (deployment,) = snapshot.parent(namespace), snapshot.all(namespace, "Deployment")
    assert parent is not None
    verdicts = {}
    for one in snapshot.all(namespace, "ControllerRevision"):
        marks = one["metadata"]["annotations"]
        verdict = json.loads(marks[VERDICT])
        verdicts[marks[REVISION]] = (verdict["state"], verdict["attempt"], len(verdict.get("rollbacks", [])))
    told = Counter(
        one["reason"] for one in snapshot.all(namespace, "Event") if one["regarding"]["kind"] == "LLMDeployment"
    )
    return End(
        conditions=sorted((one["type"], one["status"], one["reason"]) for one in parent["status"]["conditions"]),
        verdicts=verdicts,
        revisions={key: value for key, value in parent["status"].items() if key.endswith("Revision")},
        template=deployment["spec"]["template"],
        # What is told of a fault on the way depends on when it is looked at.
        # Events are of transitions: what became so and passed while no operator was there, nobody tells.
        events={"RolledBack": told["RolledBack"], "RollingBack twice": max(0, told["RollingBack"] - 1)},
    )


def made(plane: ControlPlane, since: int) -> defaultdict[str, Counter[str]]:
    """Objects made and removed by anybody, by namespace, from entry `since` of the audit log on."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in plane.requests(since=since):
        about = one.get("objectRef", {})
        is_done = one.get("responseStatus", {}).get("code", 500) < 300 and not about.get("subresource")
        if (one["verb"], about.get("resource")) in COUNTED and is_done:
            found[about["namespace"]][f"{one['verb']} {about['resource']}"] += 1
    return found


class Mortal:
    """An operator for one namespace that may be killed, and then is started again."""

    def __init__(self, plane: ControlPlane, proxy: FaultProxy, log: Path, namespace: str) -> None:
        self._start = lambda: running_operator(plane, log, KUBECONFIG=str(proxy.kubeconfig), LLMOP_NAMESPACES=namespace)
        self._running: AbstractContextManager[Popen[bytes]] = self._start()
        self._process = self._running.__enter__()
        self.is_killed = threading.Event()

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self._process.kill()
        self._process.wait()
        self.is_killed.set()

    def again(self) -> None:
        """Start another one in the place of the one that was killed."""
        self.stop()
        self._running = self._start()
        self._process = self._running.__enter__()
        self.is_killed.clear()

    def stop(self) -> None:
        """End this one."""
        if not self.is_killed.is_set():
            self._running.__exit__(None, None, None)
            return
        # It complains that the process has ended, which is what was wanted.
        with pytest.raises(AssertionError, match="ended by itself"):
            self._running.__exit__(None, None, None)


@contextmanager
def mortal_operator(plane: ControlPlane, proxy: FaultProxy, log: Path, namespace: str) -> Iterator[Mortal]:
    """It runs within the block."""
    mortal = Mortal(plane, proxy, log, namespace)
    try:
        yield mortal
    finally:
        mortal.stop()


def killed_after_writes(plane: ControlPlane, folder: Path, scenario: Scenario, clean: End, numbers: range) -> int:
    """Kill it after the write of each number, each time with a fresh object; returns the last one that there was."""
    kubectl = new_namespace(plane)
    namespace = kubectl.namespace

    def settled(is_done: Callable[[Manifest | None], bool]) -> Snapshot:
        def look() -> Snapshot | None:
            found = Snapshot(kubectl)
            return found if found.is_settled(namespace, is_done) else None

        found = eventually(look, seconds=600)
        assert found is not None
        return found

    with (
        running_fault_proxy(plane.operator_kubeconfig, folder) as proxy,
        mortal_operator(plane, proxy, folder / "log", namespace) as operator,
    ):
        for number in numbers:
            if scenario.before is not None:
                kubectl.apply(scenario.before)
                settled(is_ready)
            since, seen = entries(plane), 0

            def kill(record: Record, number: int = number) -> None:
                nonlocal seen
                seen += record.succeeded
                if record.succeeded and seen == number:
                    operator.kill()

            with proxy.faults(lambda call, kill=kill: After(kill) if counts(call) else None):
                kubectl.apply(scenario.declared)
                eventually(
                    lambda: operator.is_killed.is_set() or scenario.is_done(kubectl.get("llmdep", NAME)), seconds=600
                )
            was_killed = operator.is_killed.is_set()
            if was_killed:
                operator.again()
            end = end_of(settled(scenario.is_done), namespace)
            end.made = made(plane, since)[namespace]
            assert end == clean, f"killed after write {number}"
            if not was_killed:
                return number - numbers.step
            kubectl("delete", "llmdep", NAME, "--cascade=foreground", "--timeout=120s")
            kubectl("delete", "events.events.k8s.io", "--all")
    raise AssertionError(f"more than {MOST_WRITES} writes")


Rule = Callable[[Call], Fault | None]


def run_together(
    plane: ControlPlane, folder: Path, chosen: list[tuple[Scenario, Callable[[str], Rule] | None]]
) -> tuple[list[End], list[int]]:
    """Scenarios, each in a namespace and under a rule of its own, all at the same time against one operator.

    Returns how each ended, and how many writes that took.
    """
    admin = plane.kubectl("default")
    first = new_namespace(plane).namespace
    spaces = [f"{first}-{number}" for number in range(len(chosen))]
    admin.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in spaces))
    rules = [rule(name) for name, (_, rule) in zip(spaces, chosen, strict=True) if rule is not None]

    def have_accounts() -> bool:
        found = admin.list("serviceaccounts", "--all-namespaces")
        return set(spaces) <= {one["metadata"]["namespace"] for one in found if one["metadata"]["name"] == "default"}

    def apply(manifests: list[Manifest | None]) -> None:
        placed = [
            {**one, "metadata": {**one["metadata"], "namespace": name}}
            for name, one in zip(spaces, manifests, strict=True)
            if one is not None
        ]
        if placed:
            # Without a namespace of its own, kubectl takes that of each object.
            admin(
                "apply",
                "--namespace=",
                "-f",
                "-",
                stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": placed}),
            )

    def settled(checks: list[Callable[[Manifest | None], bool] | None]) -> Snapshot:
        def look() -> Snapshot:
            found = Snapshot(admin, "--all-namespaces")
            late = [
                name
                for name, check in zip(spaces, checks, strict=True)
                if check is not None and not found.is_settled(name, check)
            ]
            assert not late, [(name, (found.parent(name) or {}).get("status")) for name in late]
            return found

        return eventually(look, seconds=600, every=1)

    eventually(have_accounts)
    with (
        running_fault_proxy(plane.operator_kubeconfig, folder) as proxy,
        running_operator(plane, folder / "log", KUBECONFIG=str(proxy.kubeconfig)),
    ):
        apply([scenario.before for scenario, _ in chosen])
        settled([is_ready if scenario.before is not None else None for scenario, _ in chosen])
        since, written = entries(plane), len(proxy.writes())
        with proxy.faults(*rules):
            apply([scenario.declared for scenario, _ in chosen])
            snapshot = settled([scenario.is_done for scenario, _ in chosen])
        writes = Counter(one.call.namespace for one in proxy.writes()[written:] if counts(one.call) and one.succeeded)
    ends, counted = [end_of(snapshot, name) for name in spaces], made(plane, since)
    for name, end in zip(spaces, ends, strict=True):
        end.made = counted[name]
    admin("delete", "namespace", first, *spaces, "--wait=false")
    return ends, [writes[name] for name in spaces]


def at_write(number: int, fault: Fault) -> Callable[[str], Rule]:
    """A rule for a namespace: the `number`-th write in it suffers the fault."""

    def for_namespace(namespace: str) -> Rule:
        seen = 0

        def rule(call: Call) -> Fault | None:
            nonlocal seen
            if not counts(call) or call.namespace != namespace:
                return None
            seen += 1
            return fault if seen == number else None

        return rule

    return for_namespace


@dataclass
class Clean:
    """What happens when nothing goes wrong, by scenario, and how many writes it takes."""

    ends: dict[str, End]
    writes: dict[str, int]


@pytest.fixture(scope="module")
def clean(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    ends, writes = run_together(
        control_plane, tmp_path_factory.mktemp("clean"), [(scenario, None) for scenario in SCENARIOS.values()]
    )
    return Clean(dict(zip(SCENARIOS, ends, strict=True)), dict(zip(SCENARIOS, writes, strict=True)))


def test_the_clean_run_is_what_it_should_be(clean: Clean) -> None:
    create, update, rollback = (clean.ends[name] for name in SCENARIOS)
    children = ("controllerrevisions", "deployments", "services", "replicasets")
    assert create.made == {"create llmdeployments": 1, "create pods": 2} | {f"create {kind}": 1 for kind in children}
    assert update.made == {"create controllerrevisions": 1, "create replicasets": 1, "create pods": 2}
    assert rollback.made == {"create controllerrevisions": 1, "create replicasets": 1, "create pods": 1}
    assert rollback.events == {"RolledBack": 1, "RollingBack twice": 0}
    assert {state for state, _, _ in rollback.verdicts.values()} == {"Good", "Rejected"}
    assert all(4 <= writes < MOST_WRITES for writes in clean.writes.values())


def test_killed_after_every_write(clean: Clean, control_plane: ControlPlane, tmp_path: Path) -> None:
    def run(name: str, lane: int) -> int:
        folder = tmp_path / f"{name}-{lane}"
        folder.mkdir()
        numbers = range(lane, MOST_WRITES, LANES)
        return killed_after_writes(control_plane, folder, SCENARIOS[name], clean.ends[name], numbers)

    lanes = [(name, lane) for name in SCENARIOS for lane in range(1, LANES + 1)]
    with ThreadPoolExecutor(len(lanes)) as pool:
        killed = dict(zip(lanes, pool.map(lambda one: run(*one), lanes), strict=True))
    # A status on the way may be skipped.
    assert all(max(killed[name, lane] for lane in range(1, LANES + 1)) >= 4 for name in SCENARIOS), killed


def test_every_write_loses_its_answer_or_never_arrives(
    clean: Clean, control_plane: ControlPlane, tmp_path: Path
) -> None:
    faults = {"lost its answer": DropAnswer(), "never arrived": Drop()}
    chosen = {
        f"{name}: write {number} {what}": (SCENARIOS[name], at_write(number, fault))
        for what, fault in faults.items()
        for name, writes in clean.writes.items()
        for number in range(1, writes + 1)
    }
    ends, _ = run_together(control_plane, tmp_path, list(chosen.values()))
    names = [name.partition(":")[0] for name in chosen]
    different = {
        what: (end, clean.ends[name])
        for what, name, end in zip(chosen, names, ends, strict=True)
        if end != clean.ends[name]
    }
    assert different == {}


def test_deleted_while_it_is_away(control_plane: ControlPlane, tmp_path: Path) -> None:
    kubectl = new_namespace(control_plane)

    def settled() -> None:
        eventually(lambda: Snapshot(kubectl).is_settled(kubectl.namespace, is_ready))

    def deleted() -> None:
        kubectl("delete", "llmdep", NAME, "--timeout=120s")
        eventually(lambda: not kubectl.list(",".join(KINDS), "-l", f"{INSTANCE}={NAME}"))

    with (
        running_fault_proxy(control_plane.operator_kubeconfig, tmp_path) as proxy,
        mortal_operator(control_plane, proxy, tmp_path / "log", kubectl.namespace) as operator,
    ):
        kubectl.apply(triage())
        settled()
        with proxy.after_write(3, operator.kill):
            kubectl.apply(triage(image="kwok/crash:1"))
            eventually(operator.is_killed.is_set)
        deleted()
        operator.again()
        kubectl.apply(triage())
        settled()
        start = len(proxy.writes())
        deleted()
        assert proxy.writes()[start:] == [], "to delete is the garbage collector's work"
