"""Random walks: whatever users, pods, clocks, admission and crashes do, the promises hold at every single step.

Each walk is a list of events; hypothesis shrinks one that breaks a promise. The simulated cluster stands for
Kubernetes (simulation.py); plan, status and what carries them out are the real ones (walker.py).
"""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from llm_operator.core.revisions.state import State
from tests.unit.operator.operator_at_work import Hands
from tests.unit.operator.simulated_pods import BEHAVIOURS, GOOD
from tests.unit.operator.simulation import NORMALISE, REFUSALS
from tests.unit.operator.walker import FIRST, MODELS, Walker, note

IMAGES = ("a:1", "b:1", "c:1", "d:1")
SECOND = "second"
# Until the last deadline (doubled, for the declared revision and for the way back) and the budget's hour are over.
REST = 2 * 3600.0


def take(walker: Walker, name: str, what: str, value: Any) -> None:
    """One event."""
    if what == "nothing":
        return
    note(f"{walker.cluster.now:.0f}: {name}: {what} {value}")
    if what == "behind":
        walker.known[name].older = walker.observe(name)
        walker.cluster.settle()
        return
    if what in ("time", "a day"):
        walker.pass_time(value)
        return
    if what in SPEC_EVENTS:
        _edit(walker, name, what, value)
    elif what == "delete":
        _delete(walker, name, value)
    else:
        _happen(walker, name, what, value)
    walker.act()


SPEC_EVENTS = ("image", "model", "no model", "memory", "replicas", "token", "enabled", "fallback", "budget", "strategy")


def _edit(walker: Walker, name: str, what: str, value: Any) -> None:
    cluster, memory = walker.cluster, walker.known[name]
    spec = cluster.live(name)["spec"]
    match what:
        case "image":
            cluster.edit(name, image=value)
        case "model":
            cluster.edit(name, mode="qwen", cache={"prune": "Unused"}, model={"revision": value})
        case "no model":
            cluster.edit(name, mode="mock")
        case "memory":
            cluster.edit(name, resources={"limits": {"memory": value}})
        case "replicas":
            memory.steady = min(memory.steady, value)
            cluster.edit(name, replicas=value)
        case "token" | "enabled" | "fallback" | "budget":
            key = {"token": "retryToken", "budget": "maxPerHour"}.get(what, what)
            cluster.edit(name, rollback={**spec["rollback"], key: value})
        case "strategy":
            memory.steady = 0
            cluster.edit(name, rollout={**spec["rollout"], "strategy": value})


def _happen(walker: Walker, name: str, what: str, value: Any) -> None:
    cluster, memory = walker.cluster, walker.known[name]
    match what:
        case "behaviour":
            for one in walker.known.values():
                one.steady = 0
            cluster.change_behaviour(*value)
        case "die":
            walker.die_after(value)
        case "forget":
            memory.suspicion, memory.due = None, cluster.now
        case "deaf":
            memory.deaf_until = cluster.now + value
        case "wipe":
            cluster.wipe_status(name)
        case "restart":
            cluster.restart(name)
        case "scale":
            memory.steady = min(memory.steady, value)
            cluster.scale(name, value)
        case "capacity":
            cluster.capacity = value
        case "quota":
            cluster.quota = value
        case "refuse" | "refuse pods":
            cluster.refuse(*value)
        case "policy":
            cluster.forbidden_images = frozenset(value)
        case "normalise":
            cluster.normalises = value
        case "inject":
            cluster.injects = value
        case "sidecar away":
            cluster.away = (*cluster.away, (cluster.now, cluster.now + value))
            for one in walker.known.values():
                one.steady = 0
        case "backup":
            walker.backup = cluster.backup()
        case "restore" if walker.backup is not None:
            walker.restore(walker.backup)
        case "outage":
            cluster.now += value
            cluster.contact_since = cluster.now
            walker.wake()


def _delete(walker: Walker, name: str, what: str) -> None:
    cluster, api = walker.cluster, walker.cluster.api
    if what == "revisions":
        for one in cluster.revisions(name):
            api.remove("controllerrevisions", one["metadata"]["name"])
        # Their verdicts are gone with them.
        walker.rejections = {one for one in walker.rejections if one[0] != name}
        walker.known[name].steady = 0
    elif what == "jobs":
        for one in api.every("jobs"):
            api.remove("jobs", one["metadata"]["name"])
    elif what == "claim":
        for memory in walker.known.values():
            memory.steady = 0
        api.remove("persistentvolumeclaims", "model-cache")
    else:
        walker.known[name].steady = 0
        api.remove(what, name)


