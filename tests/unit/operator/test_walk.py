"""Random walks: whatever users, pods, clocks and crashes do, the promises hold at every single step.

Each walk is a list of events; hypothesis shrinks one that breaks a promise. The simulated cluster stands for
Kubernetes (simulation.py); plan and status are the real ones.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, currently_in_test_context, event, given, settings
from hypothesis import note as hypothesis_note
from hypothesis import strategies as st

from llm_operator.api.types import LLMDeploymentSpec, LLMDeploymentStatus
from llm_operator.core import names
from llm_operator.core.course import course
from llm_operator.core.judge import CONTACT_GRACE, is_rolled_out
from llm_operator.core.model import Apply, Forget, Judge, Observation, Plan, Record, Suspicion
from llm_operator.core.plan import plan
from llm_operator.core.revision import State, parse_revision
from llm_operator.core.status import build_status
from tests.unit.operator.builders import SETTINGS
from tests.unit.operator.simulation import BEHAVIOURS, FETCHES, FOR_EVER, Cluster, Conflict

IMAGES = ("a:1", "b:1", "c:1", "d:1")
DEADLINE, SOAK = 60, 10
# Model revisions are called after how their fetch ends.
MODELS = {name.replace(" ", "-"): name for name in FETCHES}
# Until the last deadline (doubled, for the declared revision and for the way back) and the budget's hour are over.
REST = 2 * 3600.0


def note(text: str) -> None:
    """Part of the story that is printed when a promise is broken."""
    if currently_in_test_context():
        hypothesis_note(text)


class Walker:
    """The operator's loop over the simulated cluster, and everything that must hold after each of its writes."""

    def __init__(self, behaviours: dict[str, str]) -> None:
        spec = {
            "mode": "mock",
            "image": "a:1",
            "replicas": 1,
            "rollout": {"progressDeadlineSeconds": DEADLINE, "soakSeconds": SOAK},
            "rollback": {},
        }
        self.cluster = Cluster(behaviour=behaviours, spec=spec, fetches=MODELS)
        self.suspicion: Suspicion | None = None
        self.due = 0.0
        self.dies_after: int | None = None
        self.older: Observation | None = None
        self.rejections: set[tuple[str, int]] = set()
        self.steady = 0  # Replicas that have been available and that nothing but the operator could have taken away.

    # One pass, as reconcile.py does it.

    def look(self) -> int:
        """One pass; returns how much it wrote."""
        observation = self._observe()
        stale, self.older = self.older, None
        if stale is not None and not plan(stale, SETTINGS).is_delicate(stale.parent):
            observation = replace(stale, suspicion=self.suspicion)
        decided = plan(observation, SETTINGS)
        self.suspicion = decided.suspicion
        self.due = self.cluster.now + (decided.look_again_after or FOR_EVER)
        try:
            return self._carry_out(observation, decided)
        except Conflict:
            # Somebody else was faster: look again, live.
            self.due = self.cluster.now
            return 0

    def _observe(self) -> Observation:
        return replace(self.cluster.observation(), suspicion=self.suspicion)

    def _carry_out(self, observation: Observation, decided: Plan) -> int:
        written = 0
        for action in decided.actions:
            if self.dies_after is not None and written >= self.dies_after:
                return self._die()
            self._check_before(action)
            self.cluster.write(action)
            self._check_after(action)
            written += 1
        if self.dies_after is not None:
            return self._die()
        after = replace(self.cluster.observation(), parent=observation.parent)
        status = build_status(after, decided.obstacle)
        LLMDeploymentStatus.model_validate(status, extra="forbid")
        self._check_told(after, status)
        if status != self.cluster.status:
            self.cluster.write_status(observation.parent.resource_version, status)
            written += 1
        return written

    def _die(self) -> int:
        """Die here and start anew without memory."""
        self.dies_after, self.suspicion, self.due = None, None, self.cluster.now
        return 1

    # The promises.

    def _check_before(self, action: Any) -> None:
        observation, spec = self.cluster.observation(), self.spec
        goes = course(observation, spec)
        if isinstance(action, Judge):
            old, new = parse_revision(action.live), parse_revision(self._judged(action))
            assert old is not None
            assert new is not None
            note(f"{self.cluster.now:.0f} {new.hash} {old.state} -> {new.verdict}")
            if new.state is State.REJECTED and action.model is None:
                assert old.state is State.CANDIDATE, "only an attempt is rejected, never what was good"
                assert new.hash == goes.desired, "nothing is blamed that is not declared"
                attempt = (new.hash, new.verdict.attempt)
                assert attempt not in self.rejections, "one verdict for one attempt"
                self.rejections.add(attempt)
                grace = observation.contact_since + CONTACT_GRACE
                assert observation.now >= grace, "nothing is judged right after an outage"
            if old.state is State.REJECTED and new.state is State.CANDIDATE:
                token = spec.rollback.retry_token
                assert token is not None
                assert token != old.verdict.retry_token, "a rejected revision is tried again only for a new token"
            if new.state is State.CANDIDATE and old.state is not State.CANDIDATE:
                self._check_budget(observation, new.hash)
        if isinstance(action, Record):
            new = parse_revision(action.manifest)
            assert new is not None
            note(f"{self.cluster.now:.0f} {new.hash} recorded {new.verdict.state}")
            if new.state is State.CANDIDATE:
                self._check_budget(observation, new.hash)
        if isinstance(action, Forget):
            good = None if goes.last_good is None else goes.last_good.hash
            assert names.revision_of(action.live) not in (goes.desired, goes.active, good)

    def _judged(self, action: Judge) -> Any:
        annotations = {**action.live["metadata"]["annotations"], names.VERDICT: action.annotation}
        return {**action.live, "metadata": {**action.live["metadata"], "annotations": annotations}}

    def _check_budget(self, observation: Observation, attempted: str) -> None:
        history = course(observation, self.spec).history
        serves = (observation.deployment or {}).get("status", {}).get("availableReplicas", 0)
        good = history.last_good()
        if good is not None and good.hash != attempted and serves and self.active != attempted:
            assert len(history.rollbacks(observation.now)) < self.spec.rollback.max_per_hour

    def _check_after(self, action: Any) -> None:
        if isinstance(action, Apply) and action.manifest["kind"] == "Deployment":
            goes = course(self.cluster.observation(), self.spec)
            applied = goes.history.get(names.revision_of(action.manifest))
            assert applied is not None, "what is applied is recorded"
            assert applied.template == action.manifest["spec"]["template"], "and applied word for word"
            assert not applied.waits, "nothing starts before its model is there"
            note(f"{self.cluster.now:.0f} applied {applied.hash} ({applied.state})")
            if applied.state is State.REJECTED:
                assert goes.last_good is None or not self.spec.rollback.enabled, "a rejected revision is not applied"

    def _check_told(self, observation: Observation, status: dict[str, Any]) -> None:
        conditions = {one["type"]: one for one in status["conditions"]}
        spec = observation.parent.spec
        assert isinstance(spec, LLMDeploymentSpec)
        goes = course(observation, spec)
        declared = goes.history.get(goes.desired)
        deployment = self.cluster.deployment
        assert not {"Stalled", "Reconciling"} <= conditions.keys()
        if conditions["Ready"]["status"] == "True" and spec.replicas:
            assert declared is not None
            assert declared.state is State.GOOD
            assert goes.active == goes.desired
            assert deployment is not None
            assert is_rolled_out(deployment)
        if conditions["Ready"]["status"] == "False":
            assert conditions.keys() & {"Stalled", "Reconciling"}
        if "RolledBack" in conditions:
            assert declared is not None
            assert declared.state is State.REJECTED
            assert goes.active != goes.desired

    def check_service(self) -> None:
        """Pods that answered are not taken away as long as the good revision itself is well."""
        ready = sum(1 for pod in self.cluster.pods if pod.ready_since(self.cluster.now) is not None)
        assert ready >= self.steady, f"{ready} pods answer at {self.cluster.now}, {self.steady} did"

    @property
    def spec(self) -> LLMDeploymentSpec:
        spec = self.cluster.parent().spec
        assert isinstance(spec, LLMDeploymentSpec)
        return spec

    @property
    def active(self) -> str | None:
        return names.revision_of(self.cluster.deployment)

    # Time.

    def pass_time(self, seconds: float) -> None:
        """Let the cluster and the operator do what they do until then."""
        end = self.cluster.now + seconds
        for _ in range(5000):
            self.act()
            moment = min(self.cluster.next_change(), self.due)
            if moment > end:
                break
            self.cluster.now = max(moment, self.cluster.now)
        else:
            raise AssertionError("it never comes to rest")
        self.cluster.now = end

    def act(self) -> None:
        """All that can be done at this moment; that must come to an end."""
        for _ in range(20):
            self.cluster.settle()
            self.check_service()
            if not self.look() and self.due > self.cluster.now:
                break
        else:
            raise AssertionError("the operator goes on writing although nothing changes")
        self._note_what_is_steady()

    def _note_what_is_steady(self) -> None:
        conditions = {one["type"]: one["status"] for one in self.cluster.status.get("conditions", [])}
        good = self.cluster.behaviour.get(self.cluster.spec["image"]) in ("good", "slow")
        told = self.cluster.status["observedGeneration"] == self.cluster.generation
        if told and conditions.get("Ready") == "True" and good and self.spec.rollout.strategy == "RollingUpdate":
            self.steady = max(self.steady, self.spec.replicas)


