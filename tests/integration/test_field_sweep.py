"""Every field of the spec, with every kind of value, and back: the API server refuses it, or the operator follows.

The values come from the CRD's schema: the bounds, the other words of an enum, the longest and the shortest text,
nothing at all, and what is not allowed. After the way back everything is as it was in the beginning.
"""

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import ROOT, ControlPlane, running_operator
from tests.integration.subject import REVISION, new_namespace, rollout
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, eventually

Schema = dict[str, Any]
Path_ = tuple[str | int, ...]  # keys and indices, from the spec on
NOTHING: Any = object()  # the field is taken out
MAP_KEY = "example.com/key"

EXPRESSION = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
LABELS = {"matchLabels": {"team": "none"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
TERM = {"labelSelector": LABELS, "topologyKey": "kubernetes.io/hostname"}
POD_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [TERM],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "podAffinityTerm": TERM}],
}
AFFINITY: Manifest = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [EXPRESSION]}]},
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 5, "preference": {"matchExpressions": [EXPRESSION]}}
        ],
    },
    "podAffinity": POD_AFFINITY,
    "podAntiAffinity": POD_AFFINITY,
}
# Where a pod may fare otherwise. For the other fields none is started: Kubernetes' own controllers take their time.
WITH_PODS = ("mode", "replicas", "image", "priorityClassName", "rollout", "rollback")
# Of one claim these do not change there and back: tests/integration/test_crd.py.
FIXED = {("cache", "size"), ("cache", "storageClassName"), ("cache", "accessModes")}
# Below these stand only fields that are somewhere else too.
REPEATED = {"podAntiAffinity", "podAffinityTerm", "preference"}
# Every field there is. Nobody is to be scheduled by such an affinity: what has one runs nothing.
SEED: Manifest = {
    "mode": "mock",
    "replicas": 1,
    "image": "registry.example.com/server:1",
    "imagePullPolicy": "IfNotPresent",
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60}
    ],
    "affinity": AFFINITY,
    "priorityClassName": "sweep",
    # In the image: nothing is fetched where the mode is changed.
    "model": {
        "repository": "a/b",
        "revision": "v1",
        "source": "image",
        "tokenSecretRef": {"name": "token", "key": "value"},
        "endpoint": "https://hub.example.com",
        "memoryCheck": "Enforce",
        "fetchResources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
    },
    "generation": {
        "maxNewTokens": 512,
        "thinkingBudget": 256,
        "temperature": "0.7",
        "topP": "0.9",
        "topK": 20,
        "doSample": True,
    },
    "cache": {
        "claimName": "models",
        "size": "20Gi",
        "storageClassName": "shared",
        "accessModes": ["ReadWriteMany"],
        "deletionPolicy": "Retain",
        "prune": "Never",
    },
    "rollout": rollout(deadline=900),
    "rollback": {"enabled": True, "fallback": "None", "maxPerHour": 3, "retryToken": "one"},
}


@dataclass(frozen=True)
class Change:
    """A value for a field; `refused` if the schema rules it out."""

    path: Path_
    value: Any
    refused: bool

    @property
    def has_pods(self) -> bool:
        """Whether it is tried with a pod."""
        return self.path[0] in WITH_PODS

    def seed(self) -> Manifest:
        """The spec before."""
        if self.has_pods:
            return {key: value for key, value in SEED.items() if key != "affinity"}
        return {**SEED, "replicas": 0}

    def spec(self) -> Manifest:
        """The spec after."""
        spec = copy.deepcopy(self.seed())
        *way, last = self.path
        place: Any = spec
        for step in way:
            place = place[step]
        if self.value is NOTHING:
            del place[last]
        else:
            place[last] = self.value
        return spec

    def __str__(self) -> str:
        value = "nothing" if self.value is NOTHING else json.dumps(self.value)
        return f"{'.'.join(map(str, self.path))}: {value[:60]}"