TIMES = {"time": st.sampled_from([1.0, 5.0, 15.0, 40.0, 100.0, 500.0, 4000.0])}
USERS = {
    "image": st.sampled_from(IMAGES),
    "model": st.sampled_from(sorted(MODELS)),
    "no model": st.none(),
    "memory": st.sampled_from(["1Gi", "16Gi"]),
    "replicas": st.integers(0, 3),
    "token": st.sampled_from(["1", "2", "3", None]),
    "enabled": st.booleans(),
    "fallback": st.sampled_from(["None", "Mock"]),
    "budget": st.sampled_from([1, 3, 60]),
    "strategy": st.sampled_from(["RollingUpdate", "Recreate"]),
    "delete": st.sampled_from(["deployments", "services", "revisions", "jobs", "claim"]),
}
MACHINES = {
    "behaviour": st.tuples(st.sampled_from(IMAGES), st.sampled_from(sorted(BEHAVIOURS))),
    "die": st.integers(0, 3),
    "forget": st.none(),
    "deaf": st.sampled_from([5.0, 300.0]),
    "wipe": st.none(),
    "outage": st.sampled_from([20.0, 600.0]),
    "behind": st.none(),
}
WRITES = ("deployments", "services", "controllerrevisions", "jobs", "persistentvolumeclaims", "llmdeployments/status")
PLACES = st.sampled_from([None, 1, 2, 3, 5])
HOWS, WHILES = st.sampled_from(sorted(REFUSALS)), st.sampled_from([5.0, 100.0, 1e9])
# What real clusters do besides, by the kind of it.
TROUBLES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    # Only after a day models are deleted.
    "none": {"a day": st.just(90_000.0)},
    "writes are refused": {
        "refuse": st.tuples(st.sampled_from(WRITES), HOWS, WHILES),
        "policy": st.sampled_from([(), ("b:1",), ("a:1",)]),
    },
    "writes are changed": {"normalise": st.sampled_from([None, *sorted(NORMALISE)])},
    "pods are refused": {"refuse pods": st.tuples(st.just("pods"), HOWS, WHILES)},
    "there is little room": {"capacity": PLACES, "quota": PLACES},
    "others scale": {"scale": st.integers(0, 3)},
    "etcd is restored": {"backup": st.none(), "restore": st.none()},
    "a sidecar is injected": {"inject": st.booleans(), "sidecar away": st.sampled_from([15.0, 45.0, 500.0])},
}
TROUBLES["all at once"] = {what: values for kinds in TROUBLES.values() for what, values in kinds.items()}


def happening(kinds: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Events of these kinds."""
    return st.one_of(*(st.tuples(st.just(what), values) for what, values in kinds.items()))


def walks(events: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Events, each of which happens to one of two LLMDeployments; those that do not matter shrink to nothing."""
    nothing = st.tuples(st.just("nothing"), st.none())
    return st.lists(st.tuples(st.sampled_from([FIRST, SECOND]), nothing | events), min_size=12, max_size=25)


# Edits and time twice: most of what happens.
OFTEN = {"image": USERS["image"], "model": USERS["model"], **TIMES}
ALL = happening(OFTEN) | happening(USERS) | happening({**MACHINES, **TIMES})
# One other image is good: what happens to good changes is half of the story.
WORLDS = st.fixed_dictionaries({image: st.sampled_from(sorted(BEHAVIOURS)) for image in IMAGES[2:]}).map(
    lambda others: {"a:1": "good", "b:1": "good", **others}
)


def walk(hands: Hands, world: dict[str, str], first: float, events: list[tuple[str, tuple[str, Any]]]) -> Walker:
    walker = Walker(hands, world, SECOND)
    # Half of what follows would otherwise happen before anything serves.
    walker.pass_time(first)
    for name, (what, value) in events:
        take(walker, name, what, value)
    return walker


# A machine that only runs tests has the time for more.
EXAMPLES = 40 if "CI" in os.environ else 8
# To explain a failure takes minutes, and the story is told by notes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.mark.parametrize("trouble", sorted(TROUBLES))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(data=st.data())
def test_whatever_happens_the_promises_hold_and_it_comes_to_rest(
    hands: Hands, trouble: str, data: st.DataObject
) -> None:
    kinds = TROUBLES[trouble]
    events = ALL | happening(kinds) | happening(kinds)
    walker = walk(hands, data.draw(WORLDS), data.draw(st.sampled_from([0.0, 20.0])), data.draw(walks(events)))
    come_to_rest(walker)
    for name in walker.known:
        check_at_rest(walker, name)


def come_to_rest(walker: Walker) -> None:
    """Whatever can pass has passed, and hours go by."""
    # Images that flap or die late never come to rest, and their status says so each time.
    for image, behaviour in walker.cluster.behaviour.items():
        if behaviour in ("flap", "late"):
            walker.cluster.change_behaviour(image, "never")
            for memory in walker.known.values():
                memory.steady = 0
    walker.lift_what_can_pass()
    walker.pass_time(REST)
    assert sum(walker.look(name) for name in walker.known) == 0, "nothing is written at rest"


def check_at_rest(walker: Walker, name: str) -> None:
    cluster, spec, target = walker.cluster, walker.spec(name), walker.target(name)
    declared = target.history.get(target.desired)
    assert declared is not None
    event(f"at rest: {declared.state}, {walker.conditions(name)['Ready']['reason']}")
    match declared.state:
        case State.CANDIDATE:
            assert spec.replicas == 0
        case State.GOOD:
            assert target.active == target.desired
        case State.REJECTED if spec.rollback.enabled and target.last_good is not None:
            assert target.active == target.last_good.hash
        case State.REJECTED:
            assert (
                cluster.behaviour[spec.image or ""] not in GOOD
                or spec.replicas == 0
                or (target.revision is not declared)
                or declared.needs_model
            ), "what is kept and works is good in the end"