def take(walker: Walker, what: str, value: Any) -> None:
    """One event."""
    cluster = walker.cluster
    note(f"{cluster.now:.0f}: {what} {value}")
    match what:
        case "image":
            cluster.edit(image=value)
        case "model":
            cluster.edit(mode="qwen", cache={}, model={"revision": value})
        case "no model":
            cluster.edit(mode="mock")
        case "memory":
            cluster.edit(resources={"limits": {"memory": value}})
        case "replicas":
            walker.steady = min(walker.steady, value)
            cluster.edit(replicas=value)
        case "token" | "enabled" | "fallback" | "budget":
            key = {"token": "retryToken", "budget": "maxPerHour"}.get(what, what)
            cluster.edit(rollback={**cluster.spec["rollback"], key: value})
        case "strategy":
            walker.steady = 0
            cluster.edit(rollout={**cluster.spec["rollout"], "strategy": value})
        case "behaviour":
            walker.steady = 0
            cluster.change_behaviour(*value)
        case "die":
            walker.dies_after, walker.due = value, cluster.now
        case "forget":
            walker.suspicion, walker.due = None, cluster.now
        case "delete":
            walker.steady = 0
            _delete(walker, value)
        case "wipe":
            cluster.status = {"observedGeneration": -1}
        case "outage":
            cluster.now += value
            cluster.contact_since, walker.due = cluster.now, cluster.now
        case "behind":
            walker.older = walker._observe()
            cluster.settle()
            return
    walker.act()


