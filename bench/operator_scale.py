"""How much longer N LLMDeployments take than the N Deployments and Services they stand for.

    python -m bench.operator_scale --objects 100 500 2000

Both are created over the same few connections on the same control plane, whose nodes KWOK plays: what differs
is the operator. The baseline's manifests are what the operator makes, learned from it before the first run.
docs/performance.md tells how to read the table.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import operators, profiles
from bench.api import Api, Manifest, connected, in_parallel, make_namespace, until
from bench.audit import Audit, is_write
from bench.operators import Operator
from bench.planes import ROOT, Plane, control_plane, failures_told, results_folder
from bench.tables import aligned
from bench.usage import OTHERS, Meter
from tests.cluster.steps import say

PODS_PER_NODE = 900  # below the 1000 that the nodes allow: a roll-out surges
# Up to here the baseline is measured before and after: what both differ by is noise.
SMALL = 500
REST_SECONDS = 20.0
QUIET_SECONDS = 3.0
QUIET_AT_MOST_SECONDS = 60.0
PROGRESS_SECONDS = 5.0
SAMPLE = "bench-sample"


@dataclass
class Rollout:
    """From the first create until all serve."""

    objects: int
    seconds: float
    created_seconds: float
    half_seconds: float  # from the first create until half of them serve
    median_seconds: float  # of one object, from its creation
    worst_seconds: float
    cpu: dict[str, float]
    events: int

    @property
    def cpu_seconds(self) -> float:
        """Of the control plane, the operator and the bench together."""
        return sum(seconds for program, seconds in self.cpu.items() if program != OTHERS)


@dataclass
class OperatorRun:
    """A roll-out through the operator, and what it cost."""

    rollout: Rollout
    requests: dict[str, int]
    watch_events: dict[str, int]
    writes_after: dict[str, int]  # between the last Ready and rest
    writes_at_rest: dict[str, int]
    rest_cpu_seconds: float
    peak_memory_mib: float
    cpu_seconds: float  # start, roll-out and rest
    writes_after_restart: dict[str, int] = field(default_factory=dict)
    restart_cpu_seconds: float = 0.0
    restart_peak_memory_mib: float = 0.0


@dataclass
class Comparison:
    """One N."""

    objects: int
    baselines: list[Rollout] = field(default_factory=list)
    runs: list[OperatorRun] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Seconds with the operator over seconds without, medians."""
        ours = statistics.median(run.rollout.seconds for run in self.runs)
        return ours / statistics.median(one.seconds for one in self.baselines)

    @property
    def half_ratio(self) -> float:
        """The same of the median object: when half of them serve."""
        ours = statistics.median(run.rollout.half_seconds for run in self.runs)
        return ours / statistics.median(one.half_seconds for one in self.baselines)

    @property
    def cpu_ratio(self) -> float:
        """The same of CPU seconds, control plane included: what remains comparable on a busy machine."""
        ours = statistics.median(run.rollout.cpu_seconds for run in self.runs)
        return ours / statistics.median(one.cpu_seconds for one in self.baselines)

    @property
    def others_share(self) -> float:
        """The largest share of the machine that was not ours during a roll-out."""
        rollouts = [*self.baselines, *(run.rollout for run in self.runs)]
        return max(one.cpu[OTHERS] / one.seconds for one in rollouts) / (os.cpu_count() or 1)


