"""What every step of a pass is given, and what it decides, as values. Pure."""

from dataclasses import dataclass, replace

from llm_operator.api.conditions import Cause
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.actions import Action, CreateRevision, SetVerdict
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.children.deployment import build_deployment
from llm_operator.core.model_cache.fetch_job import Fetch
from llm_operator.core.model_cache.known_models import find_cached_model
from llm_operator.core.model_cache.memory import too_small
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted, Observation, Settings, Suspicion
from llm_operator.core.revisions.history import History
from llm_operator.core.revisions.revision import Revision, new_revision
from llm_operator.core.revisions.state import State, Verdict
from llm_operator.core.revisions.target import RevisionTarget, choose_target

# Foreign objects carry no label of ours, so no event tells that one went away.
LOOK_FOR_CONFLICT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Situation:
    """What every step looks at; `target` as it will be once the steps before it have been carried out."""

    observation: Observation
    spec: LLMDeploymentSpec
    settings: Settings
    target: RevisionTarget
    fetch: Fetch | None

    def after(self, step: "Step") -> "Situation":
        """The situation once a step has been carried out."""
        if step.history is None:
            return self
        return replace(self, target=choose_target(self.observation, self.spec, step.history))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step decided, or several together.

    `history` is what the records will say, if that changes. `sets_verdict`: a record that was read is changed, so what
    follows from it is for the next pass; `records`: one is made.
    """

    actions: tuple[Action, ...] = ()
    history: History | None = None
    sets_verdict: bool = False
    records: bool = False
    waits: tuple[float, ...] = ()
    suspicion: Suspicion | None = None

    @property
    def writes_records(self) -> bool:
        """Whether a revision's record is made or changed."""
        return self.records or self.sets_verdict

    def __add__(self, other: "Step") -> "Step":
        return Step(
            actions=self.actions + other.actions,
            history=other.history or self.history,
            sets_verdict=self.sets_verdict or other.sets_verdict,
            records=self.records or other.records,
            waits=self.waits + other.waits,
            suspicion=other.suspicion or self.suspicion,
        )


NOTHING = Step()


def record(at: Situation, spec: LLMDeploymentSpec, *, name: str, verdict: Verdict) -> Step:
    """A record of what is declared, rendered today; with its model, if that is known to be in the claim."""
    number, parent = at.target.history.next_number(), at.observation.parent
    revision = new_revision(parent, spec, at.settings, name=name, number=number, verdict=verdict)
    model = find_cached_model(at.target.history, spec, at.observation.claim) if revision.needs_model else None
    fits = model is not None and too_small(spec, model) is None
    return create_record(at, revision.judged(verdict, model) if fits else revision)


def create_record(at: Situation, revision: Revision) -> Step:
    """The record of a revision that has none."""
    history = at.target.history.with_record(revision.live)
    return Step((CreateRevision(revision.live),), history=history, records=True)


def set_verdict(
    at: Situation,
    revision: Revision,
    verdict: Verdict,
    outcome: Cause | None = None,
    model: CachedModel | None = None,
) -> Step:
    """Another verdict on a revision that is recorded; with its model, once that is there."""
    judged = revision.judged(verdict, model)
    annotations = judged.live["metadata"]["annotations"]
    pin = None if model is None else annotations[names.MODEL]
    rejects = verdict.state is State.REJECTED and revision.state is not State.REJECTED
    rolls_back = rejects and len(verdict.rollbacks) > len(revision.verdict.rollbacks)
    action = SetVerdict(revision.live, annotations[names.VERDICT], outcome, rejects, rolls_back, pin)
    return Step((action,), history=at.target.history.with_record(judged.live), sets_verdict=True)


def accepted(at: Situation, kind: str, revision: Revision | None) -> Accepted:
    """What admission is known to make of a child: as this process saw it last, or as it is recorded."""
    seen = at.observation.admitted.get(kind)
    if seen is not None and seen.revision == (None if revision is None else revision.hash):
        return seen.accepted
    return {} if revision is None else revision.admitted


def declared_deployment(at: Situation, revision: Revision) -> Manifest:
    """The Deployment of a revision, with the replicas and the roll-out that are declared now."""
    return build_deployment(
        at.observation.parent,
        replicas=at.spec.replicas,
        rollout=at.spec.rollout,
        revision=revision.hash,
        template=revision.template,
    )