def _delete(walker: Walker, value: str) -> None:
    cluster = walker.cluster
    if value == "revisions":
        cluster.revisions = {}
        # Their verdicts are gone with them.
        walker.rejections.clear()
    elif value == "jobs":
        cluster.jobs = {}
    else:
        setattr(cluster, value, None)


EVENTS = st.one_of(
    st.tuples(st.just("image"), st.sampled_from(IMAGES)),
    st.tuples(st.just("image"), st.sampled_from(IMAGES)),
    st.tuples(st.just("time"), st.sampled_from([1.0, 5.0, 15.0, 40.0, 100.0, 500.0, 4000.0])),
    st.tuples(st.just("time"), st.sampled_from([1.0, 5.0, 15.0, 40.0, 100.0, 500.0, 4000.0])),
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
    st.tuples(st.just("delete"), st.sampled_from(["deployment", "service", "revisions", "jobs", "claim"])),
    st.tuples(st.just("wipe"), st.none()),
    st.tuples(st.just("outage"), st.sampled_from([20.0, 600.0])),
    st.tuples(st.just("behind"), st.none()),
)
WALKS = st.lists(EVENTS, min_size=1, max_size=25)
WORLDS = st.fixed_dictionaries({image: st.sampled_from(sorted(BEHAVIOURS)) for image in IMAGES[1:]}).map(
    lambda others: {"a:1": "good", **others}
)


def walk(world: dict[str, str], events: list[tuple[str, Any]]) -> Walker:
    walker = Walker(world)
    walker.act()
    for what, value in events:
        if what == "time":
            note(f"{walker.cluster.now:.0f}: {value} s pass")
            walker.pass_time(value)
        else:
            take(walker, what, value)
    return walker


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(WORLDS, WALKS)
def test_whatever_happens_the_promises_hold_and_it_comes_to_rest(
    world: dict[str, str], events: list[tuple[str, Any]]
) -> None:
    walker = walk(world, events)
    # Images that flap or die late never come to rest, and their status says so each time.
    for image, behaviour in walker.cluster.behaviour.items():
        if behaviour in ("flap", "late"):
            walker.cluster.change_behaviour(image, "never")
            walker.steady = 0
    walker.pass_time(REST)
    written = walker.look()
    assert written == 0, "nothing is written at rest"
    check_at_rest(walker)