class Progress:
    """Which objects are done, as a watch tells, and a line about it every few seconds."""

    def __init__(self, what: str, total: int, is_done: Callable[[Manifest], bool]) -> None:
        self._what, self._total, self._is_done = what, total, is_done
        self.started = time.monotonic()
        self.done: dict[str, float] = {}
        self.events = 0

    def note(self, event: Manifest) -> bool:
        """Take one event; whether all are done."""
        self.events += 1
        live = event["object"]
        if event["type"] != "DELETED" and self._is_done(live):
            self.done.setdefault(live["metadata"]["name"], time.monotonic())
        return len(self.done) >= self._total

    async def tell(self, check: Callable[[], None]) -> None:
        """Say how far it is, for ever; `check` raises if it can come no further."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            check()
            seconds = time.monotonic() - self.started
            say(f"  ... {self._what}: {len(self.done)} of {self._total} after {seconds:.0f} s")


@dataclass(frozen=True)
class Bench:
    """The control plane and what every phase needs."""

    plane: Plane
    api: Api
    audit: Audit
    logs: Path
    spec: Manifest
    profile: bool

    async def baseline(self, objects: int, label: str, sample: Sequence[Manifest]) -> Rollout:
        """Plain Deployments and Services, as a user with a script would make them."""
        namespace = f"baseline-{label}"
        await make_namespace(self.api, namespace)

        async def make(name: str) -> None:
            for manifest in sample:
                await self.api.create(namespace, f"{manifest['kind'].lower()}s", named(manifest, name))

        rollout = await self._rollout(namespace, "deployments", names_of("plain", objects), make)
        await self._clear(namespace, objects)
        return rollout

    async def with_operator(self, objects: int, label: str) -> OperatorRun:
        """LLMDeployments, then rest, then a restart of the operator."""
        namespace = f"operator-{label}"
        await make_namespace(self.api, namespace)
        log, profile = self.logs / f"{namespace}.log", self._profile(namespace)

        async def make(name: str) -> None:
            await self.api.create(namespace, "llmdeployments", llmdeployment(name, self.spec))

        mark = self.audit.mark()
        with operators.running(self.plane.operator_kubeconfig, log, profile=profile) as operator:
            rollout = await self._rollout(namespace, "llmdeployments", names_of("llm", objects), make, operator)
            run = await self._at_rest(rollout, operator, mark)
        if profile is not None:
            say(profiles.report(profile))
        mark = self.audit.mark()
        with operators.running(self.plane.operator_kubeconfig, log) as operator:
            await self._quiet(operator)
            run.writes_after_restart = dict(self.audit.writes(mark))
            run.restart_cpu_seconds = operator.cpu_seconds()
            run.restart_peak_memory_mib = operator.peak_memory_mib()
        await self._clear(namespace, objects)
        return run

    async def sample(self) -> list[Manifest]:
        """The Deployment and the Service that the operator makes, to be made without it."""
        namespace = "sample"
        await make_namespace(self.api, namespace)
        with operators.running(self.plane.operator_kubeconfig, self.logs / "sample.log"):
            await self.api.create(namespace, "llmdeployments", llmdeployment(SAMPLE, self.spec))

            async def ready() -> bool:
                return is_ready(await self.api.get(namespace, "llmdeployments", SAMPLE) or {})

            await until("the sample is Ready", ready, seconds=120)
            found = [await self.api.get(namespace, plural, SAMPLE) for plural in ("deployments", "services")]
        await self._clear(namespace, 1)
        return [as_declared(one) for one in found if one is not None]

    async def _rollout(
        self,
        namespace: str,
        plural: str,
        names: Sequence[str],
        make: Callable[[str], Coroutine[Any, Any, None]],
        operator: Operator | None = None,
    ) -> Rollout:
        is_done = is_available if operator is None else is_ready
        progress = Progress(f"{namespace} {plural}", len(names), is_done)
        meter = Meter(self.plane.workdir, None if operator is None else operator.pid)
        made: dict[str, float] = {}

        async def make_one(name: str) -> None:
            await make(name)
            made[name] = time.monotonic()

        async with asyncio.timeout(max(300, len(names))), aclosing(self.api.watch(namespace, plural)) as events:
            await anext(events)
            progress.started = time.monotonic()
            async with asyncio.TaskGroup() as group:
                telling = group.create_task(progress.tell(_nothing if operator is None else operator.fail_if_ended))
                group.create_task(in_parallel(make_one(name) for name in names))
                async for event in events:
                    if progress.note(event):
                        break
                cpu = meter.cpu()
                telling.cancel()
        return _summary(progress, made, cpu)

    async def _at_rest(self, rollout: Rollout, operator: Operator, mark: int) -> OperatorRun:
        ready = self.audit.mark()
        await self._quiet(operator)
        requests, after, rest = self.audit.requests(mark), self.audit.writes(ready), self.audit.mark()
        used = operator.cpu_seconds()
        say(f"  ... at rest for {REST_SECONDS:.0f} s")
        await asyncio.sleep(REST_SECONDS)
        return OperatorRun(
            rollout=rollout,
            requests=dict(requests),
            watch_events=operator.watch_events(),
            writes_after=dict(after),
            writes_at_rest=dict(self.audit.writes(rest)),
            rest_cpu_seconds=round(operator.cpu_seconds() - used, 2),
            peak_memory_mib=round(operator.peak_memory_mib(), 1),
            cpu_seconds=round(operator.cpu_seconds(), 2),
        )

    async def _quiet(self, operator: Operator) -> None:
        """Until the operator has done what it still had to do: hardly any CPU, and no request that writes."""
        deadline = time.monotonic() + QUIET_AT_MOST_SECONDS
        while time.monotonic() < deadline:
            mark, used = self.audit.mark(), operator.cpu_seconds()
            await asyncio.sleep(QUIET_SECONDS)
            if not self.audit.writes(mark) and operator.cpu_seconds() - used < 0.05 * QUIET_SECONDS:
                return
        say(f"  ! the operator is not at rest after {QUIET_AT_MOST_SECONDS:.0f} s")

    async def _clear(self, namespace: str, objects: int) -> None:
        """Delete all, and wait until the control plane has nothing left to do with it."""
        for plural in ("llmdeployments", "deployments", "services"):
            await self.api.delete_all(namespace, plural)
        said = time.monotonic()

        async def gone() -> bool:
            nonlocal said
            plurals = ("llmdeployments", "deployments", "services", "replicasets", "controllerrevisions", "pods")
            left = {plural: await self.api.count(namespace, plural) for plural in plurals}
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                say(f"  ... {namespace}: still there: {', '.join(f'{n} {p}' for p, n in left.items() if n)}")
            return not any(left.values())

        await until(f"{namespace} is empty", gone, seconds=max(180, objects), every=1)
        await self.api.request("DELETE", f"/api/v1/namespaces/{namespace}")
        await asyncio.sleep(QUIET_SECONDS)

    def _profile(self, label: str) -> Path | None:
        if not self.profile:
            return None
        return self.logs / f"{label}.{'raw' if operators.sampler() else 'prof'}"


def _nothing() -> None:
    """No operator, nothing to check."""


def _summary(progress: Progress, made: dict[str, float], cpu: dict[str, float]) -> Rollout:
    # An object can be done before the answer to its create has been read.
    waits = [max(0.0, progress.done[name] - when) for name, when in made.items()]
    return Rollout(
        objects=len(made),
        seconds=round(max(progress.done.values()) - progress.started, 2),
        created_seconds=round(max(made.values()) - progress.started, 2),
        half_seconds=round(statistics.median(progress.done.values()) - progress.started, 2),
        median_seconds=round(statistics.median(waits), 2),
        worst_seconds=round(max(waits), 2),
        cpu=cpu,
        events=progress.events,
    )


def names_of(prefix: str, objects: int) -> list[str]:
    """Short ones: pods add to them."""
    return [f"{prefix}-{number:04d}" for number in range(objects)]


def is_available(deployment: Manifest) -> bool:
    """Whether every replica of the declared template is available."""
    status, declared = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return bool(seen and status.get("updatedReplicas") == declared == status.get("availableReplicas"))


def is_ready(parent: Manifest) -> bool:
    """Whether Ready is True about the newest generation."""
    for one in parent.get("status", {}).get("conditions", []):
        if one["type"] == "Ready" and one["observedGeneration"] == parent["metadata"]["generation"]:
            return bool(one["status"] == "True")
    return False


def llmdeployment(name: str, spec: Manifest) -> Manifest:
    """What a user writes."""
    return {
        "apiVersion": "llm.carepath.ai/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"mode": "mock", **spec},
    }


def as_declared(live: Manifest) -> Manifest:
    """A child without what the API server put in, and without its owner."""
    metadata, spec = live["metadata"], dict(live["spec"])
    for assigned in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        spec.pop(assigned, None)
    annotations = {
        key: value for key, value in metadata.get("annotations", {}).items() if not key.startswith("deployment.")
    }
    kept = {"name": metadata["name"], "labels": metadata.get("labels", {}), "annotations": annotations}
    return {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": kept, "spec": spec}


def named(manifest: Manifest, name: str) -> Manifest:
    """The sample under another name: in labels and selectors too."""
    renamed: Manifest = json.loads(json.dumps(manifest).replace(SAMPLE, name))
    return renamed


async def measure(arguments: argparse.Namespace, plane: Plane, logs: Path) -> list[Comparison]:
    """All N, one after the other."""
    async with connected(plane.kubeconfig) as api:
        spec = await _spec(api, arguments.soak)
        bench = Bench(plane, api, Audit(plane.audit_log), logs, spec, arguments.profile)
        say("==> What the operator makes")
        sample = await bench.sample()
        comparisons = []
        for objects in arguments.objects:
            comparisons.append(await _compare(bench, objects, arguments.rounds, sample))
            say(table(comparisons))
        return comparisons


async def _compare(bench: Bench, objects: int, rounds: int, sample: Sequence[Manifest]) -> Comparison:
    comparison = Comparison(objects)
    for number in range(rounds):
        say(f"==> {objects} objects, round {number + 1} of {rounds}")
        comparison.baselines.append(await bench.baseline(objects, f"{objects}-{number}-before", sample))
        _say_rollout("baseline", comparison.baselines[-1])
        comparison.runs.append(await bench.with_operator(objects, f"{objects}-{number}"))
        _say_rollout("operator", comparison.runs[-1].rollout)
    if objects <= SMALL:
        comparison.baselines.append(await bench.baseline(objects, f"{objects}-after", sample))
        _say_rollout("baseline", comparison.baselines[-1])
    return comparison


def _say_rollout(what: str, rollout: Rollout) -> None:
    cpu = ", ".join(f"{program} {seconds:.1f}" for program, seconds in sorted(rollout.cpu.items()) if seconds >= 0.1)
    say(
        f"  {what}: {rollout.seconds:.1f} s (half after {rollout.half_seconds:.1f} s, "
        f"all created after {rollout.created_seconds:.1f} s; one takes "
        f"{rollout.median_seconds:.1f} s, at most {rollout.worst_seconds:.1f} s); CPU seconds: {cpu}"
    )


async def _spec(api: Api, soak: float) -> Manifest:
    """The part of the spec that the run asks for; soaking time is left out where the CRD does not know it."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llmdeployments.llm.carepath.ai"
    crd = await api.request("GET", path)
    known = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    if "rollout" in known:
        return {"rollout": {"soakSeconds": soak}}
    if soak:
        say("  ! the CRD has no spec.rollout: --soak is left out")
    return {}


