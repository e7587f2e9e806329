"""When a revision must prove itself, and the verdict that such an attempt begins with. Pure; used by the planner.

A new revision is a candidate: its first attempt. A rejected one is tried again only when that is asked for (a fresh
spec.rollback.retryToken, easier terms of the roll-out, other terms of its fetch). One that was good, and was replaced
since, proves itself anew.
"""

from dataclasses import replace
from datetime import timedelta

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.observation import Observation, Settings
from llm_operator.core.revisions.declaration import declaration
from llm_operator.core.revisions.history import recent
from llm_operator.core.revisions.revision import Revision, asks_again, is_fresh, is_rendered_so
from llm_operator.core.revisions.state import State, Verdict
from llm_operator.core.revisions.target import RevisionTarget
from llm_operator.core.revisions.verdict import suffices

# A candidate that was recorded this long before it is applied was left aside meanwhile: its time begins anew.
LEFT_ASIDE = timedelta(seconds=10)


def first_attempt(observation: Observation, spec: LLMDeploymentSpec, number: int = 1) -> Verdict:
    """The verdict that an attempt begins with; with no replicas its time does not run yet."""
    since = observation.now if spec.replicas else None
    return Verdict(
        State.CANDIDATE,
        attempt=number,
        started_at=since,
        progress_at=since,
        retry_token=spec.rollback.retry_token,
        terms=declaration(spec).terms,
        suffices=suffices(observation, spec) if since else None,
    )


def another_attempt(observation: Observation, spec: LLMDeploymentSpec, revision: Revision) -> Verdict:
    """The same for a revision that is known: an attempt more, unless the last one was never judged."""
    again = 0 if revision.state in (State.CANDIDATE, State.FALLBACK) else 1
    verdict = first_attempt(observation, spec, revision.verdict.attempt + again)
    return replace(verdict, rollbacks=recent(revision.verdict.rollbacks, observation.now))


def is_to_be_rendered_anew(
    observation: Observation, spec: LLMDeploymentSpec, settings: Settings, revision: Revision
) -> bool:
    """Whether a retry is asked for, and the operator would render the pods otherwise today.

    What is wrong may be the operator's: the image that it was installed with. What was never rejected stays as it
    was proved, or is being tried.
    """
    token = spec.rollback.retry_token
    tried = revision.state is State.CANDIDATE and is_fresh(token, revision.verdict)
    asked = tried or (revision.state is State.REJECTED and asks_again(spec, revision))
    return asked and not is_rendered_so(observation.parent, spec, settings, revision)


def must_prove_itself(
    observation: Observation, spec: LLMDeploymentSpec, revision: Revision, target: RevisionTarget
) -> bool:
    """Whether an attempt of the declared revision begins: one is asked for, or something else runs now."""
    if revision.state is State.REJECTED:
        return asks_again(spec, revision)
    if target.active == revision.hash and revision.state is not State.FALLBACK:
        return False
    if (
        revision.needs_model
        and revision.state is State.CANDIDATE
        and observation.parent.status.get("desiredRevision") in (None, revision.hash)
    ):
        # It is not left aside, its model is being fetched. On other terms that is tried anew.
        begins = revision.verdict.started_at is None or declaration(spec).terms != revision.terms
        return begins and spec.replicas > 0
    if revision.state is State.CANDIDATE:
        started = revision.verdict.started_at
        return spec.replicas > 0 and (started is None or observation.now - started > LEFT_ASIDE)
    return revision is not target.last_good