def schema_of_spec() -> Schema:
    """From the CRD."""
    crd = yaml.safe_load((ROOT / "crds/llmdeployments.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def changes(schema: Schema, value: Any, path: Path_ = ()) -> Iterator[Change]:
    """All changes of a field and of those below it. Raises if the seed lacks one."""
    if path:
        yield from (Change(path, one, refused=False) for one in allowed(schema, value))
        yield from (Change(path, one, refused=True) for one in not_allowed(schema))
        yield Change(path, NOTHING, refused=False)
    properties = schema.get("properties", {})
    assert not properties or set(properties) == set(value), f"the seed lacks something at {path}"
    for name, below in properties.items():
        required = name in schema.get("required", [])
        for change in changes(below, value[name], (*path, name)):
            taken_out = change.value is NOTHING and change.path == (*path, name)
            yield Change(change.path, change.value, refused=change.refused or (taken_out and required))
    if isinstance(schema.get("items"), dict):
        yield from changes(schema["items"], value[0], (*path, 0))
    if isinstance(schema.get("additionalProperties"), dict):
        key = next(iter(value))
        yield from changes(schema["additionalProperties"], value[key], (*path, key))


def allowed(schema: Schema, value: Any) -> list[Any]:
    """Values within the schema; a rule may still refuse them."""
    if "enum" in schema:
        return [one for one in schema["enum"] if one != value]
    if schema.get("x-kubernetes-int-or-string"):
        return [0, "0.5", "999Pi"]
    match schema.get("type"):
        case "boolean":
            return [not value]
        case "integer":
            # A hundred pods would be the most.
            return [schema["minimum"], schema["maximum"] if value != SEED["replicas"] else 3]
        case "string":
            return ["a.b-c", "a" * min(schema["maxLength"], 63), "a" * schema["maxLength"], ""]
        case "array":
            return [[], [value[0]] * 2]
        case "object" if "additionalProperties" in schema:
            return [{}, {MAP_KEY: value[next(iter(value))]}]
        case _:
            return [{}]


def not_allowed(schema: Schema) -> list[Any]:
    """Values that the schema rules out."""
    if "enum" in schema:
        return ["nonsense", "", 1]
    if schema.get("x-kubernetes-int-or-string"):
        return [-1, "-1", "1e3", "1.0001", "much", "", 1.5, True, ["1"]]
    match schema.get("type"):
        case "boolean":
            return ["yes", 1]
        case "integer":
            return [schema["minimum"] - 1, schema["maximum"] + 1, 1.5, "one", True, 2**63]
        case "string":
            return ["a" * (schema["maxLength"] + 1), "../a", "a b\n", "-", 7, ["a"]]
        case "array":
            return ["text", {}, [{"nobody": "knows"}], [None]]
        case "object" if "additionalProperties" in schema:
            return [
                "text",
                [],
                {"not a key!": "a"},
                {f"k{number}": "1" for number in range(schema["maxProperties"] + 1)},
            ]
        case _:
            return ["text", [], {"nobody": "knows"}]


def chosen_changes() -> list[Change]:
    """Each field once: terms of pods and expressions have the same fields in several places; one is enough."""

    def is_repeated(change: Change) -> bool:
        return len(change.path) > 3 and bool(REPEATED & set(change.path))

    # The seed's other fields allow it no other effect.
    effects = [[{"operator": "Exists", "effect": effect}] for effect in ("NoSchedule", "PreferNoSchedule", "NoExecute")]
    found = [one for one in changes(schema_of_spec(), SEED) if not is_repeated(one)]
    return [*found, *(Change(("tolerations",), value, refused=False) for value in effects)]


CHANGES = chosen_changes()


def named(spec_of: Callable[[Change], Manifest], some: list[tuple[int, Change]]) -> str:
    """Manifests, as kubectl reads them."""
    # No List: that would be judged by kubectl, and as a whole.
    return "\n---\n".join(
        json.dumps({**an_llmdeployment(f"s{number}"), "spec": spec_of(change)}) for number, change in some
    )


def accepted(kubectl: Kubectl, some: list[tuple[int, Change]]) -> set[int]:
    """Which of the changes the API server takes, asked with strict validation and without an effect."""
    command = [kubectl.program, "--kubeconfig", str(kubectl.kubeconfig), "-n", kubectl.namespace]
    process = subprocess.run(
        [*command, "create", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "name"],
        input=named(Change.spec, some),
        capture_output=True,
        text=True,
        check=False,
    )
    problems = [line for line in process.stderr.splitlines() if "Timeout" in line or "Internal" in line]
    assert not problems, problems
    return {int(line.rpartition("/s")[2]) for line in process.stdout.split()}


@dataclass
class State:
    """What the operator made of an object."""

    parent: Manifest
    deployment: Manifest
    service: Manifest

    @property
    def reasons(self) -> dict[str, tuple[str, str]]:
        """Status and reason of each condition."""
        return {one["type"]: (one["status"], one["reason"]) for one in self.parent["status"]["conditions"]}

    def has_followed(self) -> bool:
        """Whether the newest spec was taken up."""
        return bool(self.parent["status"].get("observedGeneration") == self.parent["metadata"]["generation"])


def states(kubectl: Kubectl) -> dict[int, State]:
    """Of all objects whose children are there."""
    found: dict[str, dict[int, Manifest]] = {"LLMDeployment": {}, "Deployment": {}, "Service": {}}
    for one in kubectl.list("llmdeployments,deployments,services"):
        found[one["kind"]][int(one["metadata"]["name"][1:])] = one
    complete = set.intersection(*(set(some) for some in found.values()))
    return {number: State(*(found[kind][number] for kind in found)) for number in sorted(complete)}


def stable(service: Manifest) -> Manifest:
    """The spec of a Service without what the API server chose."""
    return {key: value for key, value in service["spec"].items() if not key.startswith("clusterIP")}


def check_followed(change: Change, state: State) -> None:
    """The children say what the spec says, and nobody complains."""
    reasons = {reason for _, reason in state.reasons.values()}
    assert not reasons & {"ApplyRefused", "DriftNotRepaired", "InvalidSpec", "NameConflict"}, (str(change), reasons)
    spec, status, deployment = state.parent["spec"], state.parent["status"], state.deployment["spec"]
    assert deployment["replicas"] == spec["replicas"], str(change)
    assert deployment["progressDeadlineSeconds"] == spec["rollout"]["progressDeadlineSeconds"], str(change)
    assert deployment.get("minReadySeconds", 0) == spec["rollout"]["soakSeconds"], str(change)
    assert deployment["strategy"]["type"] == spec["rollout"]["strategy"], str(change)
    assert state.deployment["metadata"]["annotations"][REVISION] == status["activeRevision"], str(change)
    if status.get("rejected"):
        return  # a change that brings no pod up may have been taken back meanwhile
    assert status["activeRevision"] == status["desiredRevision"], str(change)
    pod = deployment["template"]["spec"]
    assert pod["containers"][0]["image"] == spec.get("image", "registry.example.com/server:1"), str(change)
    assert pod["containers"][0]["imagePullPolicy"] == spec["imagePullPolicy"], str(change)
    for field in ("nodeSelector", "priorityClassName", "imagePullSecrets"):
        assert (pod.get(field) or None) == (spec.get(field) or None), (str(change), field)


def test_the_seed_has_every_field_and_the_changes_reach_all() -> None:
    touched = {tuple(step for step in change.path if isinstance(step, str)) for change in CHANGES}

    def paths(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, below in schema.get("properties", {}).items():
            yield (*path, name)
            yield from paths(below, (*path, name))
        if isinstance(schema.get("items"), dict):
            yield from paths(schema["items"], path)

    missing = {path for path in paths(schema_of_spec()) if path not in touched}
    assert {path for path in missing if not REPEATED & set(path)} == set()
    assert {change.refused for change in CHANGES} == {True, False}


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane) -> Iterator[Kubectl]:
    """kubectl in a namespace of its own."""
    found = new_namespace(control_plane)
    priority = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "sweep"},
        "value": 1,
    }
    found.apply(priority)
    yield found
    found("delete", "priorityclass", "sweep")
    found("delete", "namespace", found.namespace, "--wait=false")