def table(comparisons: Sequence[Comparison]) -> str:
    """The result for people."""
    head = ("N", "baseline s", "operator s", "ratio", "half s", "half ratio", "CPU ratio", "operator CPU s", "peak MiB",
            "requests each",
            "writes each", "writes at rest", "after restart", "restart CPU s", "bench CPU", "others' CPU")  # fmt: skip
    rows = [head, *(_row(one) for one in comparisons)]
    return "\n".join(["", aligned(rows), *(_requests(one) for one in comparisons), ""])


def _row(comparison: Comparison) -> tuple[str, ...]:
    run = comparison.runs[-1]
    writes = sum(count for what, count in run.requests.items() if is_write(what))
    share = run.rollout.cpu["bench"] / run.rollout.seconds / (os.cpu_count() or 1)
    return (
        str(comparison.objects),
        " ".join(f"{one.seconds:.1f}" for one in comparison.baselines),
        " ".join(f"{one.rollout.seconds:.1f}" for one in comparison.runs),
        f"{comparison.ratio:.2f}",
        f"{statistics.median(one.half_seconds for one in comparison.baselines):.1f} → {run.rollout.half_seconds:.1f}",
        f"{comparison.half_ratio:.2f}",
        f"{comparison.cpu_ratio:.2f}",
        f"{run.rollout.cpu['operator']:.1f}",
        f"{run.peak_memory_mib:.0f}",
        f"{sum(run.requests.values()) / comparison.objects:.1f}",
        f"{writes / comparison.objects:.1f}",
        str(sum(run.writes_at_rest.values())),
        str(sum(run.writes_after_restart.values())),
        f"{run.restart_cpu_seconds:.1f}",
        f"{100 * share:.0f} %",
        f"{100 * comparison.others_share:.0f} %",
    )


