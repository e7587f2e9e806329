"""The operator's loop over a simulated namespace, and everything that must hold after each of its writes.

Plan, status and Actor are the real ones, and so is the client, which talks to the simulated API server over a socket.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from hypothesis import currently_in_test_context
from hypothesis import note as hypothesis_note

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec, LLMDeploymentStatus
from llm_operator.core import names
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Admitted, Observation, Suspicion
from llm_operator.core.planner import plan
from llm_operator.core.revisions.revision import Revision, parse_revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import RevisionTarget, choose_target
from llm_operator.core.revisions.verdict import CONTACT_GRACE
from llm_operator.core.status.conditions import build_status
from llm_operator.kube import ApiError
from tests.unit.operator.builders import SETTINGS
from tests.unit.operator.operator_at_work import Hands
from tests.unit.operator.simulated_api import Write
from tests.unit.operator.simulated_pods import FOR_EVER, GOOD, Pod
from tests.unit.operator.simulation import FETCHES, NORMALISE, RESTARTED_AT, Backup, Cluster

DEADLINE, SOAK = 60, 10
# Model revisions are called after how their fetch ends.
MODELS = {name.replace(" ", "-"): name for name in FETCHES}
# After this long everything is looked at, whatever was missed.
RESYNC = 300.0
# Refused, or not answered: the next try, once a few have failed.
RETRY = 20.0
FUTILE = (Reason.APPLY_REFUSED, Reason.DRIFT_NOT_REPAIRED)
FIRST = "triage"
# What keeps pods of such an image from being ready may pass.
PASSING = (*GOOD, "never", "no registry")
# Words with which a pod is refused that only an edit can mend.
CLEAR = ("policy", "forbidden")


def note(text: str) -> None:
    """Part of the story that is printed when a promise is broken."""
    if currently_in_test_context():
        hypothesis_note(text)


@dataclass
class Memory:
    """What the loop knows of one LLMDeployment."""

    suspicion: Suspicion | None = None
    # What admission made of the last writes.
    admitted: Mapping[str, Admitted] = field(default_factory=dict)
    due: float = 0.0
    older: Observation | None = None
    # Until then no event of it is heard.
    deaf_until: float = 0.0
    # Replicas that have been available and that nothing but the operator could have taken away.
    steady: int = 0


class Walker:
    """Looks at each LLMDeployment whenever something may have changed, as controller.py and reconcile.py do."""

    def __init__(self, hands: Hands, behaviours: dict[str, str], *others: str) -> None:
        self.hands = hands
        self.cluster = Cluster(behaviour=behaviours, fetches=MODELS)
        self.known: dict[str, Memory] = {}
        self.rejections: set[tuple[str, str, int]] = set()
        # How many pods answered when an attempt began.
        self.served: dict[tuple[str, str], int] = {}
        self.backup: Backup | None = None
        self.dies = False
        self.applied: set[str] = set()  # Whose Deployment was written in this pass.
        self.cluster.api.about_to, self.cluster.api.done = self._check_before, self._check_after
        for name in (FIRST, *others):
            self.install(name)

    def install(self, name: str) -> None:
        """A user applies another LLMDeployment."""
        rollout = {"progressDeadlineSeconds": DEADLINE, "soakSeconds": SOAK}
        spec = {"mode": "mock", "image": "a:1", "replicas": 1, "rollout": rollout, "rollback": {}}
        self.cluster.install(name, spec)
        self.known[name] = Memory()

    @property
    def triage(self) -> Memory:
        """What is known of the first."""
        return self.known[FIRST]

    def spec(self, name: str = FIRST) -> LLMDeploymentSpec:
        return self.cluster.spec_of(name)

    def status(self, name: str = FIRST) -> Manifest:
        """The status as it is stored."""
        found: Manifest = self.cluster.live(name)["status"]
        return found

    def conditions(self, name: str = FIRST) -> dict[str, Manifest]:
        """The conditions as they are stored."""
        return {one["type"]: one for one in self.status(name).get("conditions", [])}

    def pods(self, name: str = FIRST) -> set[str]:
        """The server pods by name."""
        return {pod.name for pod in self.cluster.workloads[name].pods}

    def target(self, name: str) -> RevisionTarget:
        return choose_target(self.cluster.observation(name), self.spec(name))

    # One pass, as reconcile.py does it.

    def look(self, name: str) -> int:
        """One pass; returns how much it wrote."""
        memory = self.known[name]
        observation = self.observe(name)
        stale, memory.older = memory.older, None
        if stale is not None and not plan(stale, SETTINGS).is_delicate(stale.parent):
            observation = replace(stale, suspicion=memory.suspicion, admitted=memory.admitted)
        decided = plan(observation, SETTINGS)
        memory.suspicion = decided.suspicion
        memory.due = self.cluster.now + (decided.look_again_after or FOR_EVER)
        before = self.cluster.api.writes
        try:
            outcome = self.hands.carry_out(self.cluster.api, observation, decided)
            memory.admitted = outcome.observation.admitted
            if outcome.obstacle is not None and outcome.obstacle.reason in FUTILE:
                memory.due = min(memory.due, self.cluster.now + RETRY)
            self._tell(name, outcome.observation, outcome.obstacle)
        except ApiError as error:
            # Somebody else was faster: look again, live.
            memory.due = self.cluster.now + (0.0 if error.status == 409 else RETRY)
        self._raise_what_broke()
        if self.dies:
            self._begin_anew()
        self._check_applied(name)
        return self.cluster.api.writes - before

    def observe(self, name: str) -> Observation:
        memory = self.known[name]
        return replace(self.cluster.observation(name), suspicion=memory.suspicion, admitted=memory.admitted)

    def _tell(self, name: str, observation: Observation, obstacle: Cause | None) -> None:
        status = build_status(observation, obstacle)
        LLMDeploymentStatus.model_validate(status, extra="forbid")
        self._check_told(observation, status)
        if status != self.status(name):
            self.hands.write_status(self.cluster.api, observation, status)

    def _raise_what_broke(self) -> None:
        if self.cluster.api.broken is not None:
            raise self.cluster.api.broken

    def die_after(self, writes: int) -> None:
        """The process ends after so many writes of its next pass."""
        self.dies, self.cluster.api.dies_after = True, self.cluster.api.writes + writes
        self.wake()

    def _begin_anew(self) -> None:
        """A new process knows nothing."""
        self.dies, self.cluster.api.dies_after = False, None
        self.applied.clear()
        for memory in self.known.values():
            memory.suspicion, memory.older, memory.due, memory.deaf_until = None, None, self.cluster.now, 0.0
            memory.admitted = {}

    def restore(self, backup: Backup) -> None:
        """etcd is restored from a backup, and everything is listed anew."""
        self.cluster.restore(backup)
        self.rejections = set()
        for name, memory in self.known.items():
            memory.steady, memory.older, memory.due = 0, None, self.cluster.now
            rejected = self.target(name).history.rejected()
            self.rejections |= {(name, one.hash, one.verdict.attempt) for one in rejected}

    def lift_what_can_pass(self) -> None:
        """There is room, nothing is refused, and what the sidecar needs is there."""
        cluster = self.cluster
        cluster.capacity, cluster.quota, cluster.refusals, cluster.forbidden_images = None, None, {}, frozenset()
        cluster.away = tuple((begin, min(end, cluster.now)) for begin, end in cluster.away)

    def wake(self) -> None:
        """Have everything looked at."""
        for memory in self.known.values():
            memory.due = self.cluster.now

    # The promises.

    def _check_before(self, write: Write) -> None:
        if write.plural == "controllerrevisions":
            name = (write.new or write.old or {})["metadata"]["labels"][names.INSTANCE]
            old = None if write.old is None else parse_revision(write.old)
            new = None if write.new is None else parse_revision(write.new)
            if new is not None:
                self._check_verdict(name, old, new)
            else:
                assert old is not None
                target = self.target(name)
                good = None if target.last_good is None else target.last_good.hash
                assert old.hash not in (target.desired, target.active, good), "what is needed is kept"

    def _check_verdict(self, name: str, old: Revision | None, new: Revision) -> None:
        observation, spec = self.cluster.observation(name), self.spec(name)
        target = choose_target(observation, spec)
        note(f"{self.cluster.now:.0f} {name} {new.hash} {old and old.state} -> {new.verdict}")
        rejected = new.state is State.REJECTED and (old is None or old.state is not State.REJECTED)
        pinned = old is not None and old.model is None and new.model is not None
        if rejected and not pinned:
            assert old is not None
            assert old.state is State.CANDIDATE, "only an attempt is rejected, never what was good"
            assert new.hash == target.desired, "nothing is blamed that is not declared"
            attempt = (name, new.hash, new.verdict.attempt)
            assert attempt not in self.rejections, "one verdict for one attempt"
            self.rejections.add(attempt)
            assert observation.now >= observation.contact_since + CONTACT_GRACE, "nothing is judged after an outage"
            self._check_deadline(name, old, new)
        if old is not None and old.state is State.REJECTED and new.state is State.CANDIDATE:
            asked, before = ((one.retry_token, one.terms, one.rollout) for one in (new.verdict, old.verdict))
            assert asked != before, "a rejected revision is tried again only for a new token, or on other terms"
        begins = old is None or old.verdict.started_at is None or old.state is not State.CANDIDATE
        if new.state is State.CANDIDATE and begins:
            pods = self.cluster.workloads[name].pods
            self.served[name, new.hash] = sum(1 for pod in pods if self._serves(pod))
        if new.state is State.CANDIDATE and (old is None or old.state is not State.CANDIDATE):
            self._check_budget(name, target, observation, new.hash)

    def _check_deadline(self, name: str, old: Revision, new: Revision) -> None:
        """What can pass condemns nobody before the deadline, and want of room nobody who serves as before."""
        cluster = self.cluster
        image = old.template["spec"]["containers"][0]["image"]
        harmless = cluster.behaviour.get(image, "good") in PASSING
        refused = any(what == "pods" and how in CLEAR for what, (how, _) in cluster.refusals.items())
        if not harmless or refused or old.needs_model or cluster.quota is not None:
            return
        since = old.verdict.progress_at
        assert since is not None
        assert cluster.time >= since + timedelta(seconds=DEADLINE), f"{new.verdict.reason} can pass"
        ready = sum(1 for pod in self._pods_of(name, old.hash) if cluster.is_available(name, pod))
        served = self.served.get((name, old.hash), 0)
        assert ready < max(1, served), f"{ready} serve, as {served} did before"

    def _pods_of(self, name: str, revision: str) -> list[Pod]:
        return [
            pod
            for pod in self.cluster.workloads[name].pods
            if names.revision_of(pod.manifest(self.cluster.now)) == revision
        ]

    def _serves(self, pod: Pod) -> bool:
        return pod.ready_since(self.cluster.now, self.cluster.away) is not None

    def _check_budget(self, name: str, target: RevisionTarget, observation: Observation, attempted: str) -> None:
        serves = (observation.deployment or {}).get("status", {}).get("availableReplicas", 0)
        good = target.last_good
        if good is not None and good.hash != attempted and serves and target.active != attempted:
            assert len(target.history.rollbacks(observation.now)) < self.spec(name).rollback.max_per_hour

    def _check_after(self, write: Write) -> None:
        if write.plural == "deployments" and write.new is not None:
            self.applied.add(write.new["metadata"]["name"])

    def _check_applied(self, name: str) -> None:
        deployment = self.cluster.api.get("deployments", name)
        if deployment is None or name not in self.applied:
            return
        self.applied.remove(name)
        target = self.target(name)
        applied = target.history.get(names.revision_of(deployment))
        assert applied is not None, "what is applied is recorded"
        assert self._is_as_recorded(applied, deployment["spec"]["template"]), "and applied word for word"
        assert not applied.needs_model, "nothing starts before its model is there"
        note(f"{self.cluster.now:.0f} {name} applied {applied.hash} ({applied.state})")
        if applied.state is State.REJECTED:
            enabled = self.spec(name).rollback.enabled
            assert target.last_good is None or not enabled, "a rejected revision is not applied"

    def _is_as_recorded(self, applied: Revision, template: Manifest) -> bool:
        """Whether a template is that of a revision, but for what admission makes of it.

        Two webhooks may have had their way: the first one's is accepted, and stays when the second one changes more.
        """
        annotations = {key: one for key, one in template["metadata"]["annotations"].items() if key != RESTARTED_AT}
        template = {**template, "metadata": {**template["metadata"], "annotations": annotations}}
        ways = [applied.template]
        for _ in range(2):
            ways += [self.cluster.changed_by_admission(one, how) for one in ways for how in NORMALISE]
        return template in ways

    def _check_told(self, observation: Observation, status: Manifest) -> None:
        conditions = {one["type"]: one for one in status["conditions"]}
        spec = observation.parent.spec
        assert isinstance(spec, LLMDeploymentSpec)
        target = choose_target(observation, spec)
        declared = target.history.get(target.desired)
        assert not {"Stalled", "Reconciling"} <= conditions.keys()
        if conditions["Ready"]["status"] == "True" and spec.replicas:
            assert declared is not None
            assert declared.state is State.GOOD
            assert target.active == target.desired
            assert observation.deployment is not None
            assert is_rolled_out(observation.deployment)
        if conditions["Ready"]["status"] == "False":
            assert conditions.keys() & {"Stalled", "Reconciling"}
        if "RolledBack" in conditions:
            assert declared is not None
            assert declared.state is State.REJECTED
            assert target.active != target.desired

    def check_service(self) -> None:
        """Pods that answered are not taken away as long as the good revision itself is well."""
        cluster = self.cluster
        for name, memory in self.known.items():
            pods = cluster.workloads[name].pods
            ready = sum(1 for pod in pods if self._serves(pod))
            assert ready >= memory.steady, f"{ready} pods of {name} answer at {cluster.now}, {memory.steady} did"

    def check_models(self) -> None:
        """What a recorded revision needs, whoever's, is not deleted from the volume."""
        claim = self.cluster.api.get("persistentvolumeclaims", "model-cache")
        for live in self.cluster.api.every("controllerrevisions"):
            revision = parse_revision(live)
            model = None if revision is None else revision.model
            if claim is not None and model is not None and model.claim == claim["metadata"]["uid"]:
                assert model.path.removeprefix("/models/") in self.cluster.volume, (
                    f"{live['metadata']['name']} needs it"
                )

    # Time.

    def pass_time(self, seconds: float) -> None:
        """Let the cluster and the operator do what they do until then."""
        end = self.cluster.now + seconds
        for _ in range(10_000):
            self.act()
            heard = [max(memory.due, self.cluster.now + 0.0) for memory in self.known.values()]
            deaf = [one.deaf_until for one in self.known.values() if one.deaf_until > self.cluster.now]
            moment = min([self.cluster.next_change(), *heard, *deaf])
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
            self.check_models()
            wrote = [self.look(name) for name in self.known if self._hears(name)]
            if not any(wrote) and all(memory.due > self.cluster.now for memory in self.known.values()):
                break
        else:
            raise AssertionError("the operator goes on writing although nothing changes")
        for name in self.known:
            # What was told before may be old.
            if self._hears(name):
                self._note_what_is_steady(name)

    def _hears(self, name: str) -> bool:
        memory = self.known[name]
        return self.cluster.now >= memory.deaf_until or memory.due <= self.cluster.now

    def _note_what_is_steady(self, name: str) -> None:
        spec, live = self.spec(name), self.cluster.live(name)
        ready = self.conditions(name).get("Ready", {}).get("status") == "True"
        told = live["status"]["observedGeneration"] == live["metadata"]["generation"]
        good = self.cluster.behaviour.get(spec.image or "") in GOOD
        if ready and told and good and spec.rollout.strategy == "RollingUpdate":
            memory = self.known[name]
            memory.steady = max(memory.steady, spec.replicas)
