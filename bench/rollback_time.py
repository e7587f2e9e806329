"""How long a bad edit lasts: from the edit to the verdict, and to the last good revision alone serving again.

    python -m bench.rollback_time --rounds 3

Each kind of failure has an LLMDeployment of its own; all are edited at the same time. KWOK plays the pods
(tests/integration/stages.yaml says how their images fail). docs/performance.md tells how to read the table.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import operators
from bench.api import Api, Manifest, connected, make_namespace, until
from bench.planes import ROOT, control_plane, failures_told, results_folder
from bench.tables import aligned
from tests.cluster.steps import say

STAGES = ROOT / "tests" / "integration" / "stages.yaml"
NAME = "subject"
READY_SECONDS = 120
# Beyond the deadline of the roll-out: what the operator may still need before this gives up.
SLACK_SECONDS = 120


@dataclass(frozen=True)
class Kind:
    """A failure: what is edited, and what is in the namespace when it is."""

    name: str
    edit: Manifest
    quota: Manifest = field(default_factory=dict)


def kinds(replicas: int) -> tuple[Kind, ...]:
    """All failures. The last three can only be told from a slow start by waiting for the deadline."""
    return (
        Kind("image not found", {"image": "kwok/notfound:1"}),
        Kind("image pull denied", {"image": "kwok/denied:1"}),
        Kind("crash loop", {"image": "kwok/crash:1"}),
        Kind("out of memory", {"image": "kwok/oom:1"}),
        Kind("missing Secret", {"image": "kwok/badconfig:1"}),
        Kind("quota refusal", {"image": "registry.example.com/server:2"}, quota={"pods": str(replicas)}),
        Kind("never ready", {"image": "kwok/never:1"}),
        Kind("unschedulable", {"resources": {"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}}}),
    )


@dataclass
class Course:
    """What happened after the edit; seconds since it, None for what never did."""

    kind: str
    replicas: int
    reason: str = ""
    rejected: float | None = None
    recovered: float | None = None
    fewest_available: int = 0
    old_pods_kept: bool = True

    @property
    def served(self) -> bool:
        """Whether the pods from before the edit served throughout."""
        return self.old_pods_kept and self.fewest_available >= self.replicas


class Witness:
    """Puts a Course together from watches of the LLMDeployment, its Deployment and its pods."""

    def __init__(self, kind: Kind, parent: Manifest, deployment: Manifest, pods: Sequence[Manifest]) -> None:
        replicas = deployment["spec"]["replicas"]
        self.course = Course(kind.name, replicas, fewest_available=replicas)
        self.over = asyncio.Event()
        self._good = parent["status"]["desiredRevision"]
        self._template = deployment["spec"]["template"]
        self._old_pods = {pod["metadata"]["uid"] for pod in pods}
        self._rolled_back = False
        self._converged = True
        self._edited = time.monotonic()

    def edited(self) -> None:
        """The edit is about to be sent."""
        self._edited = time.monotonic()

    def saw(self, plural: str, event: Manifest) -> None:
        """Take one event."""
        live, is_gone = event["object"], event["type"] == "DELETED"
        match plural:
            case "llmdeployments":
                self._saw_parent(live)
            case "deployments":
                self._saw_deployment(live)
            case "pods" if live["metadata"]["uid"] in self._old_pods:
                self.course.old_pods_kept &= not is_gone and _is_true(live, "Ready")
        if self._rolled_back and self._converged and self.course.rejected is not None and not self.over.is_set():
            self.course.recovered = self._since()
            self.over.set()

    def _saw_parent(self, live: Manifest) -> None:
        status = live.get("status", {})
        for one in status.get("rejected", []):
            if one["revision"] == status["desiredRevision"] != self._good and self.course.rejected is None:
                self.course.rejected, self.course.reason = self._since(), one["reason"]
        self._rolled_back = _is_true(live, "RolledBack")

    def _saw_deployment(self, live: Manifest) -> None:
        status, replicas = live.get("status", {}), self.course.replicas
        self.course.fewest_available = min(self.course.fewest_available, status.get("availableReplicas", 0))
        counts = {status.get(count, 0) for count in ("replicas", "updatedReplicas", "availableReplicas")}
        seen = status.get("observedGeneration", 0) >= live["metadata"]["generation"]
        self._converged = live["spec"]["template"] == self._template and seen and counts == {replicas}

    def _since(self) -> float:
        return round(time.monotonic() - self._edited, 1)


def _is_true(live: Manifest, condition: str) -> bool:
    conditions = live.get("status", {}).get("conditions", [])
    return any(one["type"] == condition and one["status"] == "True" for one in conditions)


async def run_kind(api: Api, kind: Kind, namespace: str, arguments: argparse.Namespace) -> Course:
    """A good LLMDeployment, the bad edit, and what comes of it."""
    await make_namespace(api, namespace)
    rollout = {"soakSeconds": arguments.soak, "progressDeadlineSeconds": arguments.deadline}
    spec = {"mode": "mock", "replicas": arguments.replicas, "rollout": rollout}
    manifest = {"apiVersion": "llm.carepath.ai/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": NAME}}
    await api.create(namespace, "llmdeployments", {**manifest, "spec": spec})
    witness = Witness(kind, *await _good(api, namespace))
    if kind.quota:
        quota = {"metadata": {"name": "full"}, "spec": {"hard": kind.quota}}
        await api.request("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
        await until("the quota counts", lambda: _quota_counts(api, namespace), seconds=30)
    async with _watching(api, namespace, witness):
        witness.edited()
        await api.merge(namespace, "llmdeployments", NAME, {"spec": kind.edit})
        try:
            await asyncio.wait_for(witness.over.wait(), arguments.deadline + SLACK_SECONDS)
        except TimeoutError:
            say(f"  ! {namespace}: not recovered")
    _say_course(witness.course)
    return witness.course


async def _good(api: Api, namespace: str) -> tuple[Manifest, Manifest, list[Manifest]]:
    parent: Manifest = {}

    async def ready() -> bool:
        nonlocal parent
        parent = await api.get(namespace, "llmdeployments", NAME) or {}
        return _is_true(parent, "Ready")

    await until(f"{namespace} is Ready", ready, seconds=READY_SECONDS)
    deployment = await api.get(namespace, "deployments", NAME)
    assert deployment is not None
    pods = await api.request("GET", f"/api/v1/namespaces/{namespace}/pods")
    return parent, deployment, pods["items"]


async def _quota_counts(api: Api, namespace: str) -> bool:
    quota = await api.request("GET", f"/api/v1/namespaces/{namespace}/resourcequotas/full")
    return "used" in quota.get("status", {})


@asynccontextmanager
async def _watching(api: Api, namespace: str, witness: Witness) -> AsyncIterator[None]:
    """The three watches are open within the block."""
    opened = [asyncio.Event() for _ in range(3)]

    async def follow(plural: str, open_now: asyncio.Event) -> None:
        async for event in api.watch(namespace, plural):
            if event:
                witness.saw(plural, event)
            open_now.set()

    async with asyncio.TaskGroup() as group:
        plurals = ("llmdeployments", "deployments", "pods")
        tasks = [group.create_task(follow(one, event)) for one, event in zip(plurals, opened, strict=True)]
        for event in opened:
            await event.wait()
        yield
        for task in tasks:
            task.cancel()


def _say_course(course: Course) -> None:
    verdict = course.reason or "no verdict"
    say(f"  {course.kind}: {verdict} after {course.rejected} s, recovered after {course.recovered} s")


async def measure(kubeconfig: Path, arguments: argparse.Namespace) -> list[Course]:
    """All kinds at the same time, round after round."""
    courses: list[Course] = []
    async with connected(kubeconfig) as api:
        for number in range(arguments.rounds):
            say(f"==> Round {number + 1} of {arguments.rounds}")
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(run_kind(api, kind, f"{kind.name.replace(' ', '-').lower()}-{number}", arguments))
                    for kind in kinds(arguments.replicas)
                ]
            courses += [task.result() for task in tasks]
    return courses


def table(courses: Sequence[Course]) -> str:
    """The result for people: medians, and the worst in brackets."""
    rows = [("failure", "reason", "verdict s", "recovered s", "fewest available", "old pods served throughout")]
    for kind in dict.fromkeys(course.kind for course in courses):
        mine = [course for course in courses if course.kind == kind]
        fewest = min(course.fewest_available for course in mine)
        rows.append(
            (
                kind,
                ", ".join(sorted({course.reason for course in mine})),
                _spread([course.rejected for course in mine]),
                _spread([course.recovered for course in mine]),
                f"{fewest} of {mine[0].replicas}",
                "yes" if all(course.served for course in mine) else "NO",
            )
        )
    return aligned(rows)


def _spread(seconds: Sequence[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    if len(known) < len(seconds):
        return "never"
    return f"{statistics.median(known):.1f} ({max(known):.1f})"


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; exit code 1 if a failure was not recovered from, or took a serving pod away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--soak", type=int, default=2, metavar="SECONDS", help="spec.rollout.soakSeconds")
    parser.add_argument(
        "--deadline", type=int, default=30, metavar="SECONDS", help="spec.rollout.progressDeadlineSeconds"
    )
    arguments = parser.parse_args(words)
    folder = results_folder()
    with (
        failures_told(folder),
        control_plane(nodes=1, stages=STAGES) as plane,
        operators.running(plane.operator_kubeconfig, folder / "operator.log"),
    ):
        courses = asyncio.run(measure(plane.kubeconfig, arguments))
    print(table(courses))
    path = folder / "rollback_time.json"
    path.write_text(json.dumps({"arguments": vars(arguments), "courses": [asdict(one) for one in courses]}, indent=2))
    print(path)
    return 0 if all(course.recovered is not None and course.served for course in courses) else 1


if __name__ == "__main__":
    sys.exit(main())
