"""Where an LLMDeployment stands and goes, by what is recorded now. Pure; planner and status use it."""

from dataclasses import dataclass

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.ownership import controls
from llm_operator.core.revisions.declaration import declaration
from llm_operator.core.revisions.history import BUDGET_WINDOW, History, read_history
from llm_operator.core.revisions.revision import Revision, asks_again, name_of
from llm_operator.core.revisions.state import State
from llm_operator.core.times import timestamp


@dataclass(frozen=True, slots=True)
class RevisionTarget:
    """The declared revision, the one applied, the one to run, and the one proved good last.

    `held_back` says why the declared one must wait, and `held_back_for` how many seconds. `fetches` is the declared
    one while its model has to be fetched before it can be run; `target` is then what runs meanwhile, if anything does.
    """

    history: History
    desired: str
    active: str | None
    target: Revision | None
    last_good: Revision | None
    budget_hold: Cause | None = None
    budget_hold_seconds: float | None = None
    fetches: Revision | None = None


def course(observation: Observation, spec: LLMDeploymentSpec) -> RevisionTarget:
    """Where it goes, by what is recorded now."""
    history = read_history(observation.parent, observation.revisions)
    desired = name_of(declaration(spec), history.revisions)
    active = names.revision_of(own_deployment(observation))
    last_good = history.last_good()
    budget_hold = _budget_hold(observation, spec, history, desired)
    target = history.get(desired)
    if budget_hold is not None:
        target = last_good
    elif target is not None and target.state is State.REJECTED and spec.rollback.enabled:
        target = last_good or _fallback(history, spec) or target
    fetches = None
    if target is not None and target.waits:
        fetches = target if target.hash == desired else None
        target = _meanwhile(history, active, last_good)
    cause, seconds = budget_hold or (None, None)
    return RevisionTarget(history, desired, active, target, last_good, cause, seconds, fetches)


def _meanwhile(history: History, active: str | None, last_good: Revision | None) -> Revision | None:
    """What runs while a model is being fetched: what runs now, unless it is known to be bad."""
    runs = history.get(active)
    if runs is None or runs.state is State.REJECTED:
        runs = last_good or runs
    return None if runs is None or runs.waits else runs


def own_deployment(observation: Observation) -> Manifest | None:
    """The Deployment, if it is the parent's own."""
    live = observation.deployment
    return live if live is not None and controls(observation.parent, live) else None


def fallback_spec(spec: LLMDeploymentSpec) -> LLMDeploymentSpec:
    """A mock that hardly anything can keep from running: the operator's own image, little memory, any node."""
    small = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}
    return LLMDeploymentSpec.model_validate(
        {
            "mode": "mock",
            "resources": small,
            "imagePullSecrets": spec.image_pull_secrets,
            "tolerations": spec.tolerations,
        }
    )


def _fallback(history: History, spec: LLMDeploymentSpec) -> Revision | None:
    if spec.rollback.fallback != "Mock":
        return None
    found = history.get(name_of(declaration(fallback_spec(spec)), history.revisions))
    return found if found is not None and found.state is State.FALLBACK else None


def _budget_hold(
    observation: Observation, spec: LLMDeploymentSpec, history: History, desired: str
) -> tuple[Cause, float] | None:
    """Why a new attempt must wait: too many rollbacks lately. Never while nothing good serves."""
    revision, last_good, deployment = history.get(desired), history.last_good(), own_deployment(observation)
    if (
        not spec.rollback.enabled
        or last_good is None
        or last_good.hash == desired
        or names.revision_of(deployment) == desired
    ):
        return None
    if revision is not None and not _needs_attempt(revision, spec):
        return None
    rollbacks = history.rollbacks(observation.now)
    serves = (deployment or {}).get("status", {}).get("availableReplicas", 0) > 0
    if len(rollbacks) < spec.rollback.max_per_hour or not serves:
        return None
    until = rollbacks[-spec.rollback.max_per_hour] + BUDGET_WINDOW
    cause = Cause(
        Reason.ROLLBACK_BUDGET_EXCEEDED,
        f"{len(rollbacks)} rollbacks within an hour: revision {desired} is not tried before {timestamp(until)}, "
        f"revision {last_good.hash} serves. To try it now raise spec.rollback.maxPerHour.",
    )
    return cause, (until - observation.now).total_seconds()


def _needs_attempt(revision: Revision, spec: LLMDeploymentSpec) -> bool:
    """Whether a recorded revision that does not run has to prove itself (again) before it may be called good."""
    if revision.state is State.REJECTED:
        return asks_again(spec, revision)
    return True
