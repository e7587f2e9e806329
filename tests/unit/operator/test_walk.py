"""Random walks: whatever users, pods, clocks, admission and crashes do, the promises hold at every single step.

Each walk is a list of events; hypothesis shrinks one that breaks a promise. The simulated cluster stands for
Kubernetes (simulation.py); plan, status and what carries them out are the real ones (walker.py).
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from llm_operator.core.revision import State
from tests.unit.operator.operator_at_work import Hands, at_work
from tests.unit.operator.simulated_pods import BEHAVIOURS, GOOD
from tests.unit.operator.walker import DEADLINE, FIRST, MODELS, Walker, note

IMAGES = ("a:1", "b:1", "c:1", "d:1")
SECOND = "second"
# Until the last deadline (doubled, for the declared revision and for the way back) and the budget's hour are over.
REST = 2 * 3600.0


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    with at_work() as hands:
        yield hands


def take(walker: Walker, name: str, what: str, value: Any) -> None:
    """One event."""
    note(f"{walker.cluster.now:.0f}: {name}: {what} {value}")
    if what == "behind":
        walker.known[name].older = walker.observe(name)
        walker.cluster.settle()
        return
    if what == "time":
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


TIMES = st.tuples(st.just("time"), st.sampled_from([1.0, 5.0, 15.0, 40.0, 100.0, 500.0, 4000.0, 90_000.0]))
EVENTS = st.one_of(
    st.tuples(st.just("image"), st.sampled_from(IMAGES)),
    st.tuples(st.just("image"), st.sampled_from(IMAGES)),
    TIMES,
    TIMES,
    st.tuples(st.just("model"), st.sampled_from(sorted(MODELS))),
    st.tuples(st.just("model"), st.sampled_from(sorted(MODELS))),
    st.tuples(st.just("no model"), st.none()),
    st.tuples(st.just("memory"), st.sampled_from(["1Gi", "16Gi"])),
    st.tuples(st.just("replicas"), st.integers(0, 3)),
    st.tuples(st.just("token"), st.sampled_from(["1", "2", "3", None])),
    st.tuples(st.just("enabled"), st.booleans()),
    st.tuples(st.just("fallback"), st.sampled_from(["None", "Mock"])),
    st.tuples(st.just("budget"), st.sampled_from([1, 3, 60])),
    st.tuples(st.just("strategy"), st.sampled_from(["RollingUpdate", "Recreate"])),
    st.tuples(st.just("behaviour"), st.tuples(st.sampled_from(IMAGES), st.sampled_from(sorted(BEHAVIOURS)))),
    st.tuples(st.just("die"), st.integers(0, 3)),
    st.tuples(st.just("forget"), st.none()),
    st.tuples(st.just("deaf"), st.sampled_from([5.0, 300.0])),
    st.tuples(st.just("delete"), st.sampled_from(["deployments", "services", "revisions", "jobs", "claim"])),
    st.tuples(st.just("wipe"), st.none()),
    st.tuples(st.just("outage"), st.sampled_from([20.0, 600.0])),
    st.tuples(st.just("behind"), st.none()),
)
WALKS = st.lists(st.tuples(st.sampled_from([FIRST, SECOND]), EVENTS), min_size=1, max_size=25)
WORLDS = st.fixed_dictionaries({image: st.sampled_from(sorted(BEHAVIOURS)) for image in IMAGES[1:]}).map(
    lambda others: {"a:1": "good", **others}
)


def walk(hands: Hands, world: dict[str, str], events: list[tuple[str, tuple[str, Any]]]) -> Walker:
    walker = Walker(hands, world, SECOND)
    walker.act()
    for name, (what, value) in events:
        take(walker, name, what, value)
    return walker


# To explain a failure takes minutes, and the story is told by notes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(WORLDS, WALKS)
def test_whatever_happens_the_promises_hold_and_it_comes_to_rest(
    hands: Hands, world: dict[str, str], events: list[tuple[str, tuple[str, Any]]]
) -> None:
    walker = walk(hands, world, events)
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
    walker.pass_time(REST)
    assert sum(walker.look(name) for name in walker.known) == 0, "nothing is written at rest"


def check_at_rest(walker: Walker, name: str) -> None:
    cluster, spec, goes = walker.cluster, walker.spec(name), walker.course(name)
    declared = goes.history.get(goes.desired)
    assert declared is not None
    event(f"at rest: {declared.state}, {walker.conditions(name)['Ready']['reason']}")
    match declared.state:
        case State.CANDIDATE:
            assert spec.replicas == 0
        case State.GOOD:
            assert goes.active == goes.desired
        case State.REJECTED if spec.rollback.enabled and goes.last_good is not None:
            assert goes.active == goes.last_good.hash
        case State.REJECTED:
            assert (
                cluster.behaviour[spec.image or ""] not in GOOD
                or spec.replicas == 0
                or (goes.target is not declared)
                or declared.waits
            ), "what is kept and works is good in the end"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.integers(1, 3), st.integers(0, 120))
def test_a_model_that_cannot_be_fetched_never_touches_what_serves(
    hands: Hands, model: str, replicas: int, edited_at: float
) -> None:
    walker = Walker(hands, {"a:1": "good"})
    walker.cluster.edit(FIRST, replicas=replicas)
    walker.pass_time(200 + edited_at)
    pods, deployment = walker.pods(), walker.cluster.api.get("deployments", FIRST)
    assert walker.triage.steady == replicas
    take(walker, FIRST, "model", model)
    walker.pass_time(DEADLINE * 4.0)
    ready = walker.conditions()["Ready"]
    if MODELS[model] in ("brings", "slow", "flaky"):
        assert ready["status"] == "True"
        assert walker.status()["cache"] == {"phase": "Ready", "percent": 100}
        return
    assert (ready["status"], ready["reason"]) == ("False", "RolledBack")
    assert walker.pods() == pods
    assert walker.cluster.api.get("deployments", FIRST) == deployment, "not a single write"
    assert walker.status()["cache"]["phase"] == "Failed"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(set(BEHAVIOURS) - set(GOOD))), st.integers(1, 3), st.integers(0, 120))
def test_a_bad_change_is_always_rolled_back_and_costs_no_pod_that_serves(
    hands: Hands, behaviour: str, replicas: int, edited_at: float
) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": behaviour})
    walker.cluster.edit(FIRST, replicas=replicas)
    walker.pass_time(200 + edited_at)
    assert walker.triage.steady == replicas
    pods = walker.pods()
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(DEADLINE * 4.0)
    assert walker.pods() == pods, "the good pods are the very same"
    status = {kind: (one["status"], one["reason"]) for kind, one in walker.conditions().items()}
    assert status["Ready"] == ("False", "RolledBack")
    assert status["Stalled"] == ("True", "RolledBack")
    assert status["Available"][0] == "True"
    assert [one["attempts"] for one in walker.status()["rejected"]] == [1]
    walker.cluster.edit(FIRST, image="a:1")
    walker.act()
    assert walker.conditions()["Ready"]["status"] == "True", "the good spec is Ready at once"
    assert walker.pods() == pods, "and restarts nothing"


def test_a_flapping_server_is_rejected_at_the_deadline_and_not_later(hands: Hands) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": "flap"})
    walker.pass_time(100)
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(DEADLINE + 1)
    assert walker.status()["rejected"][0]["reason"] in ("ProgressDeadlineExceeded", "ProbeTimeout")


def test_the_clock_stands_still_for_what_was_left_aside(hands: Hands) -> None:
    walker = Walker(hands, {"a:1": "good", "b:1": "slow"})
    walker.pass_time(100)
    walker.cluster.edit(FIRST, image="b:1")
    walker.act()
    walker.cluster.edit(FIRST, image="a:1")
    walker.pass_time(timedelta(hours=5).total_seconds())
    walker.cluster.edit(FIRST, image="b:1")
    walker.pass_time(50)
    assert walker.conditions()["Ready"]["status"] == "True"
