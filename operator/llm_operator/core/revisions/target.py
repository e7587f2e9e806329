"""Which revision is to run: here a rollback is decided. Pure; the planner acts on it, the status tells it.

    declared revision          what is to run
    -----------------          --------------
    not rejected               the declared one
      its model is missing     what runs now; the declared one is fetched for (`fetches`)
      too many rollbacks       the last good one, until the budget allows another attempt (`budget_hold`)
    rejected                   the last good one: the ROLLBACK
      none was ever good       the mock, with rollback.fallback: Mock; else it stays
    rejected, but
      rollback.enabled: false  it stays

Nothing is remembered between two looks: the same records give the same answer, so that a crash at any point changes
nothing, and it cannot swing back and forth (docs/rollback.md, ADR 4).
"""

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
    """Which revision is declared, which is applied, and which is to run.

    `desired` and `active` are names; `revision` is the one to run, if anything is recorded that can; `last_good` was
    proved good last. `budget_hold` says why the declared one must wait, `budget_hold_seconds` how long. `fetches` is
    the declared one while its model has to be fetched before it can run; `revision` is then what runs meanwhile.
    """

    history: History
    desired: str
    active: str | None
    revision: Revision | None
    last_good: Revision | None
    budget_hold: Cause | None = None
    budget_hold_seconds: float | None = None
    fetches: Revision | None = None

    @property
    def declared(self) -> Revision | None:
        """The record of the declared revision."""
        return self.history.get(self.desired)


def choose_target(observation: Observation, spec: LLMDeploymentSpec, history: History | None = None) -> RevisionTarget:
    """Which revision is to run, by what is recorded: `history`, or what was observed."""
    history = read_history(observation.parent, observation.revisions) if history is None else history
    desired = name_of(declaration(spec), history.revisions)
    active = names.revision_of(own_deployment(observation))
    last_good = history.last_good()
    hold, seconds = _budget_hold(observation, spec, history, desired) or (None, None)
    revision = history.get(desired)
    if hold is not None:
        revision = last_good
    elif revision is not None and revision.state is State.REJECTED and spec.rollback.enabled:
        revision = last_good or _fallback(history, spec) or revision
    fetches = None
    if revision is not None and revision.needs_model:
        fetches = revision if revision.hash == desired else None
        revision = _meanwhile(history, active, last_good)
    return RevisionTarget(history, desired, active, revision, last_good, hold, seconds, fetches)


def _meanwhile(history: History, active: str | None, last_good: Revision | None) -> Revision | None:
    """What runs while a model is being fetched: what runs now, unless it is known to be bad."""
    runs = history.get(active)
    if runs is None or runs.state is State.REJECTED:
        runs = last_good or runs
    return None if runs is None or runs.needs_model else runs


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