def check_at_rest(walker: Walker) -> None:
    cluster, spec = walker.cluster, walker.spec
    goes = course(cluster.observation(), spec)
    declared = goes.history.get(goes.desired)
    assert declared is not None
    ready = {one["type"]: one for one in cluster.status["conditions"]}["Ready"]
    event(f"at rest: {declared.state}, {ready['reason']}")
    match declared.state:
        case State.CANDIDATE:
            assert spec.replicas == 0
        case State.GOOD:
            assert goes.active == goes.desired
        case State.REJECTED if spec.rollback.enabled and goes.last_good is not None:
            assert goes.active == goes.last_good.hash
        case State.REJECTED:
            assert (
                cluster.behaviour[spec.image or ""] not in ("good", "slow")
                or spec.replicas == 0
                or (goes.target is not declared)
                or declared.waits
            ), "what is kept and works is good in the end"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.integers(1, 3), st.integers(0, 120))
def test_a_model_that_cannot_be_fetched_never_touches_what_serves(model: str, replicas: int, edited_at: float) -> None:
    walker = Walker({"a:1": "good"})
    walker.cluster.edit(replicas=replicas)
    walker.pass_time(200 + edited_at)
    uids, deployment = {pod.name for pod in walker.cluster.pods}, walker.cluster.deployment
    assert walker.steady == replicas
    take(walker, "model", model)
    walker.pass_time(DEADLINE * 4.0)
    ready = {one["type"]: one for one in walker.cluster.status["conditions"]}["Ready"]
    if MODELS[model] in ("brings", "slow", "flaky"):
        assert ready["status"] == "True"
        assert walker.cluster.status["cache"] == {"phase": "Ready", "percent": 100}
        return
    assert (ready["status"], ready["reason"]) == ("False", "RolledBack")
    assert {pod.name for pod in walker.cluster.pods} == uids
    assert walker.cluster.deployment == deployment, "not a single write"
    assert walker.cluster.status["cache"]["phase"] == "Failed"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(set(BEHAVIOURS) - {"good", "slow"})), st.integers(1, 3), st.integers(0, 120))
def test_a_bad_change_is_always_rolled_back_and_costs_no_pod_that_serves(
    behaviour: str, replicas: int, edited_at: float
) -> None:
    walker = Walker({"a:1": "good", "b:1": behaviour})
    walker.cluster.edit(replicas=replicas)
    walker.pass_time(200 + edited_at)
    assert walker.steady == replicas
    uids = {pod.name for pod in walker.cluster.pods}
    walker.cluster.edit(image="b:1")
    walker.pass_time(DEADLINE * 4.0)
    assert {pod.name for pod in walker.cluster.pods} == uids, "the good pods are the very same"
    status = {one["type"]: (one["status"], one["reason"]) for one in walker.cluster.status["conditions"]}
    assert status["Ready"] == ("False", "RolledBack")
    assert status["Stalled"] == ("True", "RolledBack")
    assert status["Available"][0] == "True"
    rejected = walker.cluster.status["rejected"]
    assert [one["attempts"] for one in rejected] == [1]
    walker.cluster.edit(image="a:1")
    walker.act()
    ready = {one["type"]: one["status"] for one in walker.cluster.status["conditions"]}["Ready"]
    assert ready == "True", "the good spec is Ready at once"
    assert {pod.name for pod in walker.cluster.pods} == uids, "and restarts nothing"


def test_a_flapping_server_is_rejected_at_the_deadline_and_not_later() -> None:
    walker = Walker({"a:1": "good", "b:1": "flap"})
    walker.pass_time(100)
    walker.cluster.edit(image="b:1")
    walker.pass_time(DEADLINE + 1)
    assert walker.cluster.status["rejected"][0]["reason"] in ("ProgressDeadlineExceeded", "ProbeTimeout")


def test_the_clock_stands_still_for_what_was_left_aside() -> None:
    walker = Walker({"a:1": "good", "b:1": "slow"})
    walker.pass_time(100)
    walker.cluster.edit(image="b:1")
    walker.act()
    walker.cluster.edit(image="a:1")
    walker.pass_time(timedelta(hours=5).total_seconds())
    walker.cluster.edit(image="b:1")
    walker.pass_time(50)
    assert {one["type"]: one["status"] for one in walker.cluster.status["conditions"]}["Ready"] == "True"