def _requests(comparison: Comparison) -> str:
    run = comparison.runs[-1]
    each = sorted(run.requests.items(), key=lambda item: -item[1])
    asked = ", ".join(f"{what} {count / comparison.objects:.2f}" for what, count in each if count > 1)
    events = ", ".join(f"{what} {count / comparison.objects:.1f}" for what, count in run.watch_events.items())
    return f"N={comparison.objects}, requests per object: {asked}" + (f"; watch events: {events}" if events else "")


def save(comparisons: Sequence[Comparison], folder: Path, arguments: argparse.Namespace) -> Path:
    """All figures as JSON."""
    document = {
        "arguments": vars(arguments),
        "commit": _commit(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "comparisons": [
            {
                **asdict(one),
                "ratio": round(one.ratio, 3),
                "half_ratio": round(one.half_ratio, 3),
                "cpu_ratio": round(one.cpu_ratio, 3),
            }
            for one in comparisons
        ],
    }
    path = folder / "operator_scale.json"
    path.write_text(json.dumps(document, indent=2))
    return path


def _commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def main(words: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[100, 500, 2000], metavar="N")
    parser.add_argument("--rounds", type=int, default=1, help="measure each N so often, baseline and operator in turn")
    parser.add_argument("--soak", type=int, default=0, metavar="SECONDS", help="spec.rollout.soakSeconds, of both")
    parser.add_argument(
        "--profile", action="store_true", help="profile the operator: py-spy if on the PATH, or cProfile"
    )
    arguments = parser.parse_args(words)
    folder = results_folder()
    nodes = math.ceil(max(arguments.objects) / PODS_PER_NODE)
    with failures_told(folder), control_plane(nodes=nodes) as plane:
        comparisons = asyncio.run(measure(arguments, plane, folder))
    print(table(comparisons))
    print(save(comparisons, folder, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