@pytest.fixture(scope="module")
def taken(kubectl: Kubectl) -> set[int]:
    """The changes that the API server takes."""
    return accepted(kubectl, list(enumerate(CHANGES)))


def test_what_the_schema_rules_out_is_refused(taken: set[int]) -> None:
    assert [str(change) for number, change in enumerate(CHANGES) if change.refused and number in taken] == []


def test_a_quantity_that_the_api_server_would_cut_down_is_refused(kubectl: Kubectl) -> None:
    beyond = Change(("resources", "requests", "cpu"), "9" * 15 + "Pi", refused=True)
    assert accepted(kubectl, [(0, beyond)]) == set()


def test_no_field_has_one_value_only(taken: set[int]) -> None:
    """Else the sweep would prove nothing about it."""
    changed = {CHANGES[number].path for number in taken}
    stuck = {".".join(map(str, change.path)) for change in CHANGES if change.path not in changed}
    assert stuck == {"tolerations.0.effect"}


# With pods first: for the others nobody waits until Kubernetes' own controllers have come to them.
@pytest.mark.parametrize("with_pods", [True, False], ids=["with pods", "without"])
def test_every_change_is_followed_and_undone(
    kubectl: Kubectl, control_plane: ControlPlane, taken: set[int], tmp_path: Path, with_pods: bool
) -> None:
    some = [
        (number, CHANGES[number])
        for number in sorted(taken)
        if CHANGES[number].has_pods == with_pods and CHANGES[number].path[:2] not in FIXED
    ]
    log = tmp_path / "log"

    def replace(spec_of: Callable[[Change], Manifest]) -> None:
        """Again if a status came between: kubectl reads an object before it replaces it."""
        manifests = named(spec_of, some)
        eventually(lambda: kubectl("replace", "-f", "-", stdin=manifests), seconds=600)

    def all_followed(check: Callable[[int, State], None]) -> dict[int, State]:
        def look() -> dict[int, State]:
            found = states(kubectl)
            late = [
                str(CHANGES[number]) for number, _ in some if number not in found or not found[number].has_followed()
            ]
            assert not late, (len(late), late[:5])
            for number, _ in some:
                check(number, found[number])
            return found

        return eventually(look, seconds=600, every=3)

    def is_at_rest(number: int, state: State) -> None:
        if state.parent["spec"]["replicas"]:
            assert state.reasons["Ready"] == ("True", "AllReplicasReady"), (str(CHANGES[number]), state.reasons)

    def is_as_before(number: int, state: State) -> None:
        is_at_rest(number, state)
        first, what = before[number], str(CHANGES[number])
        assert state.deployment["spec"] == first.deployment["spec"], what
        assert state.deployment["metadata"]["labels"] == first.deployment["metadata"]["labels"], what
        assert stable(state.service) == stable(first.service), what
        assert state.reasons == first.reasons or not state.parent["spec"]["replicas"], what

    with running_operator(control_plane, log, LLMOP_NAMESPACES=kubectl.namespace):
        kubectl("create", "-f", "-", stdin=named(Change.seed, some))
        before = all_followed(is_at_rest)
        replace(Change.spec)
        all_followed(lambda number, state: check_followed(CHANGES[number], state))
        replace(Change.seed)
        all_followed(is_as_before)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [one for one in lines if one["level"] in ("ERROR", "CRITICAL")] == []
